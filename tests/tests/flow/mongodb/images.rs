//! Through a change stream an update says less than an oplog does: where fields stand, and whether a dot
//! is part of a name. A collection that keeps images of its documents tells it all.

use anyhow::{Context, Result, ensure};
use bson::{Document, Timestamp, doc};
use tests::mongod::{ReplicaSet, blocking};
use tests::programs::{self, Pitrd, pitr};
use tests::scratch::Folder;
use tests::wait::{self, Deadline};

use super::archived;
use super::moment::{self, Contents};

/// What an event alone leaves open, of documents 1 to 3: a name with a dot in it, a field that is taken
/// away and set again, and a path.
fn updates() -> Vec<Document> {
    let named = doc! { "$setField": { "field": "a.b", "input": "$$ROOT", "value": 5 } };
    vec![
        doc! { "q": { "_id": 1 }, "u": [{ "$replaceWith": named }] },
        doc! { "q": { "_id": 2 }, "u": [{ "$unset": "n" }, { "$set": { "n": 7 } }] },
        doc! { "q": { "_id": 3 }, "u": { "$set": { "a.b": 5 } } },
    ]
}

fn filled(source: &ReplicaSet, collection: &str) -> Result<()> {
    let documents = (1..=3).map(|id| doc! { "_id": id, "n": 1, "a": { "c": 1 }, "z": 2 });
    source
        .run("shop", doc! { "insert": collection, "documents": documents.collect::<Vec<_>>() })?;
    Ok(())
}

/// Updates a collection, and what is there then, once the archive has it.
fn updated(source: &ReplicaSet, archive: &str, collection: &str) -> Result<(Timestamp, Contents)> {
    let answer = source.run("shop", doc! { "update": collection, "updates": updates() })?;
    ensure!(answer.get_i32("nModified")? == 3, "{answer}");
    let client = source.client()?;
    let at = blocking(moment::last_write(&client))?;
    let contents = blocking(moment::contents(&client, Some(at)))?;
    let text = archived::text(at);
    wait::until(&Deadline::seconds(120), "the moment in the archive", || {
        let plan = pitr(&["plan", "--archive", archive, "--at", &text, "--json"])?;
        Ok((plan.code == Some(0)).then_some(()))
    })?;
    Ok((at, contents))
}

#[test]
fn updates_of_a_collection_with_images_come_back_exactly_through_a_change_stream() -> Result<()> {
    let source =
        ReplicaSet::builder(1).parameter("minSnapshotHistoryWindowInSeconds", "3600").start()?;
    let images = doc! { "enabled": true };
    source.run("shop", doc! { "create": "imaged", "changeStreamPreAndPostImages": images })?;
    filled(&source, "imaged")?;
    filled(&source, "plain")?;
    let folder = Folder::new("mongodb-images")?;
    let archive = folder.path().join("archive").display().to_string();
    let mode = ["--source-mode", "change-stream", "--no-base"];
    let mut sidecar = Pitrd::builder(&source.url(), &archive).args(mode).start()?;
    sidecar.wait_state("streaming", &Deadline::seconds(120))?;
    programs::pitrd(&["base", "--source", &source.url(), "--archive", &archive])?.ok()?;
    let (exact, contents) = updated(&source, &archive, "imaged")?;
    let (open, _) = updated(&source, &archive, "plain")?;
    ensure!(sidecar.is_running(), "{}", sidecar.log());

    let target = ReplicaSet::single()?;
    let restored = |at: Timestamp, target: &ReplicaSet| {
        let (at, into) = (archived::text(at), target.primary()?.url());
        pitr(&["restore", "--archive", &archive, "--at", &at, "--into", &into, "--json"])
    };
    let report = restored(exact, &target)?.ok()?.json()?;
    let found = blocking(moment::contents(&target.client()?, None))?;
    let differences = moment::differences(&contents, &found);
    ensure!(differences.is_empty(), "{differences}");
    let told = report["not_exact"].as_array().context("what is not exact")?;
    let of_it = |line: &&serde_json::Value| line.as_str().is_some_and(|l| l.contains("imaged"));
    ensure!(!told.iter().any(|line| of_it(&line)), "{told:?}");
    // Without images the same updates stop a restore.
    let refused = restored(open, &ReplicaSet::single()?)?.code_is(10)?.stderr;
    ensure!(refused.contains("--accept-open-paths") && refused.contains("shop.plain"), "{refused}");
    Ok(())
}
