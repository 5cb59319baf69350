//! Time from a write that the majority has to durable in the store, under writers of every kind,
//! seen by somebody who only looks into the archive.

use std::time::Duration;

use anyhow::Result;
use benches::oplog::DATABASE;
use benches::waiting::Waiting;
use benches::watch::OplogEnd;
use bson::doc;
use proto::mongodb::OplogTs;
use tests::mongod::{Load, ReplicaSet};
use tests::programs::Pitrd;
use tests::scratch::Folder;
use tests::wait::Deadline;
use tokio::time::Instant;

const SECONDS: u64 = 60;
const WRITERS: usize = 8;
const P99_MAX: Duration = Duration::from_millis(1500);

#[tokio::main]
async fn main() -> Result<()> {
    let set = ReplicaSet::single()?;
    let folder = Folder::new("oplog-rpo")?;
    let archive = folder.path().join("archive");
    let mut pitrd = Pitrd::builder(&set.url(), &archive.display().to_string())
        .args(["--flush", "1s"])
        .start()?;
    pitrd.wait_for_log("base complete", &Deadline::seconds(120))?;
    let load = Load::start(&set, WRITERS)?;
    let database = set.primary()?.client()?.database(DATABASE);
    let mut end = OplogEnd::new(&archive);
    let mut waiting = Waiting::<OplogTs>::default();
    let until = Instant::now() + Duration::from_secs(SECONDS);
    while Instant::now() < until || !waiting.is_done() {
        if Instant::now() < until {
            let concern = doc! { "w": "majority" };
            let insert =
                doc! { "insert": "sampled", "documents": [{ "n": 1 }], "writeConcern": concern };
            let answer = database.run_command(insert).await?;
            waiting.committed(Instant::now(), answer.get_timestamp("operationTime")?.into());
        }
        waiting.durable(&end.now());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let written = load.stop();
    println!("{} other operations", written.done);
    waiting.report(&format!("{WRITERS} writers"), P99_MAX)
}
