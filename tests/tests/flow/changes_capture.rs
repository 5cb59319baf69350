//! `pitrd run --source-mode change-stream`: the archive holds the very events that the server sends,
//! whatever happens to the sidecar, or says that it does not.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::doc;
use proto::archive::ledger::Event as Ledger;
use proto::mongodb::{Event, OplogTs};
use rand::Rng;
use tests::archive::Archive;
use tests::mongod::{ArchivedOplog, Load, Node, ReplicaSet};
use tests::programs::{self, PitrdBuilder, pitr};
use tests::scope;
use tests::seaweed::Seaweed;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{self, Deadline};

use super::oplog_capture::{more, newest};
use crate::faults::kills::await_flow;

const MODE: [&str; 2] = ["--source-mode", "change-stream"];

fn pitrd(url: &str, archive: &Archive) -> PitrdBuilder {
    super::oplog_capture::pitrd(url, archive).args(MODE)
}

/// Waits until the archive holds an event that is written now.
pub(crate) fn await_archived(set: &ReplicaSet, archive: &Archive) -> Result<ArchivedOplog> {
    let concern = doc! { "w": "majority" };
    let last = doc! { "insert": "last", "documents": [{}], "writeConcern": concern };
    let at = OplogTs::from(set.run("test", last)?.get_timestamp("operationTime")?);
    wait::until(&Deadline::seconds(180), "the archive to hold everything", || {
        let archived = ArchivedOplog::of(archive)?;
        let holds = match archived.entries.last() {
            Some(last) => Event::read(last)?.at >= at,
            None => false,
        };
        Ok(holds.then_some(archived))
    })
}

#[test]
fn the_events_of_a_change_stream_are_archived_as_they_are_sent_through_kills() -> Result<()> {
    let set = ReplicaSet::single()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = pitrd(&set.url(), &archive).args(["--flush", "100ms"]).start()?;
    let load = Load::start(&set, 2)?;
    let kills = scope::scale(6, 30);
    for _ in 0..kills {
        await_flow(&mut pitrd)?;
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..400)));
        pitrd.kill9()?;
        pitrd.start()?;
    }
    await_flow(&mut pitrd)?;
    load.stop();
    // Idle for a while: its own notes come, and the stream goes on behind one of them.
    let noted = await_archived(&set, &archive)?;
    wait::until(&Deadline::seconds(60), "a note that the stream is whole", || {
        let last = ArchivedOplog::of(&archive)?.entries.last().cloned();
        let is_note = last.map(|last| Event::read(&last).map(|event| event.is_note()));
        Ok(is_note.transpose()?.filter(|note| *note).map(|_| ()))
    })?;
    pitrd.kill9()?;
    pitrd.start()?;
    let archived = await_archived(&set, &archive)?;
    ensure!(archived.entries.len() > noted.entries.len() + 1, "nothing came behind the note");
    let found = archived.assert_is_the_change_stream_of(set.primary()?)?;
    ensure!(archived.gaps == 0, "{} gaps", archived.gaps);
    println!("{kills} kills: {found}");
    // What it does not carry is said at the start and in the status.
    ensure!(pitrd.log().contains("does not carry users"), "{}", pitrd.log());
    let status = pitr(&["status", "--archive", archive.url(), "--json"])?.ok()?.json()?;
    ensure!(status["source_mode"] == "change-stream", "{status}");
    ensure!(status["not_carried"].as_array().is_some_and(|all| all.len() > 3), "{status}");
    pitr(&["verify", "--archive", archive.url(), "--read-data"])?.ok()?;
    // The oplog does not continue it.
    ensure!(pitrd.sigterm(&Deadline::seconds(60))?.success(), "{}", pitrd.log());
    let source = [("PITR_SOURCE".to_owned(), set.url())];
    let spool = pitrd.spool()?.display().to_string();
    let other = ["run", "--once", "--no-base", "--archive", archive.url(), "--spool", &spool];
    let refused = programs::run("pitrd", &other, &source)?.code_is(4)?;
    ensure!(refused.stderr.contains("--source-mode change-stream"), "{}", refused.stderr);
    programs::run("pitrd", &[&other[..], &MODE].concat(), &source)?.ok()?;
    Ok(())
}

#[test]
fn a_change_stream_goes_on_at_another_member_across_elections_and_deaths() -> Result<()> {
    let set = ReplicaSet::three()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = pitrd(&set.url(), &archive).start()?;
    let load = Load::start(&set, 2)?;
    await_flow(&mut pitrd)?;
    set.step_down()?;
    more(&load, 50)?;
    await_flow(&mut pitrd)?;
    // The member that is read from, whichever that is, goes without a word, and stays away a while.
    let victim = set.primary()?;
    victim.kill9()?;
    more(&load, 50)?;
    await_flow(&mut pitrd)?;
    victim.start()?;
    set.await_members(&Deadline::seconds(120))?;
    load.stop();
    let archived = await_archived(&set, &archive)?;
    let found = archived.assert_is_the_change_stream_of(set.primary()?)?;
    ensure!(archived.gaps == 0, "{} gaps", archived.gaps);
    println!("{found}");
    Ok(())
}

