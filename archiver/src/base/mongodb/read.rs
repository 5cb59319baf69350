//! Reading one collection, or a range of it, as of one moment.
//!
//! Enters: which, and where its documents go. Leaves: the moment, or how far the reading came
//! before the server no longer kept it. Collections are read by UUID, so that one that was renamed
//! is followed and one that was dropped is an error; by name, either would read as empty without
//! any error (tried on 6.0.5). Who may not read by UUID reads by name, and looks before and after
//! whether the name still stands for the same collection.

use std::time::Duration;

use bson::{Binary, Bson, Document, RawDocumentBuf, doc, spec::BinarySubtype};

use proto::mongodb::OplogTs;
use proto::mongodb::base::Uuid;

use super::error::{ReadError, code};
use super::pack::Packer;
use super::server::{Server, id_of};
use crate::base::BaseError;

/// Bytes of a batch, as far as the average document tells. The driver holds each several times.
const BATCH_BYTES: u64 = 512 << 10;
const BATCH_DOCUMENTS_MAX: u64 = 10_000;
/// How long the server may need until a collection that is new can be read as of a moment.
const UNAVAILABLE_ATTEMPTS: u32 = 200;
const UNAVAILABLE_WAIT: Duration = Duration::from_millis(100);

/// What is read.
#[derive(Debug, Clone)]
pub(super) struct Range {
    pub(super) database: String,
    pub(super) name: String,
    pub(super) uuid: Uuid,
    pub(super) capped: bool,
    /// In the order of `_id`, so that what follows can be read later; otherwise as it lies.
    pub(super) by_id: bool,
    pub(super) min: Option<RawDocumentBuf>,
    pub(super) max: Option<RawDocumentBuf>,
    /// Bytes of a document, about.
    pub(super) document_bytes: u64,
}

/// How a reading ended.
#[derive(Debug)]
pub(super) enum End {
    /// All of it, as of `at`; of a capped collection up to `until`.
    Whole { at: OplogTs, until: Option<OplogTs> },
    /// The snapshot is gone. What was read up to here is good: the next range begins with the `_id`
    /// given, which is the last one read and is not in this piece.
    Cut { at: OplogTs, next: RawDocumentBuf },
    /// Nothing of it is of use: read again.
    Again(ReadError),
    /// The collection is no more.
    Gone,
}

/// Reads a range into `out`.
pub(super) async fn read(
    server: &Server,
    range: &Range,
    out: &mut Packer<'_, '_>,
) -> Result<End, BaseError> {
    let before = if range.capped { Some(server.majority_of_now().await?) } else { None };
    let mut by_name = false;
    let mut unavailable = 0;
    loop {
        if by_name && !same_name(server, range).await? {
            return Ok(End::Gone);
        }
        let end = attempt(server, range, by_name, out).await?;
        match end {
            End::Again(error) if error.code() == Some(code::UNAUTHORIZED) && !by_name => {
                by_name = true;
            }
            End::Again(error)
                if error.code() == Some(code::SNAPSHOT_UNAVAILABLE)
                    && unavailable < UNAVAILABLE_ATTEMPTS =>
            {
                unavailable += 1;
                tokio::time::sleep(UNAVAILABLE_WAIT).await;
            }
            End::Whole { .. } | End::Cut { .. } if by_name && !same_name(server, range).await? => {
                return Ok(End::Gone);
            }
            End::Whole { at, .. } => return whole(server, before, at).await,
            other => return Ok(other),
        }
    }
}

/// A capped collection gives no snapshot: what was written between before and after the reading may
/// be in it.
async fn whole(server: &Server, before: Option<OplogTs>, at: OplogTs) -> Result<End, BaseError> {
    let Some(before) = before else { return Ok(End::Whole { at, until: None }) };
    Ok(End::Whole { at: before, until: Some(server.majority_of_now().await?) })
}

