//! What is captured is what the members have, byte for byte.

use anyhow::{Context, Result};
use bson::{Document, doc};
use tests::mongod::{Load, ReplicaSet};
use tests::scope::scale;
use tests::wait::{self, Deadline};

use crate::common::{Follower, more, newest};

/// Twenty inserts of a megabyte: the server splits that into several oplog entries.
async fn large_transaction(set: &ReplicaSet) -> Result<()> {
    let client = set.client()?;
    let collection = client.database("large").collection::<Document>("c");
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    for id in 0..20 {
        let one = doc! { "_id": id, "text": "x".repeat(1 << 20) };
        collection.insert_one(one).session(&mut session).await?;
    }
    Ok(session.commit_transaction().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_captured_under_load_is_the_oplog_byte_for_byte() -> Result<()> {
    let set = ReplicaSet::single()?;
    let mut follower = Follower::start(&set.url()).await?;
    let load = Load::start(&set, 3)?;
    more(&load, scale(1_000, 20_000))?;
    // The largest document that there is, and an entry that is larger still.
    let largest = doc! { "_id": 1, "text": "x".repeat((16 << 20) - 100) };
    set.run("large", doc! { "insert": "one", "documents": [largest] })?;
    large_transaction(&set).await?;
    more(&load, scale(500, 20_000))?;
    load.stop();
    let primary = set.primary()?;
    follower.reach(newest(primary).await?).await?;
    let follower = follower.stop().await?;
    let count = follower.assert_is_oplog_of(primary)?;
    assert!(count > 1_000, "{count}");
    let taken = follower.taken.lock().expect("nobody panics");
    assert!(taken.begun.len() >= 3, "segments of 16 MiB: {:?}", taken.begun);
    assert!(taken.gaps.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_capture_that_begins_again_proves_the_entry_that_it_had_and_goes_on() -> Result<()> {
    let set = ReplicaSet::single()?;
    let load = Load::start(&set, 2)?;
    let mut follower = Follower::start(&set.url()).await?;
    for round in 1..=scale(4, 20) {
        more(&load, 100)?;
        follower.reach(newest(set.primary()?).await?).await?;
        let before = follower.stop().await?;
        follower = Follower::again(&set.url(), &before).await?;
        more(&load, 50)?;
        follower.reach(newest(set.primary()?).await?).await?;
        assert!(follower.taken.lock().expect("nobody panics").again > 0, "round {round}");
    }
    load.stop();
    let follower = follower.stop().await?;
    follower.assert_is_oplog_of(set.primary()?)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_secondary_gives_the_log_of_the_set_with_the_backup_role_alone() -> Result<()> {
    let set = ReplicaSet::builder(3).auth().start()?;
    set.create_user("sidecar", "of-its-own", &["backup"])?;
    let user = Some(("sidecar", "of-its-own"));
    let secondary = *set.secondaries().first().context("two follow")?;
    let mut of_secondary = Follower::start(&secondary.url_of(user)).await?;
    let preferred = format!("{}&readPreference=secondary", set.url_of(user));
    let mut of_set = Follower::start(&preferred).await?;
    let load = Load::start(&set, 2)?;
    more(&load, 500)?;
    load.stop();
    let newest = newest(set.primary()?).await?;
    for follower in [&mut of_secondary, &mut of_set] {
        follower.reach(newest).await?;
    }
    let (of_secondary, of_set) = (of_secondary.stop().await?, of_set.stop().await?);
    for follower in [of_secondary, of_set] {
        assert!(follower.assert_is_oplog_of(set.primary()?)? > 500);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_set_is_proved_complete_without_a_piece_for_each_noop() -> Result<()> {
    let set = ReplicaSet::builder(3).parameter("periodicNoopIntervalSecs", "1").start()?;
    let follower = Follower::start(&set.url()).await?;
    let marks = || follower.taken.lock().expect("nobody panics").marks.clone();
    // A new set writes this and that before it is idle.
    wait::until(&Deadline::seconds(180), "seconds of proof without a piece of log", || {
        let marks = marks();
        let Some(last) = marks.last() else { return Ok(None) };
        let first = marks.iter().find(|mark| mark.offset == last.offset);
        Ok(first.filter(|first| last.clock.seconds_since(first.clock) > 4.0).map(drop))
    })?;
    // All of it is there in the end, and in its order.
    set.run("test", doc! { "insert": "c", "documents": [{ "_id": 1 }] })?;
    let mut follower = follower;
    follower.reach(newest(set.primary()?).await?).await?;
    let follower = follower.stop().await?;
    assert!(follower.assert_is_oplog_of(set.primary()?)? >= 5);
    Ok(())
}