#[test]
fn a_change_stream_needs_no_right_on_local_and_check_names_each_that_is_missing() -> Result<()> {
    let set = ReplicaSet::builder(1).auth().start()?;
    let archive = Archive::in_folder()?;
    let user = |name: &str, roles: Vec<bson::Document>| {
        set.run("admin", doc! { "createUser": name, "pwd": "of-its-own", "roles": roles })
    };
    let any = doc! { "role": "readAnyDatabase", "db": "admin" };
    user("enough", vec![any.clone(), doc! { "role": "read", "db": "config" }])?;
    user("no_config", vec![any])?;
    user("one_database", vec![doc! { "role": "read", "db": "shop" }])?;
    let check = |name: &str| {
        let source = set.url_of(Some((name, "of-its-own")));
        let arguments = [&["check", "--archive", archive.url()][..], &MODE].concat();
        programs::run("pitrd", &arguments, &[("PITR_SOURCE".to_owned(), source)])
    };
    let enough = check("enough")?.ok()?;
    ensure!(enough.stdout.contains("does not carry users"), "{}", enough.stdout);
    let refused = check("no_config")?.code_is(3)?;
    ensure!(
        refused.stdout.contains("may not list the collections of config"),
        "{}",
        refused.stdout
    );
    ensure!(refused.stdout.matches("may not ").count() == 1, "{}", refused.stdout);
    let refused = check("one_database")?.code_is(3)?;
    ensure!(refused.stdout.contains("may not open a change stream"), "{}", refused.stdout);
    // And it is enough for log and base.
    set.run("shop", doc! { "insert": "orders", "documents": [{ "_id": 1 }] })?;
    let source = set.url_of(Some(("enough", "of-its-own")));
    let mut pitrd = PitrdBuilder::default()
        .args(["run", "--archive", archive.url()])
        .args(MODE)
        .env("PITR_SOURCE", &source)
        .start()?;
    wait::until(&Deadline::seconds(180), "a base", || {
        ensure!(pitrd.is_running(), "{}", pitrd.log());
        let status = pitr(&["status", "--archive", archive.url(), "--json"])?.json().ok();
        Ok(status.filter(|status| status["protected"] == true).map(|_| ()))
    })?;
    await_archived(&set, &archive)?.assert_is_the_change_stream_of(set.primary()?)?;
    Ok(())
}

/// Fills the oplog until it has forgotten this time.
fn roll_over(node: &Node, set: &ReplicaSet, start: OplogTs) -> Result<()> {
    let text = "x".repeat(1 << 20);
    wait::until(&Deadline::seconds(180), "the oplog to roll over", || {
        for text in [text.as_str(), ""] {
            let update =
                doc! { "q": { "_id": 1 }, "u": { "_id": 1, "text": text }, "upsert": true };
            set.run("fill", doc! { "update": "c", "updates": [update] })?;
        }
        let oldest = node.oplog(bson::Timestamp { time: 0, increment: 0 })?;
        let oldest = oldest.first().map(|entry| entry.get_timestamp("ts")).transpose()?;
        Ok(oldest.is_some_and(|oldest| OplogTs::from(oldest) > start).then_some(()))
    })
}

fn gaps(archive: &Archive) -> Result<Vec<Ledger>> {
    let ledger = archive.ledger()?.into_iter();
    Ok(ledger.filter(|event| matches!(event, Ledger::Gap { .. })).collect())
}

#[test]
fn a_change_stream_whose_history_is_lost_is_a_gap_with_a_new_base() -> Result<()> {
    let set = ReplicaSet::builder(1).oplog_mb(8).start()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = PitrdBuilder::default()
        .args(["run", "--archive", archive.url()])
        .args(MODE)
        .env("PITR_SOURCE", &set.url())
        .start()?;
    let bases = |count: usize| {
        wait::until(&Deadline::seconds(180), "a base", || {
            let status = pitr(&["status", "--archive", archive.url(), "--json"])?.json().ok();
            let status = status.filter(|status| {
                status["bases"].as_array().is_some_and(|all| all.len() == count)
                    && status["protected"] == true
            });
            Ok(status)
        })
    };
    bases(1)?;
    let before = await_archived(&set, &archive)?;
    pitrd.kill9()?;
    let node = set.primary()?;
    roll_over(node, &set, newest(node)?)?;
    pitrd.start()?;
    let status = bases(2)?;
    let after = await_archived(&set, &archive)?;
    ensure!(after.gaps == 1 && before.gaps == 0, "{} gaps", after.gaps);
    ensure!(after.entries.starts_with(&before.entries), "the archive lost what it had");
    let told = gaps(&archive)?;
    ensure!(told.len() == 1, "{told:?}");
    ensure!(status["windows"].as_array().is_some_and(|all| all.len() == 2), "{status}");
    pitr(&["verify", "--archive", archive.url(), "--read-data"])?.ok()?;
    Ok(())
}

