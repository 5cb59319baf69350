//! Elections, kills, frozen members, a rollback: whoever is the primary, the log is one.

use std::time::Duration;

use anyhow::Result;
use bson::{Bson, Document, doc};
use tests::mongod::{Load, Node, ReplicaSet};
use tests::scope::scale;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{self, Deadline};

use crate::common::{Follower, more, newest};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_the_primary_steps_down_dies_or_stands_still() -> Result<()> {
    let set = ReplicaSet::three()?;
    let mut follower = Follower::start(&set.url()).await?;
    let load = Load::start(&set, 2)?;
    for _ in 0..scale(1, 10) {
        more(&load, 100)?;
        set.step_down()?;
        more(&load, 100)?;
        let victim = set.primary()?;
        victim.kill9()?;
        more(&load, 100)?;
        victim.start()?;
        set.await_members(&Deadline::seconds(120))?;
        let frozen = set.primary()?;
        frozen.pause()?;
        wait::until(&Deadline::seconds(120), "another primary", || {
            Ok(set.nodes().iter().find(|node| node.port() != frozen.port() && node.is_primary()))
        })?;
        frozen.resume()?;
        set.await_members(&Deadline::seconds(120))?;
        more(&load, 100)?;
    }
    load.stop();
    set.await_members(&Deadline::seconds(120))?;
    follower.reach(newest(set.primary()?).await?).await?;
    let follower = follower.stop().await?;
    let count = follower.assert_is_oplog_of(set.primary()?)?;
    assert!(count > 400, "{count}");
    assert!(follower.taken.lock().expect("nobody panics").gaps.is_empty());
    Ok(())
}

