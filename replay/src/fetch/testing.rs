//! A small archive and its plan, for tests of whatever reads one.

use std::path::Path;
use std::sync::Arc;

use proto::archive::identity::{FORMAT_VERSION, Identity, PostgresIdentity};
use proto::archive::layout::{Lineage, SegmentName};
use proto::position::{Epoch, Offset};
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize, Timeline};
use proto::segment::{
    Codec, Engine, FRAME_RAW, Frame, Hash, OpenSegment, SegmentHead, TailHeader, TailKind,
};
use proto::store::folder::FolderStore;
use proto::store::{Access, Body, Put, Store};
use proto::timestamp::Timestamp;

use crate::plan::{
    FetchBytes, FrozenEnd, Head, PLAN_FORMAT, Plan, PlannedBase, PlannedSegment, PlannedTarget,
    Source,
};

pub(crate) const LINEAGE: Lineage = Lineage(1);

/// An archive of timeline 1 in a folder, and the plan that grows with it.
pub(crate) struct Archive {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) plan: Plan,
}

impl Archive {
    pub(crate) async fn new(root: &Path, segment_bytes: u64) -> Self {
        let size = SegmentSize::try_from(segment_bytes).expect("a segment size");
        let store = FolderStore::open(root, Access::ReadWrite).await.expect("a folder");
        Self { store: Arc::new(store), plan: empty_plan(root, size) }
    }

    pub(crate) fn size(&self) -> SegmentSize {
        self.plan.segment_size()
    }

    fn head(&self, number: u64) -> SegmentHead {
        SegmentHead {
            engine: Engine::Postgresql,
            lineage: LINEAGE.0,
            epoch: Epoch(1),
            number,
            writer: 1,
            start: Offset::from(self.size().start_of(number)),
            previous: Hash::NONE,
        }
    }

    pub(crate) fn name(&self, number: u64) -> String {
        SegmentId { timeline: Timeline(1), number }.name(self.size())
    }

    fn planned(&mut self, number: u64, source: Source, bytes: u64, raw_len: u64) {
        let name = self.name(number);
        self.plan.segments.push(PlannedSegment { name, source, bytes });
        self.plan.end.lsn = Lsn(self.size().start_of(number).0 + raw_len);
    }

    pub(crate) async fn put(&self, key: proto::store::Key, bytes: Vec<u8>) {
        let put = self.store.put(&key, &Body::from(bytes)).await.expect("stored");
        assert_eq!(put, Put::Created, "{key}");
    }

    /// A sealed segment with these bytes.
    pub(crate) async fn seal(&mut self, number: u64, raw: &[u8]) {
        let mut open = OpenSegment::new(self.head(number));
        let mut object = Vec::new();
        for piece in raw.chunks(FRAME_RAW) {
            let frame = Frame::of(Codec::Zstd { level: 1 }, piece).expect("compresses");
            object.extend(&frame.bytes);
            open.push(frame.entry, piece);
        }
        let partial = (raw.len() as u64) < self.size().bytes();
        object.extend(open.seal(partial).1);
        let id = SegmentId { timeline: Timeline(1), number };
        let name = SegmentName::postgres(id, self.size());
        let key = if partial { LINEAGE.partial(&name) } else { LINEAGE.sealed(&name) };
        let bytes = object.len() as u64;
        self.put(key, object).await;
        let source = if partial { Source::Partial } else { Source::Sealed };
        self.planned(number, source, bytes, raw.len() as u64);
    }

    /// The open segment, as tails of `piece` bytes.
    pub(crate) async fn tails(&mut self, number: u64, raw: &[u8], piece: usize) {
        let (mut seq, mut bytes) = (0, 0);
        for (at, chunk) in raw.chunks(piece).enumerate() {
            let start = at * piece;
            let end = start + chunk.len();
            let header = TailHeader {
                head: self.head(number),
                kind: TailKind::Data,
                first: at as u64,
                last: at as u64,
                raw_start: start as u64,
                raw_len: chunk.len() as u64,
                before: Hash::of(&raw[..start]),
                after: Hash::of(&raw[..end]),
                watermark: None,
            };
            let mut object = header.encode();
            object.extend(Codec::Lz4.compress(chunk).expect("compresses"));
            bytes += object.len() as u64;
            seq = at as u64;
            self.put(LINEAGE.tail(&self.name(number), seq), object).await;
        }
        let (raw_bytes, hash) = (raw.len() as u64, Hash::of(raw));
        let source = Source::Tails { raw_bytes, hash, last_seq: seq, objects: seq + 1 };
        self.planned(number, source, bytes, raw_bytes);
    }
}

/// Bytes that do not repeat.
#[allow(dead_code, reason = "not every user of this file needs it")]
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; len];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn empty_plan(root: &Path, size: SegmentSize) -> Plan {
    let zero = Timestamp(0);
    Plan {
        head: Head {
            format: PLAN_FORMAT,
            program: "pitr test".to_owned(),
            made: zero,
            archive: root.display().to_string(),
            lineage: LINEAGE.0,
            identity: Identity {
                format: FORMAT_VERSION,
                engine: Engine::Postgresql,
                cluster: "7000000000000000001".to_owned(),
                created: zero,
                postgres: Some(PostgresIdentity {
                    segment_bytes: size,
                    version_num: 150_000,
                    first: Lsn(0),
                    first_timeline: Timeline(1),
                }),
                mongodb: None,
            },
        },
        base: PlannedBase {
            id: "b".to_owned(),
            timeline: Timeline(1),
            start: Lsn(0),
            stop: Lsn(0),
            stop_timeline: Timeline(1),
            finished: zero,
            version_num: 150_000,
            stored_bytes: 0,
            raw_bytes: 0,
            damaged: false,
        },
        target: PlannedTarget {
            asked: "--latest".to_owned(),
            lsn: Lsn(0),
            inclusive: true,
            timeline: Timeline(1),
            record_end: None,
            last_kept: None,
            first_left_out: None,
        },
        end: FrozenEnd { timeline: Timeline(1), lsn: Lsn(0), proven: None },
        segments: Vec::new(),
        histories: Vec::new(),
        fetch: FetchBytes::default(),
        disk_bytes: 0,
        settings: std::collections::BTreeMap::new(),
        warnings: Vec::new(),
    }
}
