//! A base that is not what the source had is found by the first entry that does not fit it, whatever
//! that entry does; and what an insert would fill in stays as it was.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use proto::mongodb::{Documents, Entry, Op, OplogTs};
use proto::segment::{Codec, Hash, read_frames};
use replay::target::mongodb::ReplayError;
use tests::mongod::{ReplicaSet, blocking};

use super::moment;
use super::restored::{self, Taken};

/// Writes the base's documents of a collection anew, as `change` leaves them.
fn alter(taken: &mut Taken, name: &str, change: impl FnOnce(&mut Vec<Document>)) -> Result<()> {
    let (lineage, id) = (taken.from.lineage, taken.from.id.clone());
    let file = |object: &str| {
        taken.folder.path().join(Path::new(lineage.base_object(&id, object).as_str()))
    };
    let collection = taken.base.collections.iter_mut().find(|found| found.name == name);
    let mut objects =
        collection.context("the collection")?.pieces.iter_mut().flat_map(|p| &mut p.objects);
    let (object, rest) = (objects.next().context("an object")?, objects.next());
    ensure!(rest.is_none(), "a small collection has one object");
    let path = file(&object.object);
    let raw = read_frames(&std::fs::read(&path)?, u64::MAX)?;
    let mut documents = Documents::new(&raw)
        .map(|found| Ok(Document::try_from(found?.1.to_owned())?))
        .collect::<Result<Vec<_>>>()?;
    change(&mut documents);
    let mut raw = Vec::new();
    for document in &documents {
        raw.extend_from_slice(RawDocumentBuf::try_from(document)?.as_bytes());
    }
    let stored = Codec::default().compress(&raw)?;
    std::fs::remove_file(&path)?;
    std::fs::write(&path, &stored)?;
    object.bytes = stored.len() as u64;
    (object.raw_bytes, object.hash) = (raw.len() as u64, Hash::of(&raw));
    object.documents = documents.len() as u64;
    Ok(())
}

/// Restores a base that was altered, which must end with an error; and the entry of this kind that
/// the log has of `shop.a` and document 2.
fn ends(
    command: Document,
    kind: Op<'static>,
    change: fn(&mut Vec<Document>),
) -> Result<ReplayError> {
    let source = ReplicaSet::single()?;
    let documents: Vec<_> = (0..20).map(|n| doc! { "_id": n, "n": n }).collect();
    source.run("shop", doc! { "insert": "a", "documents": &documents })?;
    source.run("shop", doc! { "delete": "a", "deletes": [{ "q": { "_id": 5 }, "limit": 1 }] })?;
    let client = source.client()?;
    let mut taken = blocking(restored::base(&client))?;
    // Others before and behind, so that a batch holds more than the one that does not fit.
    let others = |from: i32| (from..from + 5).map(|n| doc! { "_id": n }).collect::<Vec<_>>();
    source.run("shop", doc! { "insert": "a", "documents": others(100) })?;
    source.run("shop", command)?;
    source.run("shop", doc! { "insert": "a", "documents": others(200) })?;
    let until = blocking(moment::last_write(&client))?;
    let log = restored::log(source.primary()?, &taken.base)?;
    // Without the change it fits.
    let target = ReplicaSet::single()?;
    blocking(restored::restore(&target.client()?, &taken, &log, until))?;
    let mut expected = None;
    for document in Documents::new(&log) {
        let entry = Entry::read(document?.1)?;
        let id = entry.o.get_i32("_id").ok();
        if entry.op == kind && entry.ns == "shop.a" && matches!(id, Some(2 | 5)) {
            expected = Some(entry.at.ts);
        }
    }
    alter(&mut taken, "a", change)?;
    let target = ReplicaSet::single()?;
    let failed = blocking(restored::restore(&target.client()?, &taken, &log, until));
    let error: ReplayError = failed.err().context("it was restored")?.downcast()?;
    let at: Option<OplogTs> = match &error {
        ReplayError::Miss { at, .. } | ReplayError::There { at, .. } => Some(*at),
        _ => None,
    };
    ensure!(at == expected && at.is_some(), "{expected:?}: {error}");
    Ok(error)
}

#[test]
fn a_delete_of_what_the_base_lacks_ends_the_restore_and_is_named() -> Result<()> {
    let delete = doc! { "delete": "a", "deletes": [{ "q": { "_id": 2 }, "limit": 1 }] };
    let error = ends(delete, Op::Delete, |documents| {
        documents.retain(|document| document.get_i32("_id").ok() != Some(2));
    })?;
    let ReplayError::Miss { namespace, operation, .. } = &error else {
        anyhow::bail!("another error: {error}")
    };
    ensure!(namespace == "shop.a" && operation.contains("\"op\": \"d\""), "{error}");
    Ok(())
}

#[test]
fn an_insert_of_what_the_base_has_ends_the_restore_and_is_named() -> Result<()> {
    let insert = doc! { "insert": "a", "documents": [{ "_id": 5, "again": true }] };
    let error = ends(insert, Op::Insert, |documents| {
        documents.push(doc! { "_id": 5, "should": "not be here" });
    })?;
    let ReplayError::There { namespace, operation, .. } = &error else {
        anyhow::bail!("another error: {error}")
    };
    ensure!(namespace == "shop.a" && operation.contains("again"), "{error}");
    Ok(())
}

#[test]
fn empty_timestamps_are_restored_as_they_were() -> Result<()> {
    let source =
        ReplicaSet::builder(1).parameter("minSnapshotHistoryWindowInSeconds", "3600").start()?;
    let empty = Timestamp { time: 0, increment: 0 };
    let write = |collection: &str| -> Result<()> {
        let documents =
            vec![doc! { "_id": 1, "a": 1, "b": 2 }, doc! { "_id": 2, "b": { "t": empty } }];
        source.run("shop", doc! { "insert": collection, "documents": documents })?;
        let set =
            |id: i32| doc! { "q": { "_id": id }, "u": { "$set": { "a": empty, "z": empty } } };
        source.run("shop", doc! { "update": collection, "updates": [set(1), set(2)] })?;
        Ok(())
    };
    write("before")?;
    let client = source.client()?;
    let taken = blocking(restored::base(&client))?;
    write("behind")?;
    // Into another database: its documents are inserted there as they are.
    source.run("admin", doc! { "renameCollection": "shop.behind", "to": "attic.behind" })?;
    let until = blocking(moment::last_write(&client))?;
    let expected = blocking(moment::contents(&client, Some(until)))?;
    let held = expected.collections["attic.behind"].documents.clone();
    let held = held.into_iter().map(RawDocumentBuf::from_bytes).collect::<Result<Vec<_>, _>>()?;
    ensure!(
        held.iter().any(|found| found.get_timestamp("a").ok() == Some(empty)),
        "the source fills them in"
    );
    let log = restored::log(source.primary()?, &taken.base)?;
    let target = ReplicaSet::single()?;
    blocking(restored::restore(&target.client()?, &taken, &log, until))?;
    let found = blocking(moment::contents(&target.client()?, None))?;
    let differences = moment::differences(&expected, &found);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