async fn attempt(
    server: &Server,
    range: &Range,
    by_name: bool,
    out: &mut Packer<'_, '_>,
) -> Result<End, BaseError> {
    let what = format!("reading {}.{}", range.database, range.name);
    let command = find(range, by_name);
    let mut batches = match server.batches(&range.database, &what, command).await {
        Ok(batches) => batches,
        Err(error) => return ended(error, None, None),
    };
    let mut at = None;
    // The last document waits: when the snapshot goes, it is where the next range begins.
    let mut last: Option<RawDocumentBuf> = None;
    loop {
        let batch = match batches.next().await {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => {
                let next = last.filter(|_| range.by_id);
                let next = next.as_deref().map(id_of).transpose()?.flatten();
                return ended(error, at, next);
            }
        };
        at = at.or_else(|| batch.at_cluster_time());
        for document in batch.documents()? {
            if let Some(before) = last.replace(document?.to_owned()) {
                out.push(before.as_bytes()).await?;
            }
        }
    }
    if let Some(last) = last {
        out.push(last.as_bytes()).await?;
    }
    let missing = ReadError::Answer { what: "a snapshot read", field: "atClusterTime" };
    match at {
        Some(at) => Ok(End::Whole { at, until: None }),
        None if range.capped => Ok(End::Whole { at: OplogTs::default(), until: None }),
        // What no collection has as its name reads as empty, as of no moment.
        None if by_name => Ok(End::Gone),
        None => Err(missing.into()),
    }
}

fn ended(
    error: ReadError,
    at: Option<OplogTs>,
    next: Option<RawDocumentBuf>,
) -> Result<End, BaseError> {
    let Some(code) = error.code() else { return Err(error.into()) };
    let passing = [
        code::CURSOR_NOT_FOUND,
        code::CURSOR_KILLED,
        code::QUERY_PLAN_KILLED,
        code::SNAPSHOT_TOO_OLD,
        code::CAPPED_POSITION_LOST,
    ];
    match (code, at, next) {
        (code::NAMESPACE_NOT_FOUND, ..) => Ok(End::Gone),
        (code, Some(at), Some(next)) if passing.contains(&code) => Ok(End::Cut { at, next }),
        (code::UNAUTHORIZED | code::SNAPSHOT_UNAVAILABLE, None, _) => Ok(End::Again(error)),
        (code, ..) if passing.contains(&code) => Ok(End::Again(error)),
        _ => Err(error.into()),
    }
}

fn find(range: &Range, by_name: bool) -> Document {
    let which = if by_name {
        Bson::String(range.name.clone())
    } else {
        Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: range.uuid.0.to_vec() })
    };
    let documents = (BATCH_BYTES / range.document_bytes.max(1)).clamp(1, BATCH_DOCUMENTS_MAX);
    let mut find = doc! { "find": which, "batchSize": documents as i64 };
    if range.capped {
        find.insert("hint", doc! { "$natural": 1 });
        find.insert("readConcern", doc! { "level": "majority" });
        return find;
    }
    find.insert("readConcern", doc! { "level": "snapshot" });
    if range.by_id {
        find.insert("hint", doc! { "_id": 1 });
        for (field, bound) in [("min", &range.min), ("max", &range.max)] {
            if let Some(bound) =
                bound.as_ref().and_then(|bound| Document::try_from(bound.clone()).ok())
            {
                find.insert(field, bound);
            }
        }
    }
    find
}

/// Whether the name stands for the collection still.
async fn same_name(server: &Server, range: &Range) -> Result<bool, ReadError> {
    Ok(name_of(server, &range.database, range.uuid).await?.as_ref() == Some(&range.name))
}

/// What a collection is called now; `None` when it is no more. (A rename into another database
/// makes another collection, with a UUID of its own.)
pub(super) async fn name_of(
    server: &Server,
    database: &str,
    uuid: Uuid,
) -> Result<Option<String>, ReadError> {
    let binary = Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: uuid.0.to_vec() });
    let filter = doc! { "info.uuid": binary };
    let command = doc! { "listCollections": 1, "filter": filter, "cursor": {} };
    let listed = server.documents(database, "listCollections", command).await?;
    Ok(listed.first().and_then(|entry| entry.get_str("name").ok().map(str::to_owned)))
}
