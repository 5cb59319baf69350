//! The copy: all collections of the catalog, several at once, into the store.
//!
//! Enters: a server and where objects go. Leaves: what `complete.json` says of it. Each range is
//! read as of a moment of its own, none before the catalog was read. After a crash the objects
//! written so far belong to no base.

use std::sync::Mutex;

use bson::{RawDocumentBuf, doc};
use futures_util::{StreamExt, TryStreamExt, stream};

use proto::mongodb::base::{Bson, Collection, MongodbBase, Piece};
use proto::mongodb::{OplogTs, SourceMode};

use super::catalog::{self, Found};
use super::error::{ReadError, code};
use super::pack::Packer;
use super::read::{self, End, Range};
use super::server::{Server, id_of};
use crate::base::BaseError;
use crate::base::parts::Destination;
use crate::base::progress::Meter;

/// Ranges that are read at once. Each holds a batch, which the driver copies, a frame and an object: some
/// 10 MiB, of the 64 that the whole sidecar may take.
const READERS: usize = 2;
/// A collection of more bytes is read in ranges of about so many.
const RANGE_BYTES: u64 = 256 << 20;
const RANGES_MAX: u64 = 256;
/// Documents that are looked at for each bound between two ranges.
const SAMPLES: u64 = 20;
/// How often one range is begun anew because the server lost what it was reading.
const ATTEMPTS: u32 = 10;

/// Counts what is read and stored, of all readers together.
pub(super) struct Meters<'a>(Mutex<Meter<'a>>);

impl<'a> Meters<'a> {
    pub(super) fn new(meter: Meter<'a>) -> Self {
        Self(Mutex::new(meter))
    }

    pub(super) fn read(&self, raw: u64) {
        self.0.lock().expect("no holder panics").add(raw, 0);
    }

    pub(super) fn stored(&self, bytes: u64) {
        self.0.lock().expect("no holder panics").archive_done(bytes);
    }

    pub(super) fn waiting_for_log(&self) {
        self.0.lock().expect("no holder panics").tell(true);
    }
}

/// A range that is to be read, of the collection with this number.
struct Task<'a> {
    number: usize,
    part: usize,
    found: &'a Found,
    range: Range,
    /// The moment before the catalog was read, and one behind it that the majority has.
    listed: (OplogTs, OplogTs),
}

/// What became of a range: its pieces, or `None` when its collection is gone.
type Done = (usize, usize, Option<Vec<Piece>>);

/// Copies everything.
pub(super) async fn copy(
    server: &Server,
    mode: SourceMode,
    to: &Destination,
    meters: &Meters<'_>,
) -> Result<MongodbBase, BaseError> {
    let hello = server.hello().await?;
    let versions = server.versions().await?;
    // A change stream shows a transaction when it commits.
    let open = if mode.is_oplog() { server.oldest_transaction().await? } else { None };
    let start = open.map_or(hello.majority, |open| open.min(hello.majority));
    let catalog = catalog::read(server, mode).await?;
    // A snapshot from here on holds at least what the catalog shows.
    let listed = (hello.majority.ts, server.majority_of_now().await?);
    let mut tasks = Vec::new();
    for (number, found) in catalog.collections.iter().enumerate() {
        tasks.extend(
            ranges(server, found).await.into_iter().enumerate().map(|(part, range)| Task {
                number,
                part,
                found,
                range,
                listed,
            }),
        );
    }
    let reads: Vec<_> =
        tasks.into_iter().map(|task| read_range(server, to, meters, task)).collect();
    let done: Vec<Done> = stream::iter(reads).buffer_unordered(READERS).try_collect().await?;
    let collections = gather(catalog.collections, done);
    let reached = |piece: &Piece| piece.until.unwrap_or(piece.at);
    let pieces = collections.iter().flat_map(|collection| &collection.pieces);
    let stop = pieces.map(reached).max().unwrap_or(listed.1).max(listed.1);
    Ok(MongodbBase {
        version: versions.server,
        feature_version: versions.feature,
        set_name: hello.set_name,
        start,
        stop,
        source_mode: mode,
        left_out: catalog.left_out,
        collections,
    })
}

/// The pieces, by collection and in the order of their ranges; without collections that are gone.
fn gather(found: Vec<Found>, mut done: Vec<Done>) -> Vec<Collection> {
    done.sort_by_key(|(number, part, _)| (*number, *part));
    let mut all: Vec<Option<Collection>> = found.into_iter().map(|f| Some(f.collection)).collect();
    for (number, _, pieces) in done {
        match (pieces, &mut all[number]) {
            (Some(pieces), Some(collection)) => collection.pieces.extend(pieces),
            (None, gone) => *gone = None,
            (Some(_), None) => {}
        }
    }
    all.into_iter().flatten().collect()
}

