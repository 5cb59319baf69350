//! An archive as a sidecar leaves it: identity, the log in sealed segments, and a base.

use anyhow::{Context, Result};
use bson::Timestamp;
use proto::archive::base::Complete;
use proto::archive::identity::{FORMAT_VERSION, Identity, MongoIdentity};
use proto::archive::layout::{OPLOG_EPOCH, SegmentName};
use proto::archive::to_json;
use proto::mongodb::{Documents, Entry, OpTime, OplogTs};
use proto::position::Offset;
use proto::segment::{Codec, Engine, Frame, Hash, OpenSegment, SegmentHead};
use proto::store::{Body, Key, Put};

use super::restored::Taken;

/// Raw bytes of a segment, so that there are several.
const SEGMENT_BYTES: usize = 2 << 20;
const FRAME_BYTES: usize = 1 << 20;

/// Puts log and base into the store that holds the base's objects. The address of the archive.
pub(crate) async fn archive(taken: &Taken, log: &[u8]) -> Result<String> {
    let (at, wall) = first_of(log)?;
    let created = proto::timestamp::Timestamp(wall);
    let base = &taken.base;
    let identity = Identity {
        format: FORMAT_VERSION,
        engine: Engine::Mongodb,
        cluster: "0123456789abcdef01234567".to_owned(),
        created,
        postgres: None,
        mongodb: Some(MongoIdentity {
            version: base.version.clone(),
            fcv: base.feature_version.clone(),
            set_name: base.set_name.clone(),
            first: at,
            source_mode: base.source_mode,
        }),
    };
    let lineage = taken.from.lineage;
    put(taken, lineage.identity(), to_json(&identity)).await?;
    let (mut start, mut previous) = (0, Hash::NONE);
    for piece in pieces(log)? {
        previous = segment(taken, piece, start, previous).await?;
        start += piece.len() as u64;
    }
    let complete = Complete {
        format: FORMAT_VERSION,
        id: taken.from.id.clone(),
        engine: Engine::Mongodb,
        label: "test".to_owned(),
        kind: "full".to_owned(),
        started: created,
        finished: created,
        program: "test".to_owned(),
        raw_bytes: base.raw_bytes(),
        stored_bytes: base.stored_bytes(),
        postgres: None,
        mongodb: Some(base.clone()),
        archives: Vec::new(),
        manifest: None,
        manifest_more: Vec::new(),
        config_files: Default::default(),
        damaged: Vec::new(),
    };
    put(taken, lineage.base_complete(&complete.id), complete.encode()).await?;
    Ok(taken.folder.path().display().to_string())
}

fn first_of(log: &[u8]) -> Result<(OpTime, i64)> {
    let (_, first) = Documents::new(log).next().context("a log without entries")??;
    let (at, wall) = Entry::place(first)?;
    Ok((at, wall.map_or(0, |wall| wall.0)))
}

/// The log, cut between entries.
fn pieces(log: &[u8]) -> Result<Vec<&[u8]>> {
    let (mut pieces, mut from) = (Vec::new(), 0);
    for document in Documents::new(log) {
        let (begin, _) = document?;
        if begin - from >= SEGMENT_BYTES {
            pieces.push(&log[from..begin]);
            from = begin;
        }
    }
    pieces.push(&log[from..]);
    Ok(pieces)
}

async fn segment(taken: &Taken, raw: &[u8], start: u64, previous: Hash) -> Result<Hash> {
    let first: OplogTs = first_of(raw)?.0.ts;
    let head = SegmentHead {
        engine: Engine::Mongodb,
        lineage: taken.from.lineage.0,
        epoch: OPLOG_EPOCH,
        number: first.0,
        writer: 1,
        start: Offset(start),
        previous,
    };
    let (mut open, mut object) = (OpenSegment::new(head), Vec::new());
    for piece in raw.chunks(FRAME_BYTES) {
        let frame = Frame::of(Codec::default(), piece)?;
        open.push(frame.entry, piece);
        object.extend(frame.bytes);
    }
    let (footer, bytes) = open.seal(false);
    object.extend(bytes);
    put(taken, taken.from.lineage.sealed(&SegmentName::mongodb(first)), object).await?;
    Ok(footer.hash)
}

async fn put(taken: &Taken, key: Key, bytes: Vec<u8>) -> Result<()> {
    let put = taken.from.store.put(&key, &Body::Bytes(bytes.into())).await?;
    anyhow::ensure!(put == Put::Created, "{key} was there");
    Ok(())
}

/// As the command line takes it.
pub(crate) fn text(at: Timestamp) -> String {
    OplogTs::from(at).to_string()
}
