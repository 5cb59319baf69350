//! What the golden files of format version 1 hold: every kind of object, small and the same each
//! time. Enters: nothing. Leaves: names and bytes, made by the code that writes archives.
//!
//! `cargo run -p proto --example golden -- FOLDER` writes them into a folder that does not exist;
//! `testdata/segments/v1` was made so, once. The test beside this file reads those and compares.

use std::collections::BTreeMap;

use proto::archive::base::{
    Complete, DamagedPage, ObjectRef, PostgresBase, Tablespace, TarPart, TarStream, WithinMember,
};
use proto::archive::identity::{FORMAT_VERSION, Identity, PostgresIdentity};
use proto::archive::index::{
    Block, Counts, Ends, Extent, Head, Mark, MarkKind, RollUp, SegmentIndex,
};
use proto::archive::ledger::{Entry, Event};
use proto::archive::to_json;
use proto::position::{Epoch, Offset, Position};
use proto::postgres::lsn::{Lsn, SegmentSize, Timeline};
use proto::segment::{
    Codec, Engine, Footer, Frame, Hash, OpenSegment, SegmentHead, TailHeader, TailKind, Watermark,
};
use proto::timestamp::Timestamp;

/// A name below `testdata/segments/v1`, and the file's bytes.
pub(crate) type File = (String, Vec<u8>);

/// Raw bytes of a whole segment (1 MiB), of a partial one, and of a frame in them.
pub(crate) const SEGMENT_RAW: usize = 1 << 20;
pub(crate) const PARTIAL_RAW: usize = 20_000;
pub(crate) const FRAME_RAW: usize = 400_000;
/// Where the tails are cut, in raw bytes of their segment.
pub(crate) const TAIL_CUTS: [usize; 3] = [0, 5_000, 12_345];

const NOON: Timestamp = Timestamp(1_795_176_000_000_000);

/// Bytes of a segment: pages that compress well and differ from each other.
pub(crate) fn raw(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_u32;
    (0..len)
        .map(|at| {
            if at % 512 == 0 {
                // xorshift32 (Marsaglia 2003)
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
            }
            (state >> (8 * (at % 4))) as u8
        })
        .collect()
}

pub(crate) fn head() -> SegmentHead {
    SegmentHead {
        engine: Engine::Postgresql,
        lineage: 1,
        epoch: Epoch(3),
        number: 0x42,
        writer: 7,
        start: Offset(0x42 << 20),
        previous: Hash::of(b"the segment before"),
    }
}

pub(crate) fn watermark() -> Watermark {
    Watermark { clock: NOON, offset: Offset((0x42 << 20) + 12_345), margin_ms: 2_000 }
}

/// Every golden file.
pub(crate) fn all() -> Vec<File> {
    let whole = raw(SEGMENT_RAW);
    let named = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    let mut files = vec![
        named("sealed-zstd.zst", sealed(Codec::Zstd { level: 3 }, &whole, false).1),
        named("sealed-lz4.zst", sealed(Codec::Lz4, &whole, false).1),
        named("partial-none.zst", sealed(Codec::None, &whole[..PARTIAL_RAW], true).1),
        named("index.v1", index().encode()),
        named("roll-up.v1", roll_up().encode()),
        named("identity.json", identity().encode()),
        named("complete.json", complete().encode()),
    ];
    files.extend(tails());
    files.extend(ledger().into_iter().map(|e| (format!("ledger-{}.json", e.seq), to_json(&e))));
    files
}

/// A whole object, and what its footer says.
pub(crate) fn sealed(codec: Codec, raw: &[u8], partial: bool) -> (Footer, Vec<u8>) {
    let mut segment = OpenSegment::new(head());
    let mut object = Vec::new();
    for piece in raw.chunks(FRAME_RAW) {
        let frame = Frame::of(codec, piece).expect("compresses");
        object.extend(&frame.bytes);
        segment.push(frame.entry, piece);
    }
    let (footer, bytes) = segment.seal(partial);
    object.extend(bytes);
    (footer, object)
}

