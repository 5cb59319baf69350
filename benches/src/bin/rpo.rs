//! Time from commit to durable in the store, under `pgbench -c 8`, seen by somebody who only looks
//! into the archive.

use std::time::Duration;

use anyhow::Result;
use benches::waiting::Waiting;
use benches::watch::ArchiveEnd;
use proto::postgres::lsn::{Lsn, SegmentSize};
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::scratch::Folder;
use tests::wait::Deadline;
use tokio::time::Instant;

const SECONDS: u64 = 60;
const P99_MAX: Duration = Duration::from_millis(1500);

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::start_new(15)?;
    cluster.pgbench_init("postgres", 10)?;
    let folder = Folder::new("rpo")?;
    let archive = folder.path().join("archive");
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), &archive.display().to_string())
        .args(["--flush", "1s"])
        .start()?;
    pitrd.wait_for_log("base complete", &Deadline::seconds(120))?;
    let load = cluster.pgbench_start("postgres", 8)?;
    let client = cluster.connect("postgres").await?;
    client.batch_execute("CREATE TABLE sampled (n int)").await?;
    let mut end = ArchiveEnd::new(&archive, SegmentSize::DEFAULT);
    let mut waiting = Waiting::<Lsn>::default();
    let until = Instant::now() + Duration::from_secs(SECONDS);
    while Instant::now() < until || !waiting.is_done() {
        if Instant::now() < until {
            client.batch_execute("INSERT INTO sampled VALUES (1)").await?;
            let committed = Instant::now();
            let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
            waiting.committed(committed, row.get::<_, String>(0).parse()?);
        }
        waiting.durable(&end.now());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    load.stop()?;
    waiting.report("pgbench -c 8", P99_MAX)
}
