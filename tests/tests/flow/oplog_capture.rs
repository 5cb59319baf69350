//! `pitrd run` of a replica set: what `zstd -d` gives is the oplog, byte for byte.

use anyhow::{Context, Result, ensure};
use bson::{Timestamp, doc};
use proto::mongodb::OplogTs;
use tests::archive::Archive;
use tests::mongod::{ArchivedOplog, Load, Node, ReplicaSet};
use tests::programs::{self, PitrdBuilder};
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::{self, Deadline};

/// The newest entry that the primary knows a majority to have.
pub(crate) fn newest(node: &Node) -> Result<OplogTs> {
    let hello = node.hello()?;
    let place = hello.get_document("lastWrite")?.get_document("majorityOpTime")?;
    Ok(place.get_timestamp("ts")?.into())
}

/// Waits until the archive holds everything that the set had committed by now.
pub(crate) fn await_archived(set: &ReplicaSet, archive: &Archive) -> Result<ArchivedOplog> {
    // Noops of an idle server are handed on once a minute, so something else follows them.
    let concern = doc! { "w": "majority" };
    let last = doc! { "insert": "last", "documents": [{}], "writeConcern": concern };
    set.run("test", last)?;
    let newest = newest(set.primary()?)?;
    wait::until(&Deadline::seconds(180), "the archive to hold everything", || {
        let archived = ArchivedOplog::of(archive)?;
        Ok(archived.last().is_some_and(|last| last >= newest).then_some(archived))
    })
}

/// `pitrd run` without bases, whose source stands in a variable.
pub(crate) fn pitrd(url: &str, archive: &Archive) -> PitrdBuilder {
    PitrdBuilder::default()
        .args(["run", "--no-base", "--archive", archive.url()])
        .env("PITR_SOURCE", url)
        .envs(archive.environment())
}

pub(crate) fn more(load: &Load, operations: u64) -> Result<()> {
    let before = load.written().done;
    wait::until(&Deadline::seconds(180), "the load to go on", || {
        Ok((load.written().done >= before + operations).then_some(()))
    })
}

fn captured(set: &ReplicaSet, url: &str, archive: &Archive, codec: &str) -> Result<()> {
    let mut pitrd = pitrd(url, archive).args(["--compression", codec]).start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    let load = Load::start(set, 2)?;
    more(&load, scope::scale(500, 20_000))?;
    for id in 0..3 {
        let large = doc! { "_id": id, "text": "x".repeat((16 << 20) - 100) };
        set.run("large", doc! { "insert": "c", "documents": [large] })?;
    }
    more(&load, scope::scale(200, 20_000))?;
    load.stop();
    let archived = await_archived(set, archive)?;
    let found = archived.assert_is_of(set.primary()?)?;
    ensure!(archived.gaps == 0 && archived.sealed >= 2, "{archived:?}");
    ensure!(pitrd.sigterm(&Deadline::seconds(60))?.success(), "{}", pitrd.log());
    println!("{codec} {}: {found}", archive.url());
    Ok(())
}

#[test]
fn zstd_gives_the_entries_of_the_oplog_from_a_folder_with_every_codec() -> Result<()> {
    let set = ReplicaSet::single()?;
    for codec in ["zstd:3", "lz4", "none"] {
        captured(&set, &set.url(), &Archive::in_folder()?, codec)?;
        set.run("large", doc! { "drop": "c" })?;
    }
    Ok(())
}

/// The user and its password stand in a variable, and its rights are those of the role `backup`.
#[test]
fn zstd_gives_the_entries_of_the_oplog_of_three_members_with_least_rights_on_s3() -> Result<()> {
    let set = ReplicaSet::builder(3).auth().start()?;
    set.create_user("sidecar", "of-its-own", &["backup"])?;
    let url = set.url_of(Some(("sidecar", "of-its-own")));
    let seaweed = Seaweed::shared()?;
    captured(&set, &url, &Archive::on_s3(seaweed, "oplog/three"), "zstd:3")
}