/// A connection string may name one host, and that host may go for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_set_is_followed_when_the_only_host_that_the_address_names_is_gone() -> Result<()> {
    let set = ReplicaSet::three()?;
    let named = set.primary()?;
    let url = format!("mongodb://{}/?replicaSet={}", named.host(), set.name());
    let mut follower = Follower::start(&url).await?;
    let load = Load::start(&set, 1)?;
    more(&load, 50)?;
    follower.reach(newest(set.primary()?).await?).await?;
    named.kill9()?;
    more(&load, 50)?;
    load.stop();
    let primary = set.primary()?;
    follower.reach(newest(primary).await?).await?;
    let follower = follower.stop().await?;
    assert!(follower.assert_is_oplog_of(primary)? > 100);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_set_that_restarts_under_us_is_followed_again() -> Result<()> {
    let set = ReplicaSet::single()?;
    let mut follower = Follower::start(&set.url()).await?;
    for (round, kill) in [true, false, true].into_iter().enumerate() {
        let node = &set.nodes()[0];
        let round = i32::try_from(round)?;
        set.run("test", doc! { "insert": "c", "documents": [{ "_id": round }] })?;
        if kill {
            node.kill9()?
        } else {
            node.stop()?
        }
        node.start()?;
        set.await_members(&Deadline::seconds(120))?;
    }
    set.run("test", doc! { "insert": "c", "documents": [{ "_id": 99 }] })?;
    follower.reach(newest(set.primary()?).await?).await?;
    let follower = follower.stop().await?;
    follower.assert_is_oplog_of(set.primary()?)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_network_that_cuts_swallows_or_delays_loses_nothing() -> Result<()> {
    let set = ReplicaSet::single()?;
    let proxy = TcpProxy::start(set.nodes()[0].port())?;
    let url = format!("mongodb://127.0.0.1:{}/?directConnection=true", proxy.port());
    let mut follower = Follower::start(&url).await?;
    let load = Load::start(&set, 2)?;
    let faults = [
        Behaviour::Cut,
        Behaviour::CutAfterDown(200_000),
        Behaviour::Latency(Duration::from_millis(30)),
        Behaviour::Blackhole,
    ];
    for fault in faults {
        proxy.set(fault);
        more(&load, 100)?;
        if fault == Behaviour::Blackhole {
            // Nothing tells of it but silence: it is given up by our own patience.
            let connections = proxy.connections();
            wait::until(&Deadline::seconds(180), "another connection", || {
                Ok((proxy.connections() > connections).then_some(()))
            })?;
        }
        proxy.set(Behaviour::Pass);
        follower.reach(newest(set.primary()?).await?).await?;
    }
    load.stop();
    assert!(proxy.faults() > 3, "{}", proxy.faults());
    follower.reach(newest(set.primary()?).await?).await?;
    let follower = follower.stop().await?;
    assert!(follower.assert_is_oplog_of(set.primary()?)? > 400);
    assert_eq!(follower.taken.lock().expect("nobody panics").gaps, []);
    Ok(())
}

/// Stops or starts a member's following of the primary, while it goes on voting for it.
fn follows(node: &Node, follows: bool) -> Result<i64> {
    let mode = if follows { "off" } else { "alwaysOn" };
    let set = doc! { "configureFailPoint": "stopReplProducer", "mode": mode };
    let answer = node.run("admin", set)?;
    Ok(answer.get_i64("count").or_else(|_| answer.get_i32("count").map(i64::from))?)
}

fn insert(id: &str, w: impl Into<Bson>) -> Document {
    let concern = doc! { "w": w.into(), "wtimeout": 60_000 };
    doc! { "insert": "c", "documents": [{ "_id": id }], "writeConcern": concern }
}

fn has(node: &Node, id: &str) -> Result<bool> {
    let found = node.run("test", doc! { "find": "c", "filter": { "_id": id } })?;
    Ok(!found.get_document("cursor")?.get_array("firstBatch")?.is_empty())
}

/// The primary writes while nobody follows it, and dies. What it wrote was never in the set's
/// log, and is rolled back when it comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_rolled_back_was_never_captured() -> Result<()> {
    let set = ReplicaSet::builder(3).test_commands().start()?;
    let mut follower = Follower::start(&set.url()).await?;
    let old = set.primary()?;
    old.run("test", insert("kept", "majority"))?;
    let others: Vec<_> = set.nodes().iter().filter(|node| node.port() != old.port()).collect();
    let before: Vec<i64> = others.iter().map(|node| follows(node, false)).collect::<Result<_>>()?;
    old.run("test", insert("perhaps", 1))?;
    for (node, before) in others.iter().zip(before) {
        let entered = doc! {
            "waitForFailPoint": "stopReplProducer", "timesEntered": before + 1, "maxTimeMS": 60_000,
        };
        node.run("admin", entered)?;
    }
    old.run("test", insert("lost", 1))?;
    assert!(has(old, "lost")?);
    // Long enough for a cursor without majority read concern to see it.
    let beats = follower.state.beats();
    wait::until(&Deadline::seconds(120), "some signs of life", || {
        Ok((follower.state.beats() > beats + 4).then_some(()))
    })?;
    for node in &others {
        assert!(!has(node, "lost")?, "it was followed after all");
    }
    old.kill9()?;
    for node in &others {
        follows(node, true)?;
    }
    let new = set.primary()?;
    assert_ne!(new.port(), old.port());
    new.run("test", insert("after", "majority"))?;
    old.start()?;
    set.await_members(&Deadline::seconds(120))?;
    wait::until(&Deadline::seconds(120), "the rollback", || {
        // While it rolls back it answers nobody.
        let follows = has(old, "after").unwrap_or(false);
        Ok((follows && !has(old, "lost").unwrap_or(true)).then_some(()))
    })?;
    follower.reach(newest(new).await?).await?;
    let follower = follower.stop().await?;
    follower.assert_is_oplog_of(new)?;
    let entries = follower.taken.lock().expect("nobody panics").entries();
    let ids: Vec<&str> = entries
        .iter()
        .filter_map(|entry| entry.get_document("o").ok()?.get_str("_id").ok())
        .collect();
    assert!(ids.contains(&"kept") && ids.contains(&"after") && !ids.contains(&"lost"), "{ids:?}");
    assert_eq!(follower.taken.lock().expect("nobody panics").gaps, []);
    Ok(())
}
