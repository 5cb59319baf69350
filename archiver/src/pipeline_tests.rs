//! The whole pipeline around a source that is driven by hand: records of any size, in segments of any
//! size. Whatever is killed or lost on the way, the archive holds what was pushed, each byte once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proto::archive::identity::{FORMAT_VERSION, Identity};
use proto::archive::layout::{Lineage, OPLOG_EPOCH, mongodb_first};
use proto::archive::{ArchiveError, chain};
use proto::clock::SystemClock;
use proto::disk::SystemDisk;
use proto::position::{ByteCount, Offset, Position};
use proto::segment::{Codec, Engine, read_sealed};
use proto::store::{Range, Store, list_all};
use proto::timestamp::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Ground, LastTail, Opened, PipelineError, Running, Settings, start};
use crate::ring::Item;
use crate::ship::AckFrom;
use crate::ship::chained;
use crate::ship::health::Health;
use crate::ship::resume::{End, take_writer};
use crate::source::CaptureStart;
use crate::spool::{OplogSegments, Segmenter, SpoolLevel};
use crate::testing::{Log, LogAlone, archive};

/// A segment ends behind so many bytes.
const CUT: u64 = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Records as they stand one behind the other, and where each begins.
#[derive(Debug)]
struct Records {
    records: Vec<Bytes>,
    offsets: Vec<u64>,
}

impl Records {
    fn new(count: u64) -> Self {
        let (mut records, mut offsets, mut at) = (Vec::new(), Vec::new(), 0);
        for n in 0..count {
            // Every fiftieth is longer than a frame.
            let len = if n % 50 == 49 { 3 << 20 } else { 100 + (n * 7919 % 60_000) as usize };
            let mut record = vec![n as u8; len];
            record[..4].copy_from_slice(&i32::try_from(len).expect("small").to_le_bytes());
            record[4..12].copy_from_slice(&n.to_le_bytes());
            record[len - 1] = 0;
            offsets.push(at);
            at += len as u64;
            records.push(Bytes::from(record));
        }
        offsets.push(at);
        Self { records, offsets }
    }

    /// The record that begins there.
    fn at(&self, offset: Offset) -> usize {
        self.offsets.binary_search(&offset.0).expect("a record begins there")
    }

    fn raw(&self) -> Vec<u8> {
        self.records.concat()
    }
}

/// Sends the first `until` records.
#[derive(Debug, Clone)]
struct ByHand {
    log: Arc<Records>,
    until: usize,
}

#[async_trait]
impl Log for ByHand {
    fn opened(&self) -> Opened {
        opened()
    }

    fn segmenter(&self) -> Arc<dyn Segmenter> {
        Arc::new(OplogSegments)
    }

    async fn find_end(&self, store: &dyn Store, opened: &Opened) -> Result<End, ArchiveError> {
        chained::find_end(store, opened.lineage, OPLOG_EPOCH, &OplogSegments).await
    }

    async fn send(self, start: CaptureStart) -> Result<(), PipelineError> {
        let (ring, held) = (start.ring, start.held);
        let from = held.last.as_ref().map_or(held.next, |last| last.begin);
        ring.push(Item::Resume { from })?;
        let mut open = held.open.map(|open| open.raw_len);
        if let Some(last) = held.last {
            let bytes = self.log.records[self.log.at(last.begin)].clone();
            assert_eq!(last.bytes, bytes, "told of a record that is none");
            ring.push(Item::Data { start: last.begin, bytes, clock: None })?;
        }
        for n in self.log.at(held.next)..self.until {
            let (bytes, at) = (self.log.records[n].clone(), Offset(self.log.offsets[n]));
            if open.is_none_or(|raw_len| raw_len >= CUT) {
                ring.push(Item::Begin { number: 1 << 32 | n as u64 })?;
                open = Some(0);
            }
            open = open.map(|raw_len| raw_len + bytes.len() as u64);
            ring.push(Item::Data { start: at, bytes, clock: None })?;
            ring.room().await;
        }
        start.stop.cancelled().await;
        Ok(())
    }
}

fn opened() -> Opened {
    let identity = Identity {
        format: FORMAT_VERSION,
        engine: Engine::Mongodb,
        cluster: "by hand".to_owned(),
        created: Timestamp(0),
        postgres: None,
        mongodb: None,
    };
    Opened { lineage: Lineage(1), identity, fresh: false }
}