#[test]
fn a_password_of_mongodb_on_the_command_line_is_refused_and_never_repeated() -> Result<()> {
    let archive = Archive::in_folder()?;
    let url = "mongodb://sidecar:hushhush@127.0.0.1:1/?replicaSet=rs0";
    let arguments = ["run", "--once", "--source", url, "--archive", archive.url()];
    let output = programs::pitrd(&arguments)?.code_is(2)?;
    ensure!(!output.stderr.contains("hushhush"), "{}", output.stderr);
    Ok(())
}

#[test]
fn once_makes_durable_what_the_set_has_now_and_takes_up_there_the_next_time() -> Result<()> {
    let set = ReplicaSet::single()?;
    let archive = Archive::in_folder()?;
    let spool = tests::scratch::Folder::new("spool")?;
    let spool = spool.path().display().to_string();
    let mut count = 0;
    for round in 0..3 {
        let many = (0..50).map(|n| doc! { "_id": round * 50 + n }).collect::<Vec<_>>();
        let concern = doc! { "w": "majority" };
        set.run("test", doc! { "insert": "c", "documents": many, "writeConcern": concern })?;
        let newest = newest(set.primary()?)?;
        let arguments =
            ["run", "--once", "--no-base", "--archive", archive.url(), "--spool", &spool];
        let source = [("PITR_SOURCE".to_owned(), set.url())];
        programs::run("pitrd", &arguments, &source)?.ok()?;
        let archived = ArchivedOplog::of(&archive)?;
        ensure!(archived.last().is_some_and(|last| last >= newest), "{:?}", archived.last());
        archived.assert_is_of(set.primary()?)?;
        ensure!(archived.entries.len() > count, "round {round} added nothing");
        count = archived.entries.len();
    }
    Ok(())
}

#[test]
fn an_oplog_that_rolled_over_while_pitrd_was_away_is_a_gap_in_the_ledger() -> Result<()> {
    let set = ReplicaSet::builder(1).oplog_mb(8).start()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = pitrd(&set.url(), &archive).start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    let before = await_archived(&set, &archive)?;
    pitrd.kill9()?;
    let node = set.primary()?;
    let text = "x".repeat(1 << 20);
    let start = newest(node)?;
    wait::until(&Deadline::seconds(180), "the oplog to roll over", || {
        for text in [text.as_str(), ""] {
            let update =
                doc! { "q": { "_id": 1 }, "u": { "_id": 1, "text": text }, "upsert": true };
            set.run("fill", doc! { "update": "c", "updates": [update] })?;
        }
        let oldest = node.run("local", doc! { "find": "oplog.rs", "limit": 1 })?;
        let oldest = oldest.get_document("cursor")?.get_array("firstBatch")?[0].clone();
        let oldest: Timestamp = oldest.as_document().context("an entry")?.get_timestamp("ts")?;
        Ok((OplogTs::from(oldest) > start).then_some(()))
    })?;
    pitrd.start()?;
    let after = await_archived(&set, &archive)?;
    ensure!(after.gaps >= 1 && before.gaps == 0, "{} gaps", after.gaps);
    // What was there before is still there, and what follows the gap is the server's.
    ensure!(after.entries.starts_with(&before.entries), "the archive lost what it had");
    let own = node.oplog(Timestamp { time: 0, increment: 0 })?;
    let last = after.last().context("it has a last entry")?;
    let behind = &after.entries[before.entries.len()..];
    let common = own.iter().filter(|own| behind.contains(own)).count();
    ensure!(
        common > 0
            && own
                .iter()
                .any(|own| own.get_timestamp("ts").is_ok_and(|ts| OplogTs::from(ts) == last))
    );
    let gaps = archive
        .ledger()?
        .into_iter()
        .filter(|event| matches!(event, proto::archive::ledger::Event::Gap { .. }));
    let gaps: Vec<_> = gaps.collect();
    ensure!(gaps.len() == after.gaps, "{gaps:?}, and {} in the log", after.gaps);
    Ok(())
}
