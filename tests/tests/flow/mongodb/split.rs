//! An event of more than 16 MB, such as an update of a large document that keeps images, comes in fragments
//! where the server can send them so, and is a gap where it cannot.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Timestamp, doc};
use proto::archive::ledger::Event as Ledger;
use proto::mongodb::Event;
use rand::Rng;
use tests::archive::Archive;
use tests::mongod::{ArchivedOplog, Builder, ReplicaSet, blocking};
use tests::programs::{Pitrd, PitrdBuilder, pitr};
use tests::scope;
use tests::wait::{self, Deadline};

use super::archived;
use super::moment;
use crate::faults::kills::await_flow;

/// An update is told by what it set and by its result: twice this is more than a document may hold.
const TEXT: usize = 9 << 20;

fn with_images(builder: Builder) -> Result<ReplicaSet> {
    let source = builder.parameter("minSnapshotHistoryWindowInSeconds", "3600").start()?;
    let images = doc! { "enabled": true };
    source.run("large", doc! { "create": "c", "changeStreamPreAndPostImages": images })?;
    let documents = (0..3).map(|id| doc! { "_id": id, "text": "small" }).collect::<Vec<_>>();
    source.run("large", doc! { "insert": "c", "documents": documents })?;
    Ok(source)
}

fn grow(source: &ReplicaSet, id: i32, letter: &str) -> Result<()> {
    let change = doc! { "$set": { "text": letter.repeat(TEXT), format!("of_{letter}"): id } };
    let update = doc! { "q": { "_id": id }, "u": change };
    let answer = source.run("large", doc! { "update": "c", "updates": [update] })?;
    ensure!(answer.get_i32("nModified")? == 1, "{answer}");
    Ok(())
}

fn protected(source: &ReplicaSet, archive: &Archive) -> Result<Pitrd> {
    let sidecar = PitrdBuilder::default()
        .args(["run", "--archive", archive.url(), "--source-mode", "change-stream"])
        .args(["--flush", "100ms"])
        .env("PITR_SOURCE", &source.url())
        .start()?;
    await_bases(archive, 1)?;
    Ok(sidecar)
}

fn await_bases(archive: &Archive, count: usize) -> Result<()> {
    wait::until(&Deadline::seconds(300), "a base", || {
        let status = pitr(&["status", "--archive", archive.url(), "--json"])?.json().ok();
        let whole = |status: serde_json::Value| {
            let bases = status["bases"].as_array().map_or(0, Vec::len);
            (bases >= count && status["protected"] == true).then_some(())
        };
        Ok(status.and_then(whole))
    })
}

/// What the source holds now, once the archive has it too.
fn archived_now(source: &ReplicaSet, archive: &Archive) -> Result<(Timestamp, moment::Contents)> {
    let client = source.client()?;
    let at = blocking(moment::last_write(&client))?;
    let contents = blocking(moment::contents(&client, Some(at)))?;
    let text = archived::text(at);
    wait::until(&Deadline::seconds(300), "the moment in the archive", || {
        let plan = pitr(&["plan", "--archive", archive.url(), "--at", &text, "--json"])?;
        Ok((plan.code == Some(0)).then_some(()))
    })?;
    Ok((at, contents))
}

fn assert_restored(archive: &Archive, at: Timestamp, contents: &moment::Contents) -> Result<()> {
    let target = ReplicaSet::single()?;
    let (at, into) = (archived::text(at), target.primary()?.url());
    pitr(&["restore", "--archive", archive.url(), "--at", &at, "--into", &into, "--json"])?.ok()?;
    let found = blocking(moment::contents(&target.client()?, None))?;
    let differences = moment::differences(contents, &found);
    ensure!(differences.is_empty(), "{differences}");
    pitr(&["verify", "--archive", archive.url(), "--read-data"])?.ok()?;
    Ok(())
}

/// How many events came in more than one fragment; every fragment must be there, in order, once.
fn fragmented(archive: &Archive) -> Result<usize> {
    let archived = ArchivedOplog::of(archive)?;
    ensure!(archived.gaps == 0, "{} gaps", archived.gaps);
    let (mut whole, mut expected) = (0, None);
    for entry in &archived.entries {
        let fragment = Event::read(entry)?.fragment;
        ensure!(expected.is_none() || fragment == expected, "{fragment:?} for {expected:?}");
        ensure!(
            expected.is_some() || fragment.is_none_or(|(number, _)| number == 1),
            "{fragment:?}"
        );
        expected = fragment.and_then(|(number, of)| (number < of).then_some((number + 1, of)));
        whole += usize::from(fragment.is_some_and(|(number, of)| number == of));
    }
    ensure!(expected.is_none(), "{expected:?} is missing");
    Ok(whole)
}

#[test]
fn events_in_fragments_are_archived_whole_through_kills_and_restored_exactly() -> Result<()> {
    let source = with_images(ReplicaSet::builder(1).oplog_mb(900).splitting())?;
    let archive = Archive::in_folder()?;
    let mut sidecar = protected(&source, &archive)?;
    let rounds = scope::scale(4, 26);
    for letter in (b'a'..=b'z').map(|letter| char::from(letter).to_string()).take(rounds) {
        for id in 0..3 {
            grow(&source, id, &letter)?;
        }
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..600)));
        sidecar.kill9()?;
        sidecar.start()?;
        await_flow(&mut sidecar)?;
    }
    let (at, contents) = archived_now(&source, &archive)?;
    let fragmented = fragmented(&archive)?;
    ensure!(fragmented == 3 * rounds, "{fragmented} events came in fragments");
    ensure!(sidecar.is_running(), "{}", sidecar.log());
    assert_restored(&archive, at, &contents)
}

#[test]
fn an_event_that_the_server_cannot_send_is_a_gap_and_what_follows_is_restored() -> Result<()> {
    let source = with_images(ReplicaSet::builder(1))?;
    let version = source.run("admin", doc! { "buildInfo": 1 })?;
    let version = version.get_array("versionArray")?.iter();
    let version: Vec<i32> = version.filter_map(bson::Bson::as_i32).collect();
    let splits = version >= vec![6, 0, 9];
    let archive = Archive::in_folder()?;
    let sidecar = protected(&source, &archive)?;
    grow(&source, 1, "a")?;
    if !splits {
        await_bases(&archive, 2)?;
    }
    source.run("large", doc! { "insert": "c", "documents": [{ "_id": "behind" }] })?;
    let (at, contents) = archived_now(&source, &archive)?;
    let gaps = archive.ledger()?.into_iter().filter(|event| matches!(event, Ledger::Gap { .. }));
    let gaps: Vec<Ledger> = gaps.collect();
    ensure!(gaps.len() == usize::from(!splits), "{gaps:?}");
    ensure!(splits || format!("{gaps:?}").contains("more than 16 MB"), "{gaps:?}");
    drop(sidecar);
    let documents = contents.collections.get("large.c").map(|found| found.documents.len());
    ensure!(documents == Some(4), "{documents:?}");
    assert_restored(&archive, at, &contents)
}
