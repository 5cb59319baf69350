//! What does not fit in memory at once is restored all the same.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use tests::mongod::{ReplicaSet, blocking};

use super::{moment, restored};

#[test]
fn a_transaction_larger_than_the_memory_for_it_is_restored_whole() -> Result<()> {
    // A server keeps what a transaction has written in its cache until it commits.
    let source = ReplicaSet::builder(1)
        .oplog_mb(990)
        .argument("--wiredTigerCacheSizeGB=3")
        .parameter("minSnapshotHistoryWindowInSeconds", "3600")
        .start()?;
    let client = source.client()?;
    source.run("shop", doc! { "create": "large" })?;
    let taken = blocking(restored::base(&client))?;
    let text = "y".repeat(3 << 20);
    blocking(async {
        let mut session = client.start_session().await?;
        session.start_transaction().await?;
        let large = client.database("shop").collection::<Document>("large");
        for n in 0..30 {
            large.insert_one(doc! { "_id": n, "text": &text }).session(&mut session).await?;
        }
        large.delete_one(doc! { "_id": 7 }).session(&mut session).await?;
        session.commit_transaction().await?;
        anyhow::Ok(())
    })?;
    let until = blocking(moment::last_write(&client))?;
    let expected = blocking(moment::contents(&client, Some(until)))?;
    let log = restored::log(source.primary()?, &taken.base)?;
    ensure!(log.len() > 80 << 20, "{} bytes of log", log.len());
    let target = ReplicaSet::single()?;
    blocking(restored::restore(&target.client()?, &taken, &log, until))?;
    let found = blocking(moment::contents(&target.client()?, None))?;
    let differences = moment::differences(&expected, &found);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
