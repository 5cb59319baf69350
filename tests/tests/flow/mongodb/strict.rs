//! A replay that stops rather than guess, and one that goes on where it was stopped.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::doc;
use proto::mongodb::{Documents, Entry, Op};
use replay::target::mongodb::ReplayError;
use tests::mongod::{Load, ReplicaSet, blocking};
use tests::scope;
use tests::wait::{self, Deadline};

use super::workload::{self, Workload};
use super::{moment, restored};

#[test]
fn an_entry_that_does_not_fit_ends_the_replay_and_is_named() -> Result<()> {
    let source = ReplicaSet::single()?;
    let client = source.client()?;
    let taken = blocking(restored::base(&client))?;
    source
        .run("shop", doc! { "insert": "a", "documents": [{ "_id": 1, "n": 0 }, { "_id": 2 }] })?;
    let update = doc! { "q": { "_id": 1 }, "u": { "$set": { "n": 1 } } };
    source.run("shop", doc! { "update": "a", "updates": [update] })?;
    // Enough for several batches behind it.
    let many: Vec<_> = (10..4_000).map(|id| doc! { "_id": id }).collect();
    source.run("shop", doc! { "insert": "a", "documents": many })?;
    let until = blocking(moment::last_write(&client))?;
    let log = restored::log(source.primary()?, &taken.base)?;
    // The log without the insert of the document that is updated.
    let (mut broken, mut updated) = (Vec::new(), None);
    for document in Documents::new(&log) {
        let (_, raw) = document?;
        let entry = Entry::read(raw)?;
        let of_one = entry.ns == "shop.a" && entry.o.get_i32("_id").ok() == Some(1);
        if entry.op == Op::Update && entry.ns == "shop.a" {
            updated = Some(entry.at.ts);
        }
        if !(entry.op == Op::Insert && of_one) {
            broken.extend_from_slice(raw.as_bytes());
        }
    }
    ensure!(broken.len() < log.len(), "the insert was not found");
    let target = ReplicaSet::single()?;
    let failed = blocking(restored::restore(&target.client()?, &taken, &broken, until));
    let error = failed.err().context("a document is missing")?;
    let Some(ReplayError::Miss { at, namespace, .. }) = error.downcast_ref() else {
        return Err(error.context("another error was expected"));
    };
    ensure!((Some(*at), namespace.as_str()) == (updated, "shop.a"), "{error}");
    // Neither the batch that it stands in nor any behind it was applied.
    let left = target.run("shop", doc! { "count": "a" })?.get_i32("n")?;
    ensure!(left == 0, "{left} documents");
    Ok(())
}

fn is_whole(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ReplayError::NotEmpty { .. }))
}

#[test]
fn a_target_that_is_killed_again_and_again_is_restored_in_the_end() -> Result<()> {
    let source = workload::source(1)?;
    let work = Workload { client: source.client()? };
    blocking(work.begin())?;
    let load = Load::start(&source, 2)?;
    let taken = blocking(restored::base(&work.client))?;
    blocking(async {
        work.documents().await?;
        work.catalog().await?;
        work.names().await?;
        work.transactions().await?;
        work.churn(20).await
    })?;
    let enough = u64::try_from(scope::scale(20_000, 100_000))?;
    wait::until(&Deadline::seconds(scope::scale(300, 1800)), "a log that takes a while", || {
        Ok((load.written().done > enough).then_some(()))
    })?;
    drop(load);
    let until = blocking(moment::last_write(&work.client))?;
    let expected = blocking(moment::contents(&work.client, Some(until)))?;
    let log = restored::log(source.primary()?, &taken.base)?;

    let target = ReplicaSet::builder(1).parameter("ttlMonitorEnabled", "false").start()?;
    let mut kills = 0;
    // Each run gets further than the one before it, so that there is an end.
    for round in 1.. {
        let client = target.client()?;
        let patience = Duration::from_millis(150 * round);
        let run = restored::restore(&client, &taken, &log, until);
        let run = blocking(async { tokio::time::timeout(patience, run).await });
        match run {
            // Killed between the end, when the progress goes, and the word of it: it was whole, as is
            // seen below.
            Ok(Err(error)) if kills > 0 && is_whole(&error) => break,
            Ok(done) => {
                done?;
                break;
            }
            Err(_) => {
                target.nodes()[0].kill9()?;
                target.nodes()[0].start()?;
                target.primary()?;
                kills += 1;
            }
        }
    }
    ensure!(kills > 2, "it was killed {kills} times only");
    let found = blocking(moment::contents(&target.client()?, None))?;
    let differences = moment::differences(&expected, &found);
    ensure!(differences.is_empty(), "{differences}");
    println!("killed {kills} times, {} bytes of log", log.len());
    Ok(())
}
