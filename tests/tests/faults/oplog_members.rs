//! What becomes of a set's archive when its oplog rolls over, when its primary's writes are rolled
//! back, and when another set's sidecar is pointed at it.

use anyhow::{Context, Result, ensure};
use bson::doc;
use proto::archive::ledger::Event;
use tests::archive::Archive;
use tests::gate::Gate;
use tests::mongod::{Load, Node, ReplicaSet};
use tests::programs::{self, Pitrd, wait_for_status};
use tests::wait::{self, Deadline};

use super::oplog_writers::{protected, sidecar, writers};
use crate::flow::oplog_capture::{await_archived, more};

/// Writes until this member has lost what was newest at the beginning.
fn roll_over(set: &ReplicaSet, node: &Node) -> Result<()> {
    let end = |sort: i32| -> Result<bson::Timestamp> {
        let find = doc! { "find": "oplog.rs", "sort": { "$natural": sort }, "limit": 1 };
        let found = node.run("local", find)?;
        let first = found.get_document("cursor")?.get_array("firstBatch")?[0].clone();
        Ok(first.as_document().context("an entry")?.get_timestamp("ts")?)
    };
    let newest = end(-1)?;
    let text = "x".repeat(1 << 20);
    wait::until(&Deadline::seconds(180), "the oplog to roll over", || {
        for text in [text.as_str(), ""] {
            let update =
                doc! { "q": { "_id": 1 }, "u": { "_id": 1, "text": text }, "upsert": true };
            set.run("fill", doc! { "update": "c", "updates": [update] })?;
        }
        Ok((end(1)? > newest).then_some(()))
    })
}

fn insert(set: &ReplicaSet, id: &str) -> Result<()> {
    let concern = doc! { "w": "majority" };
    let one = doc! { "insert": "c", "documents": [{ "_id": id }], "writeConcern": concern };
    set.run("test", one).map(drop)
}

fn bases(archive: &Archive) -> Result<usize> {
    let keys = archive.keys("lineage/1/base/")?;
    Ok(keys.iter().filter(|key| key.ends_with("/complete.json")).count())
}

#[test]
fn an_oplog_that_rolled_over_is_a_recorded_gap_with_a_new_base_and_never_crossed() -> Result<()> {
    let window = ("minSnapshotHistoryWindowInSeconds", "3600");
    let set = ReplicaSet::builder(1).oplog_mb(8).parameter(window.0, window.1).start()?;
    let archive = Archive::in_folder()?;
    insert(&set, "before")?;
    let mut pitrd = protected(&set, &archive)?;
    let mut gate = Gate::new();
    gate.note(&set)?;
    insert(&set, "kept")?;
    await_archived(&set, &archive)?;
    pitrd.kill9()?;
    insert(&set, "lost")?;
    gate.note_lost(&set)?;
    roll_over(&set, set.primary()?)?;
    pitrd.start()?;
    pitrd.wait_for_log("GAP", &Deadline::seconds(120))?;
    pitrd.wait("a new base", &Deadline::seconds(300), |_| Ok(bases(&archive)? >= 2))?;
    let gaps = pitrd.metrics()?.sum("pitr_gaps_total");
    ensure!(gaps.is_some_and(|gaps| gaps >= 1.0), "{gaps:?} gaps counted");
    insert(&set, "after")?;
    gate.note(&set)?;
    insert(&set, "last")?;
    await_archived(&set, &archive)?;
    let told = |event: &Event| matches!(event, Event::Gap { reason, .. } if !reason.is_empty());
    ensure!(archive.ledger()?.iter().any(told), "no gap in the ledger");
    wait_for_status(archive.url(), &[], "two windows", &Deadline::seconds(120), |status| {
        let count = |name: &str| status[name].as_array().map_or(0, Vec::len);
        count("windows") >= 2 && count("gaps") >= 1
    })?;
    gate.pass(&set, &archive).map(drop)
}

