//! All that a server's users see of it at one moment, to be compared byte by byte.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ::mongodb::Client;
use anyhow::{Context, Result};
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use futures_util::StreamExt;
use proto::mongodb::scope::{is_restored, is_restored_document};

/// A server's contents.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Contents {
    /// By namespace.
    pub(crate) collections: BTreeMap<String, Collection>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Collection {
    pub(crate) options: RawDocumentBuf,
    pub(crate) id_index: Option<Vec<u8>>,
    /// By name.
    pub(crate) indexes: BTreeMap<String, Document>,
    /// In the order of their bytes; of a capped collection in the order in which they lie.
    pub(crate) documents: Vec<Vec<u8>>,
}

/// A moment of the source, and what it had then.
#[derive(Debug)]
pub(crate) struct Moment {
    pub(crate) label: &'static str,
    pub(crate) at: Timestamp,
    pub(crate) contents: Contents,
}

async fn documents(client: &Client, db: &str, command: Document) -> Result<Vec<RawDocumentBuf>> {
    let shown = command.to_string();
    let database = client.database(db);
    let cursor = database.run_cursor_command(command).batch().await;
    let mut cursor = cursor.with_context(|| format!("{db}: {shown}"))?;
    let mut found = Vec::new();
    while let Some(batch) = cursor.next().await {
        for document in batch?.doc_slices()? {
            found.push(document?.as_document().context("a document")?.to_owned());
        }
    }
    Ok(found)
}

/// What a server has: as of `at` by snapshot reads, or now.
pub(crate) async fn contents(client: &Client, at: Option<Timestamp>) -> Result<Contents> {
    let mut contents = Contents::default();
    for db in client.list_database_names().await? {
        if !is_restored(&db, "") {
            continue;
        }
        for entry in documents(client, &db, doc! { "listCollections": 1 }).await? {
            let name = entry.get_str("name")?;
            if entry.get_str("type")? != "collection" || !is_restored(&db, name) {
                continue;
            }
            let found = collection(client, &db, name, &entry, at).await;
            let found = found.with_context(|| format!("reading {db}.{name}"))?;
            contents.collections.insert(format!("{db}.{name}"), found);
        }
    }
    Ok(contents)
}

async fn collection(
    client: &Client,
    db: &str,
    name: &str,
    entry: &RawDocumentBuf,
    at: Option<Timestamp>,
) -> Result<Collection> {
    let options = entry.get_document("options")?.to_owned();
    let capped = options.get_bool("capped").unwrap_or(false);
    let mut find = doc! { "find": name };
    match at {
        Some(at) if !capped => {
            find.insert("readConcern", doc! { "level": "snapshot", "atClusterTime": at });
        }
        _ => {
            find.insert("hint", doc! { "$natural": 1 });
        }
    }
    let mut found = Vec::new();
    for document in documents(client, db, find).await? {
        if is_restored_document(db, name, document.get_str("_id").ok()) {
            found.push(document.as_bytes().to_vec());
        }
    }
    if !capped {
        found.sort();
    }
    let mut indexes = BTreeMap::new();
    for index in documents(client, db, doc! { "listIndexes": name }).await? {
        indexes.insert(index.get_str("name")?.to_owned(), Document::try_from(index)?);
    }
    let id_index = entry.get_document("idIndex").ok().map(|index| index.as_bytes().to_vec());
    Ok(Collection { options, id_index, indexes, documents: found })
}

/// What differs, in words; empty when nothing does.
pub(crate) fn differences(expected: &Contents, found: &Contents) -> String {
    let mut told = String::new();
    let names = expected.collections.keys().chain(found.collections.keys());
    let names: std::collections::BTreeSet<_> = names.collect();
    for name in names {
        let (expected, found) = (expected.collections.get(name), found.collections.get(name));
        match (expected, found) {
            (Some(expected), Some(found)) => compare(name, expected, found, &mut told),
            (Some(_), None) => _ = writeln!(told, "{name}: is missing"),
            (None, Some(_)) => _ = writeln!(told, "{name}: should not be there"),
            (None, None) => {}
        }
    }
    told
}

fn compare(name: &str, expected: &Collection, found: &Collection, told: &mut String) {
    if expected.options != found.options || expected.id_index != found.id_index {
        _ = writeln!(told, "{name}: options {:?} instead of {:?}", found.options, expected.options);
    }
    if expected.indexes != found.indexes {
        _ = writeln!(told, "{name}: indexes {:?} instead of {:?}", found.indexes, expected.indexes);
    }
    if expected.documents == found.documents {
        return;
    }
    let (had, has) = (expected.documents.len(), found.documents.len());
    _ = writeln!(told, "{name}: {has} documents, which should be {had} and the same");
    let show = |bytes: &Vec<u8>| {
        let document = RawDocumentBuf::from_bytes(bytes.clone()).and_then(Document::try_from);
        let shown = document.map_or_else(|e| e.to_string(), |document| document.to_string());
        shown.chars().take(300).collect::<String>()
    };
    let missing = expected.documents.iter().filter(|d| !found.documents.contains(d)).take(2);
    let wrong = found.documents.iter().filter(|d| !expected.documents.contains(d)).take(2);
    for document in missing {
        _ = writeln!(told, "  missing {}", show(document));
    }
    for document in wrong {
        _ = writeln!(told, "  wrong   {}", show(document));
    }
}

/// The last write that the majority has.
pub(crate) async fn last_write(client: &Client) -> Result<Timestamp> {
    let admin = client.database("admin");
    // The majority's confirmation of a note behind it makes it readable as of a moment.
    let note = doc! {
        "appendOplogNote": 1, "data": { "msg": "moment" }, "writeConcern": { "w": "majority" },
    };
    let answer = admin.run_command(note).await?;
    answer.get_timestamp("operationTime").context("no operationTime")
}