/// One range for a collection that is small or has no order of `_id` to cut by.
async fn ranges(server: &Server, found: &Found) -> Vec<Range> {
    let collection = &found.collection;
    let size = server.size_of(&collection.database, &collection.name).await;
    let (documents, bytes) = size.unwrap_or((0, 0));
    let whole = Range {
        database: collection.database.clone(),
        name: collection.name.clone(),
        uuid: collection.uuid,
        capped: found.capped,
        by_id: false,
        min: None,
        max: None,
        document_bytes: bytes.checked_div(documents).unwrap_or(4096).max(64),
    };
    if bytes <= RANGE_BYTES || found.capped || !found.ordered_by_id {
        return vec![whole];
    }
    let count = (bytes / RANGE_BYTES + 1).min(RANGES_MAX);
    // Without bounds it is one long range, which is cut where its snapshot ends.
    let bounds = bounds(server, collection, count).await.unwrap_or_else(|error| {
        tracing::warn!(%error, collection = collection.namespace(), "no bounds for ranges");
        Vec::new()
    });
    cut(&Range { by_id: true, ..whole }, bounds)
}

fn cut(whole: &Range, bounds: Vec<RawDocumentBuf>) -> Vec<Range> {
    let mut ranges = Vec::with_capacity(bounds.len() + 1);
    let mut min = None;
    for bound in bounds {
        ranges.push(Range { min, max: Some(bound.clone()), ..whole.clone() });
        min = Some(bound);
    }
    ranges.push(Range { min, ..whole.clone() });
    ranges
}

/// Values of `_id` that part a collection into about equal ranges, in the server's order.
async fn bounds(
    server: &Server,
    collection: &Collection,
    count: u64,
) -> Result<Vec<RawDocumentBuf>, ReadError> {
    let command = doc! {
        "aggregate": &collection.name,
        "pipeline": [
            { "$sample": { "size": (count * SAMPLES) as i64 } },
            { "$project": { "_id": 1 } },
            { "$sort": { "_id": 1 } },
        ],
        "cursor": {},
        "allowDiskUse": true,
    };
    let sampled = server.documents(&collection.database, "sampling", command).await?;
    let mut bounds = Vec::new();
    for document in sampled.iter().skip(SAMPLES as usize).step_by(SAMPLES as usize) {
        bounds.extend(id_of(document)?);
    }
    bounds.dedup();
    Ok(bounds)
}

/// Reads one range, in as many pieces as its snapshots last.
async fn read_range(
    server: &Server,
    to: &Destination,
    meters: &Meters<'_>,
    task: Task<'_>,
) -> Result<Done, BaseError> {
    let Task { number, part, found, mut range, listed } = task;
    if found.as_told {
        let out = Packer::new(to, meters, format!("{:05}-001-1", number + 1));
        let piece = told(found, out, (None, None), listed).await?;
        return Ok((number, part, Some(vec![piece])));
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let mut failed = 0;
    for attempt in 1.. {
        let name = format!("{:05}-{:03}-{attempt}", number + 1, part + 1);
        let mut out = Packer::new(to, meters, name);
        let (min, max) = (range.min.clone().map(Bson), range.max.clone().map(Bson));
        match read::read(server, &range, &mut out).await? {
            End::Whole { at, until } => {
                let objects = out.finish().await?;
                pieces.push(Piece { at, until, min, max, objects });
                return Ok((number, part, Some(pieces)));
            }
            End::Cut { at, next } => {
                let objects = out.finish().await?;
                pieces.push(Piece { at, until: None, min, max: Some(Bson(next.clone())), objects });
                range.min = Some(next);
            }
            End::Gone => match read::name_of(server, &range.database, range.uuid).await? {
                Some(name) if failed < ATTEMPTS => {
                    failed += 1;
                    range.name = name;
                }
                Some(name) => {
                    let namespace = format!("{}.{name}", range.database);
                    return Err(lost(namespace, failed, None).into());
                }
                None => return Ok((number, part, None)),
            },
            End::Again(error) if error.code() == Some(code::UNAUTHORIZED) => {
                if found.told.is_empty() && found.collection.name != "system.views" {
                    return Err(error.into());
                }
                let piece = told(found, out, (min, max), listed).await?;
                return Ok((number, part, Some(vec![piece])));
            }
            End::Again(error) => {
                failed += 1;
                tracing::info!(%error, collection = range.name, "a range is read again");
                // In the order of `_id` it can go on where the next snapshot ends.
                range.by_id = range.by_id || (found.ordered_by_id && !found.capped);
                if failed >= ATTEMPTS {
                    let namespace = format!("{}.{}", range.database, range.name);
                    return Err(lost(namespace, failed, Some(error)).into());
                }
            }
        }
    }
    unreachable!("a range ends by being read or by an error")
}

fn lost(namespace: String, attempts: u32, error: Option<ReadError>) -> ReadError {
    ReadError::NoSnapshot { namespace, attempts, source: error.map(Box::new) }
}

/// The views as the catalog told them, between the moments around it.
async fn told(
    found: &Found,
    mut out: Packer<'_, '_>,
    (min, max): (Option<Bson>, Option<Bson>),
    (before, behind): (OplogTs, OplogTs),
) -> Result<Piece, BaseError> {
    for view in &found.told {
        out.push(view.as_bytes()).await?;
    }
    let objects = out.finish().await?;
    Ok(Piece { at: before, until: Some(behind), min, max, objects })
}