/// Whether a member follows the others (a fail point of mongod's own tests).
fn follows(node: &Node, follows: bool) -> Result<i64> {
    let mode = if follows { "off" } else { "alwaysOn" };
    let set = doc! { "configureFailPoint": "stopReplProducer", "mode": mode };
    Ok(node.run("admin", set)?.get("count").and_then(bson::Bson::as_i64).unwrap_or(0))
}

fn has(node: &Node, id: &str) -> Result<bool> {
    let found = node.run("test", doc! { "count": "c", "query": { "_id": id } })?;
    Ok(found.get_i32("n")? > 0)
}

#[test]
fn what_an_election_rolls_back_is_never_archived_nor_restored() -> Result<()> {
    let set = ReplicaSet::builder(3).test_commands().start()?;
    let archive = Archive::in_folder()?;
    insert(&set, "kept")?;
    let mut pitrd = protected(&set, &archive)?;
    let mut gate = Gate::new();
    gate.note(&set)?;
    await_archived(&set, &archive)?;
    let old = set.primary()?;
    let others: Vec<_> = set.nodes().iter().filter(|node| node.port() != old.port()).collect();
    for node in &others {
        follows(node, false)?;
    }
    // One that may still get through, and one that does not.
    for id in ["perhaps", "lost"] {
        let one = doc! { "insert": "c", "documents": [{ "_id": id }], "writeConcern": { "w": 1 } };
        old.run("test", one)?;
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    ensure!(has(old, "lost")?, "it was not written");
    for node in &others {
        ensure!(!has(node, "lost")?, "it was followed after all");
    }
    old.kill9()?;
    for node in &others {
        follows(node, true)?;
    }
    let new = set.primary()?;
    ensure!(new.port() != old.port(), "no other primary");
    insert(&set, "after")?;
    gate.note(&set)?;
    old.start()?;
    set.await_members(&Deadline::seconds(120))?;
    // The fault: what was written is gone from the member that had it.
    wait::until(&Deadline::seconds(120), "the rollback", || {
        let follows = has(old, "after").unwrap_or(false);
        Ok((follows && !has(old, "lost").unwrap_or(true)).then_some(()))
    })?;
    insert(&set, "last")?;
    let held = await_archived(&set, &archive)?;
    ensure!(held.gaps == 0 && pitrd.is_running(), "{} gaps", held.gaps);
    let is = |wanted: &str| {
        held.entries.iter().any(|entry| {
            entry.get_document("o").is_ok_and(|o| o.get_str("_id").is_ok_and(|id| id == wanted))
        })
    };
    ensure!(is("kept") && is("after") && !is("lost"), "what was rolled back is archived");
    println!("{}", held.assert_is_of(set.primary()?)?);
    gate.pass(&set, &archive).map(drop)
}

#[test]
fn the_sidecar_of_another_set_is_refused_and_the_writer_never_notices() -> Result<()> {
    let (set, other) = (super::oplog_writers::source()?, ReplicaSet::single()?);
    let archive = Archive::in_folder()?;
    let load = Load::start(&set, 1)?;
    let first = protected(&set, &archive)?;
    let taken = writers(&archive)?;
    let mut gate = Gate::new();
    gate.note(&set)?;
    for more in [&["--take-over"][..], &["--once"], &[]] {
        let mut wrong: Pitrd = sidecar(&other, &archive, more)?;
        let status = wrong.await_exit(&Deadline::seconds(120))?;
        ensure!(status.code() == Some(6), "{more:?}: {status}: {}", wrong.log());
        ensure!(wrong.log().contains("--new-lineage"), "the way out: {}", wrong.log());
    }
    let base = ["base", "--archive", archive.url()];
    let source = [("PITR_SOURCE".to_owned(), other.url())];
    programs::run("pitrd", &base, &source)?.code_is(6)?;
    ensure!(writers(&archive)? == taken, "another set took a writer epoch");
    ensure!(bases(&archive)? == 1, "a base of another set");
    ensure!(!first.log().contains("fenced"), "{}", first.log());
    more(&load, 100)?;
    gate.note(&set)?;
    load.stop();
    gate.pass(&set, &archive).map(drop)
}
