//! Time from commit to durable in the store, under `pgbench -c 8`, seen by somebody who only looks
//! into the archive.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, ensure};
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
    let (mut waiting, mut taken) = (VecDeque::<(Instant, Lsn)>::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs(SECONDS);
    while Instant::now() < until || !waiting.is_empty() {
        if Instant::now() < until {
            client.batch_execute("INSERT INTO sampled VALUES (1)").await?;
            let committed = Instant::now();
            let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
            waiting.push_back((committed, row.get::<_, String>(0).parse()?));
        }
        let durable = end.now();
        while waiting.front().is_some_and(|(_, lsn)| *lsn <= durable) {
            let (committed, _) = waiting.pop_front().expect("it was looked at");
            taken.push(committed.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    load.stop()?;
    taken.sort();
    ensure!(taken.len() > 1000, "only {} samples", taken.len());
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize];
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!("{} commits, --flush 1s, pgbench -c 8", taken.len());
    println!("| p50 | p99 | max |\n|---|---|---|");
    println!("| {} ms | {} ms | {} ms |", p50.as_millis(), p99.as_millis(), max.as_millis());
    ensure!(p99 <= P99_MAX, "p99 is {} ms, {} are promised", p99.as_millis(), P99_MAX.as_millis());
    Ok(())
}
