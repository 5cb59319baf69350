//! Two sidecars on one archive of a replica set: one writes, the other waits, nothing is written
//! over, and what both wrote is restored.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use proto::archive::ledger::Event;
use proto::segment::{Hash, TailKind};
use tests::archive::Archive;
use tests::mongod::{Load, ReplicaSet, blocking};
use tests::programs::{Pitrd, pitr, wait_for_status};
use tests::wait::Deadline;
use tests::{fetch, scratch::Folder};

use super::kills::await_flow;
use crate::flow::mongodb::{archived, moment, program};
use crate::flow::oplog_capture::{await_archived, more};

pub(super) fn source() -> Result<ReplicaSet> {
    let window = ("minSnapshotHistoryWindowInSeconds", "3600");
    ReplicaSet::builder(1).oplog_mb(990).parameter(window.0, window.1).start()
}

pub(super) fn sidecar(set: &ReplicaSet, archive: &Archive, more: &[&str]) -> Result<Pitrd> {
    let flush = ["--flush", "100ms"];
    let builder = Pitrd::builder(&set.url(), archive.url()).args(flush);
    builder.args(more.iter().copied()).start()
}

/// The first writer, its base complete.
pub(super) fn protected(set: &ReplicaSet, archive: &Archive) -> Result<Pitrd> {
    let first = sidecar(set, archive, &[])?;
    wait_for_status(archive.url(), &[], "a base", &Deadline::seconds(300), |status| {
        status["bases"].as_array().is_some_and(|bases| !bases.is_empty())
    })?;
    Ok(first)
}

/// What lies in the archive, by key.
pub(super) fn objects(archive: &Archive) -> Result<BTreeMap<String, Hash>> {
    let mut found = BTreeMap::new();
    for key in archive.keys("lineage/")? {
        // A tail may go while it is listed: its segment is sealed, or it was merged.
        if let Ok(bytes) = archive.get(&key) {
            found.insert(key, Hash::of(&bytes));
        }
    }
    Ok(found)
}

pub(super) fn assert_nothing_was_written_over(
    before: &BTreeMap<String, Hash>,
    archive: &Archive,
) -> Result<()> {
    let after = objects(archive)?;
    for (key, hash) in before {
        match after.get(key) {
            Some(now) => ensure!(now == hash, "{key} was written over"),
            None => ensure!(key.contains("/tail/"), "{key} is gone"),
        }
    }
    Ok(())
}

/// The archive holds the member's own log, verifies, and gives back what the set has now.
fn assert_whole(set: &ReplicaSet, archive: &Archive) -> Result<()> {
    let client = set.client()?;
    let last = blocking(moment::last_write(&client))?;
    let expected = blocking(moment::contents(&client, Some(last)))?;
    let held = await_archived(set, archive)?;
    println!("{}", held.assert_is_of(set.primary()?)?);
    ensure!(held.gaps == 0, "{} gaps", held.gaps);
    pitr(&["verify", "--archive", archive.url(), "--read-data"])?.ok()?;
    let folder = Folder::new("two-writers")?;
    let into = folder.path().join("data").display().to_string();
    let (at, mongod) = (archived::text(last), fetch::mongod::usual()?.display().to_string());
    let restore = ["restore", "--archive", archive.url(), "--at", &at, "--into", &into];
    pitr(&[&restore[..], &["--mongod", &mongod]].concat())?.ok()?;
    let differences = moment::differences(&expected, &program::of_folder(&into)?);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}

pub(super) fn writers(archive: &Archive) -> Result<usize> {
    let is_writer = |event: &Event| matches!(event, Event::Writer { .. });
    Ok(archive.ledger()?.iter().filter(|event| is_writer(event)).count())
}

/// The fences in the chains that are there.
pub(super) fn fences(archive: &Archive) -> Result<usize> {
    archive.ask(async |store| {
        let lineage = *proto::archive::ends::lineages(store).await?.last().context("a lineage")?;
        let mut fences = 0;
        for name in store.folders(&lineage.tails()).await? {
            let chain = proto::archive::chain::follow(store, lineage, &name).await?;
            let fence = |link: &&proto::archive::chain::Link| link.header.kind == TailKind::Fence;
            fences += chain.links.iter().filter(fence).count();
        }
        Ok(fences)
    })
}

#[test]
fn whoever_takes_over_the_archive_of_a_set_fences_the_writer_before_under_load() -> Result<()> {
    let (set, archive) = (source()?, Archive::in_folder()?);
    let load = Load::start(&set, 2)?;
    let mut first = protected(&set, &archive)?;
    await_flow(&mut first)?;
    let before = objects(&archive)?;
    let mut second = sidecar(&set, &archive, &["--take-over"])?;
    first.wait_for_log("fenced", &Deadline::seconds(120))?;
    first.wait_for_log("another sidecar wrote this archive", &Deadline::seconds(120))?;
    first.wait_state("fenced", &Deadline::seconds(60))?;
    second.wait_state("streaming", &Deadline::seconds(120))?;
    let between = objects(&archive)?;
    more(&load, 500)?;
    await_flow(&mut second)?;
    ensure!(first.is_running(), "a fenced one waits");
    ensure!(first.log().matches("continuing").count() == 1, "{}", first.log());
    ensure!(load.stop().failed == 0, "the load has ended");
    ensure!((writers(&archive)?, fences(&archive)? >= 1) == (2, true), "no fence");
    assert_whole(&set, &archive)?;
    assert_nothing_was_written_over(&before, &archive)?;
    assert_nothing_was_written_over(&between, &archive)
}

#[test]
fn a_second_sidecar_of_a_set_waits_beside_a_living_one_and_goes_on_behind_its_end() -> Result<()> {
    let (set, archive) = (source()?, Archive::in_folder()?);
    let load = Load::start(&set, 1)?;
    let mut first = protected(&set, &archive)?;
    let mut second = sidecar(&set, &archive, &[])?;
    second.wait_for_log("another sidecar wrote this archive", &Deadline::seconds(120))?;
    second.wait_state("waiting", &Deadline::seconds(60))?;
    // Longer than a dead writer is given.
    std::thread::sleep(std::time::Duration::from_secs(40));
    let said = second.log();
    ensure!(!said.contains("continuing"), "it took over from a living one:\n{said}");
    ensure!(!first.log().contains("fenced"), "{}", first.log());
    await_flow(&mut first)?;
    let before = objects(&archive)?;
    first.kill9()?;
    second.wait_for_log("continuing", &Deadline::seconds(400))?;
    await_flow(&mut second)?;
    load.stop();
    assert_whole(&set, &archive)?;
    assert_nothing_was_written_over(&before, &archive)
}