/// The headers of the tails, in the order of their chain; the merged one is a case of its own.
pub(crate) fn tail_headers() -> Vec<(&'static str, TailHeader)> {
    let raw = raw(SEGMENT_RAW);
    let [start, middle, end] = TAIL_CUTS;
    let tail = |kind, seq, from: usize, to: usize, watermark| TailHeader {
        head: head(),
        kind,
        first: seq,
        last: seq,
        raw_start: from as u64,
        raw_len: (to - from) as u64,
        before: Hash::of(&raw[..from]),
        after: Hash::of(&raw[..to]),
        watermark,
    };
    let merged = tail(TailKind::Merged, 0, start, end, Some(watermark()));
    vec![
        ("tail-fence.zst", tail(TailKind::Fence, 0, start, start, None)),
        ("tail-data-zstd.zst", tail(TailKind::Data, 1, start, middle, None)),
        ("tail-data-lz4.zst", tail(TailKind::Data, 2, middle, end, Some(watermark()))),
        ("tail-watermark.zst", tail(TailKind::Watermark, 3, end, end, Some(watermark()))),
        ("tail-merged.zst", TailHeader { last: 255, ..merged }),
    ]
}

fn tails() -> Vec<File> {
    let raw = raw(SEGMENT_RAW);
    let object = |(name, header): (&str, TailHeader)| {
        let (from, to) = (header.raw_start as usize, header.raw_end() as usize);
        let codec = if name.contains("lz4") { Codec::Lz4 } else { Codec::default() };
        let mut bytes = header.encode();
        if to > from {
            bytes.extend(Frame::of(codec, &raw[from..to]).expect("compresses").bytes);
        }
        (name.to_owned(), bytes)
    };
    tail_headers().into_iter().map(object).collect()
}

fn mark(kind: MarkKind, at: u64, time: Option<Timestamp>, payload: &[u8]) -> Mark {
    let extent = Extent { start: Offset((0x42 << 20) + at), end: Offset((0x42 << 20) + at + 96) };
    Mark { kind, extent, time, transaction: time.map(|_| 731), payload: payload.to_vec() }
}

pub(crate) fn index() -> SegmentIndex {
    let ends = Ends {
        commits: 2,
        aborts: 1,
        times: Some((NOON, NOON.plus_micros(1_500_000))),
        transactions: Some((730, 732)),
    };
    SegmentIndex {
        engine: Engine::Postgresql,
        epoch: Epoch(3),
        number: 0x42,
        start: Offset(0x42 << 20),
        raw_len: SEGMENT_RAW as u64,
        head: Head::From(Offset((0x42 << 20) - 16)),
        last: Some(Extent { start: Offset((0x43 << 20) - 128), end: Offset((0x43 << 20) - 64) }),
        blocks: vec![
            Block { raw_len: 400_000, ends },
            Block { raw_len: SEGMENT_RAW as u32 - 400_000, ends: Ends::default() },
        ],
        counts: Counts {
            width: 1,
            buckets: BTreeMap::from([(1_795_176_000, 1), (1_795_176_001, 1)]),
        },
        marks: vec![
            mark(MarkKind::RestorePoint, 200, Some(NOON), "vor dem Löschen".as_bytes()),
            mark(MarkKind::Drop, 400, None, b""),
            mark(MarkKind::Other(900), 600, None, b"of a newer program"),
        ],
        marks_left_out: 5,
        unknown: BTreeMap::from([(200, 3)]),
        anomalies: 1,
    }
}

pub(crate) fn roll_up() -> RollUp {
    let second = SegmentIndex {
        number: 0x43,
        start: Offset(0x43 << 20),
        head: Head::Clean,
        last: None,
        marks: Vec::new(),
        blocks: vec![Block { raw_len: SEGMENT_RAW as u32, ends: Ends::default() }],
        anomalies: 0,
        ..index()
    };
    RollUp { engine: Engine::Postgresql, segments: vec![index().summary(), second.summary()] }
}