#[test]
fn a_collection_that_convert_to_capped_makes_anew_is_recorded_and_a_new_base_holds_it() -> Result<()>
{
    let set = ReplicaSet::single()?;
    let archive = Archive::in_folder()?;
    let many = (0..50).map(|n| doc! { "_id": n }).collect::<Vec<_>>();
    set.run("shop", doc! { "insert": "big", "documents": many })?;
    let mut pitrd = PitrdBuilder::default()
        .args(["run", "--archive", archive.url()])
        .args(MODE)
        .env("PITR_SOURCE", &set.url())
        .start()?;
    let mut status = |bases: usize| {
        wait::until(&Deadline::seconds(180), "a base", || {
            ensure!(pitrd.is_running(), "{}", pitrd.log());
            let status = pitr(&["status", "--archive", archive.url(), "--json"])?.json().ok();
            let complete = |status: &serde_json::Value| {
                status["bases"].as_array().is_some_and(|all| all.len() == bases)
                    && status["protected"] == true
            };
            Ok(status.filter(complete))
        })
    };
    let before = status(1)?;
    ensure!(before["lacks"].as_array().is_some_and(Vec::is_empty), "{before}");
    set.run("shop", doc! { "convertToCapped": "big", "size": 100_000 })?;
    let after = status(2)?;
    let lacks = after["lacks"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(lacks.len() == 1 && lacks[0]["collection"] == "shop.big", "{after}");
    ensure!(lacks[0]["until"] == after["bases"][1]["stop"], "{after}");
    let told = pitr(&["status", "--archive", archive.url()])?.ok()?.stdout;
    ensure!(told.contains("LACKS    shop.big from "), "{told}");
    // The log says that it is whole up to there when the stream has been quiet for a while.
    let until = lacks[0]["until"].as_str().unwrap_or_default();
    wait::until(&Deadline::seconds(60), "the moment in the archive", || {
        let plan = pitr(&["plan", "--archive", archive.url(), "--at", until, "--json"])?;
        Ok((plan.code == Some(0)).then_some(()))
    })?;
    let target = ReplicaSet::single()?;
    let into = target.primary()?.url();
    let restore = ["restore", "--archive", archive.url(), "--at", until, "--into", &into, "--json"];
    let report = pitr(&restore)?.ok()?.json()?;
    ensure!(report["not_exact"].as_array().is_some_and(Vec::is_empty), "{report}");
    let count = target.run("shop", doc! { "count": "big" })?.get_i32("n")?;
    ensure!(count == 50, "{count} documents");
    pitr(&["verify", "--archive", archive.url(), "--read-data"])?.ok()?;
    Ok(())
}

#[test]
fn a_loss_that_a_kill_came_before_is_in_the_ledger_all_the_same() -> Result<()> {
    let set = ReplicaSet::single()?;
    let seaweed = Seaweed::shared()?;
    let (proxy, prefix) = (TcpProxy::start(seaweed.port())?, "changes-loss");
    let archive = Archive::on_s3(seaweed, prefix).via(seaweed, proxy.port(), prefix);
    set.run("shop", doc! { "insert": "big", "documents": [{ "_id": 1 }] })?;
    let mut pitrd = pitrd(&set.url(), &archive)
        .args(["--flush", "100ms"])
        .envs(archive.environment())
        .start()?;
    await_flow(&mut pitrd)?;
    proxy.set(Behaviour::Blackhole);
    set.run("shop", doc! { "convertToCapped": "big", "size": 100_000 })?;
    pitrd.wait_for_metrics("the event", &Deadline::seconds(60), |metrics| {
        metrics.sum("pitr_inexact_events_total") >= Some(1.0)
    })?;
    // What is taken in is on the local disk soon.
    std::thread::sleep(Duration::from_secs(1));
    pitrd.kill9()?;
    ensure!(proxy.faults() > 0, "the store was never away");
    let before = archive.ledger()?;
    ensure!(!before.iter().any(|event| matches!(event, Ledger::NotCarried { .. })), "{before:?}");
    proxy.set(Behaviour::Pass);
    pitrd.start()?;
    await_archived(&set, &archive)?;
    wait::until(&Deadline::seconds(60), "the loss in the ledger", || {
        let lost = |event: &Ledger| matches!(event, Ledger::NotCarried { collection, .. } if collection == "shop.big");
        Ok(archive.ledger()?.iter().any(lost).then_some(()))
    })
}