/// A pipeline at the end of what store and spool hold.
async fn begin(root: &Path, source: ByHand, stop: &CancellationToken, codec: Codec) -> Running {
    let clock = Arc::new(SystemClock::new());
    let store = archive(root).await;
    let writer = take_writer(&*store, Lineage(1), &*clock, "here".to_owned()).await;
    let ground = Ground {
        store,
        disk: Arc::new(SystemDisk),
        clock: clock.clone(),
        health: Arc::new(Health::new(clock)),
        level: Arc::new(SpoolLevel::new(ByteCount(1 << 30))),
    };
    let settings = Settings {
        source: Arc::new(LogAlone(source)),
        spool: root.join("spool"),
        codec,
        flush: Duration::from_millis(20),
        ack: AckFrom::Store,
        new_lineage: false,
    };
    let writer = writer.expect("an epoch");
    start(&ground, &settings, &opened(), writer, stop.clone()).await.expect("it begins")
}

/// The same pipeline, once it has stored the log up to `offset`.
async fn stored(running: Running, offset: u64) -> Running {
    let mut stored = running.durable.stored.clone();
    let wanted = Position::new(OPLOG_EPOCH, Offset(offset));
    let reached = stored.wait_for(|at| at.is_some_and(|at| at >= wanted));
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    if !matches!(reached, Ok(Ok(_))) {
        panic!("byte {offset} was not stored: {:?}", running.finish(LastTail::Hurried).await);
    }
    running
}

/// Kills a pipeline that has stored the log up to `offset`: its tasks are dropped wherever they are.
fn killed_at(root: &Path, source: ByHand, offset: u64, codec: Codec) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let running = begin(root, source, &CancellationToken::new(), codec).await;
        stored(running, offset).await;
    });
    runtime.shutdown_timeout(PATIENCE);
}

/// Everything that the archive holds, by its names, starts and hashes alone.
async fn archived(store: &dyn Store) -> Vec<u8> {
    let objects = list_all(store, &Lineage(1).log()).await.expect("listed");
    let mut raw: Vec<u8> = Vec::new();
    let mut previous = None;
    for object in objects {
        let bytes = store.get(&object.key, Range::All).await.expect("read");
        let (footer, piece) = read_sealed(&bytes).expect("whole");
        assert!(!footer.partial, "{} is partial", object.key);
        let name = object.key.name().strip_suffix(".zst").expect("sealed");
        assert_eq!(mongodb_first(name).map(|first| first.0), Some(footer.head.number));
        assert_eq!(footer.head.start, Offset(raw.len() as u64), "{}", object.key);
        assert_eq!(previous.unwrap_or(proto::segment::Hash::NONE), footer.head.previous);
        previous = Some(footer.hash);
        raw.extend(piece);
    }
    let end = chained::find_end(store, Lineage(1), OPLOG_EPOCH, &OplogSegments).await;
    let end = end.expect("an end");
    assert_eq!(end.store.start, Offset(raw.len() as u64), "the open segment follows the last");
    if let Some(slot) = &end.store.slot {
        let open = chain::follow(store, Lineage(1), &slot.name.name).await.expect("a chain");
        assert_eq!(open.raw_len(), end.store.raw.len() as u64);
    }
    raw.extend(end.store.raw);
    raw
}

fn killed_again_and_again(codec: Codec, between: impl Fn(&Path, usize)) {
    let root = tempfile::tempdir().expect("a folder");
    let log = Arc::new(Records::new(400));
    for round in 1..=8_usize {
        let source = ByHand { log: log.clone(), until: round * 45 };
        // Somewhere inside what this round adds.
        let offset = log.offsets[round * 45 - 40 + round * 37 % 40];
        killed_at(root.path(), source, offset, codec);
        between(root.path(), round);
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (all, stop) = (log.offsets[400], CancellationToken::new());
        let source = ByHand { log: log.clone(), until: 400 };
        let running = begin(root.path(), source, &stop, codec).await;
        let running = stored(running, all).await;
        stop.cancel();
        running.finish(LastTail::Awaited).await.expect("a clean end");
        let found = archived(&*archive(root.path()).await).await;
        assert_eq!(found.len() as u64, all);
        assert!(found == log.raw(), "the archive is not what was pushed");
    });
}

#[test]
fn an_archive_of_records_of_any_size_is_what_was_pushed_whenever_it_is_killed() {
    killed_again_and_again(Codec::Lz4, |_, _| {});
}

#[test]
fn a_spool_that_is_lost_costs_an_archive_of_records_nothing() {
    killed_again_and_again(Codec::Lz4, |root, round| {
        if round % 2 == 0 {
            for entry in proto::disk::Disk::list(&SystemDisk, &root.join("spool")).expect("listed")
            {
                let path = root.join("spool").join(entry.name);
                proto::disk::Disk::remove(&SystemDisk, &path).expect("removed");
            }
        }
    });
}

#[test]
fn records_in_frames_without_checksums_are_compared_before_they_count() {
    killed_again_and_again(Codec::None, |_, _| {});
}
