//! An oplog that rolled over while nobody read it: an honest gap, and never a silent one.

use anyhow::Result;
use bson::doc;
use tests::mongod::{Node, ReplicaSet};
use tests::wait::{self, Deadline};

use crate::common::{Follower, newest};

/// Writes until this member has lost what it had.
pub(crate) fn roll_over(set: &ReplicaSet, node: &Node) -> Result<()> {
    let oldest = |node: &Node| -> Result<bson::Timestamp> {
        let found = node.run("local", doc! { "find": "oplog.rs", "limit": 1 })?;
        let first = found.get_document("cursor")?.get_array("firstBatch")?[0].clone();
        Ok(first.as_document().expect("an entry").get_timestamp("ts")?)
    };
    let newest = node.hello()?.get_document("lastWrite")?.get_document("opTime")?.clone();
    let newest = newest.get_timestamp("ts")?;
    let text = "x".repeat(1 << 20);
    wait::until(&Deadline::seconds(180), "the oplog to roll over", || {
        let update = doc! { "q": { "_id": 1 }, "u": { "_id": 1, "text": &text }, "upsert": true };
        set.run("fill", doc! { "update": "c", "updates": [update] })?;
        let update = doc! { "q": { "_id": 1 }, "u": { "_id": 1 } };
        set.run("fill", doc! { "update": "c", "updates": [update] })?;
        Ok((oldest(node)? > newest).then_some(()))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_oplog_that_rolled_over_meanwhile_is_a_gap_that_says_so() -> Result<()> {
    let set = ReplicaSet::builder(1).oplog_mb(8).start()?;
    let mut follower = Follower::start(&set.url()).await?;
    set.run("test", doc! { "insert": "c", "documents": [{ "_id": 1 }] })?;
    follower.reach(newest(set.primary()?).await?).await?;
    let before = follower.stop().await?;
    let end = before.taken.lock().expect("nobody panics").end(before.first.ts);
    roll_over(&set, &set.nodes()[0])?;
    let mut follower = Follower::again(&set.url(), &before).await?;
    set.run("test", doc! { "insert": "c", "documents": [{ "_id": 2 }] })?;
    follower.reach(newest(set.primary()?).await?).await?;
    let follower = follower.stop().await?;
    follower.assert_is_oplog_of(set.primary()?)?;
    let taken = follower.taken.lock().expect("nobody panics");
    // Removal goes on beside us: what was just found may be gone when it is read.
    let gap = taken.gaps.first().expect("a gap");
    assert_eq!(Some(gap.last), end.last.map(|last| last.at));
    assert_eq!(gap.from.offset, end.next);
    for gap in &taken.gaps {
        assert!(gap.to > gap.from && gap.first > gap.last, "{gap:?}");
        assert!(gap.reason.contains(&gap.last.to_string()), "{gap:?}");
    }
    // What was left was kept: the log goes on with the oldest entry that was there.
    let gap = taken.gaps.last().expect("the same or another");
    assert_eq!(gap.to.offset.0, taken.start);
    assert_eq!(taken.entries()[0].get_timestamp("ts")?, gap.first.ts.into());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_that_lost_the_entry_is_no_gap_while_another_has_it() -> Result<()> {
    // The first member, which is preferred, forgets soon; the others do not.
    let set = ReplicaSet::builder(3).oplog_mb_of(0, 8).prefer(0).start()?;
    let mut follower = Follower::start(&set.url()).await?;
    set.run("test", doc! { "insert": "c", "documents": [{ "_id": 1 }] })?;
    follower.reach(newest(set.primary()?).await?).await?;
    let before = follower.stop().await?;
    let forgetful = &set.nodes()[0];
    roll_over(&set, forgetful)?;
    let mut follower = Follower::again(&set.url(), &before).await?;
    follower.reach(newest(set.primary()?).await?).await?;
    let follower = follower.stop().await?;
    let other = &set.nodes()[1];
    assert!(follower.assert_is_oplog_of(other)? > 10);
    let taken = follower.taken.lock().expect("nobody panics");
    assert_eq!(taken.gaps, []);
    Ok(())
}