pub(crate) fn identity() -> Identity {
    let postgres = PostgresIdentity {
        segment_bytes: SegmentSize::try_from(1_u64 << 20).expect("a size that PostgreSQL allows"),
        version_num: 150_018,
        first: Lsn(0x42 << 20),
        first_timeline: Timeline(3),
    };
    Identity {
        format: FORMAT_VERSION,
        engine: Engine::Postgresql,
        cluster: "7554320178913579246".to_owned(),
        created: NOON,
        postgres: Some(postgres),
        mongodb: None,
    }
}

pub(crate) fn ledger() -> Vec<Entry> {
    let at = |megabytes: u64| Position::new(Epoch(3), Offset(megabytes << 20));
    let text = str::to_owned;
    let events = [
        Event::Writer { host: text("db1"), program: text("pitrd 0.1.0") },
        Event::Gap {
            from: at(0x50),
            to: at(0x60),
            reason: text("the slot was dropped"),
            oplog: None,
        },
        Event::Branch {
            from: at(0x61),
            at: Position::new(Epoch(4), Offset(0x61 << 20)),
            reason: text("no recovery target specified"),
        },
        Event::Store {
            address: text("s3://bucket/prefix"),
            features: serde_json::json!({ "create_if_absent": true, "checksums": true }),
        },
        Event::Base { id: complete().id },
        Event::Spooled { from: at(0x62), to: at(0x63) },
        Event::DamagedPage {
            base: complete().id,
            file: text("base/5/16384"),
            detail: text("checksum verification failed"),
        },
    ];
    let entry = |(at, event)| Entry { version: 1, seq: at as u64 + 1, time: NOON, event };
    events.into_iter().enumerate().map(entry).collect()
}

pub(crate) fn complete() -> Complete {
    let text = str::to_owned;
    let part = |object: &str, raw_start, within| TarPart {
        object: text(object),
        bytes: 1_000,
        raw_start,
        raw_bytes: 4_096,
        hash: Hash::of(object.as_bytes()),
        within,
    };
    let within = WithinMember {
        path: text("base/5/16384"),
        size: 8_192,
        offset: 3_584,
        mode: 0o600,
        mtime: 1_795_176_000,
    };
    let stream = |name: &str, tablespace, parts: Vec<TarPart>| TarStream {
        name: text(name),
        tablespace,
        raw_bytes: 4_096 * parts.len() as u64,
        parts,
    };
    let base = vec![
        part("base.tar.zst.000001", 0, None),
        part("base.tar.zst.000002", 4_096, Some(within)),
    ];
    Complete {
        format: FORMAT_VERSION,
        id: text("20261120T120000Z_00000003_0000000004200028"),
        engine: Engine::Postgresql,
        label: text("pitr"),
        kind: text("full"),
        started: NOON,
        finished: NOON.plus_micros(9_000_000),
        program: text("pitrd 0.1.0"),
        raw_bytes: 12_288,
        stored_bytes: 3_500,
        postgres: Some(PostgresBase {
            version_num: 150_018,
            system_identifier: identity().cluster,
            timeline: Timeline(3),
            start: Lsn((0x42 << 20) + 40),
            stop: Lsn((0x42 << 20) + 4_096),
            stop_timeline: Timeline(3),
            checksums: true,
            settings: BTreeMap::from([(text("max_connections"), text("200"))]),
            tablespaces: vec![Tablespace {
                oid: 16_400,
                location: text("/fast"),
                bytes: Some(4_096),
            }],
        }),
        mongodb: None,
        archives: vec![
            stream("base", None, base),
            stream("16400", Some(16_400), vec![part("16400.tar.zst.000001", 0, None)]),
        ],
        manifest: Some(ObjectRef {
            object: text("backup_manifest.zst"),
            bytes: 500,
            raw_bytes: 2_000,
            hash: Hash::of(b"manifest"),
        }),
        manifest_more: Vec::new(),
        config_files: BTreeMap::from([(text("pg_hba.conf"), text("local all all peer\n"))]),
        damaged: vec![DamagedPage {
            file: text("base/5/16384"),
            block: Some(7),
            detail: text("checksum verification failed"),
        }],
    }
}
