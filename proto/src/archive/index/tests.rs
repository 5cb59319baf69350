//! The index of real log, its size, and its bytes.

use proptest::prelude::*;

use super::*;
use crate::postgres::lsn::{SegmentId, Timeline};
use crate::postgres::testdata::Capture;

fn indexes(capture: &Capture) -> Vec<SegmentIndex> {
    let first = capture.size.segment_of(capture.start);
    let mut indexer = Indexer::new(first, capture.size);
    let mut found = Vec::new();
    for (at, segment) in capture.wal.chunks(1 << 20).enumerate() {
        for frame in segment.chunks(100_000) {
            indexer.feed(frame);
            indexer.end_frame();
        }
        let number = first + at as u64;
        found.push(indexer.finish(SegmentId { timeline: Timeline(1), number }));
    }
    found
}

#[test]
fn an_index_counts_every_commit_and_finds_every_restore_point() {
    for capture in Capture::all() {
        let found = indexes(&capture);
        let commits = |l: &&crate::postgres::testdata::Line| l.description.starts_with("COMMIT");
        let expected = capture.dump.iter().filter(commits).count();
        let counted: usize = found.iter().map(|i| i.ends().commits as usize).sum();
        let in_buckets: u32 = found.iter().flat_map(|i| i.counts.buckets.values()).sum();
        assert_eq!((counted, in_buckets as usize), (expected, expected), "{}", capture.version);
        let points: Vec<_> = found
            .iter()
            .flat_map(|i| &i.marks)
            .filter(|m| m.kind == MarkKind::RestorePoint)
            .map(|m| String::from_utf8_lossy(&m.payload).into_owned())
            .collect();
        assert_eq!(points, ["before the drop", "after ünïcode", "twice", "twice"]);
        for index in &found {
            assert_eq!(index.raw_len, 1 << 20);
            assert_eq!(index.blocks.iter().map(|b| u64::from(b.raw_len)).sum::<u64>(), 1 << 20);
            assert_eq!(index.anomalies, 0);
        }
    }
}

#[test]
fn a_commit_that_spans_two_segments_is_counted_in_the_one_where_it_ends() {
    for capture in Capture::all() {
        let found = indexes(&capture);
        let spans = found.iter().filter(|i| matches!(i.head, Head::From(_))).count();
        assert!(spans > 0, "{}: the large record spans segments", capture.version);
        for (at, index) in found.iter().enumerate().skip(1) {
            let id = SegmentId { timeline: Timeline(1), number: index.number };
            let from = at << 20;
            let raw = &capture.wal[from..from + (1 << 20)];
            let frames = raw.chunks(100_000).map(|c| u32::try_from(c.len()).expect("small"));
            let warm = Indexer::build(id, capture.size, &capture.wal[..from], raw, frames.clone());
            assert_eq!(&warm, index);
            let cold = Indexer::build(id, capture.size, &[], raw, frames);
            if index.head == Head::Clean {
                assert_eq!(&cold, index);
            } else {
                assert_eq!(cold.head, Head::Unknown);
            }
        }
    }
}

#[test]
fn an_index_stays_below_two_percent_of_the_log() {
    for capture in Capture::all() {
        for index in indexes(&capture) {
            let bytes = index.encode().len();
            assert!(bytes < (1 << 20) / 50, "{}: {bytes} bytes", capture.version);
        }
    }
}

#[test]
fn an_index_and_a_roll_up_read_back_as_they_were_written() {
    for capture in Capture::all() {
        let found = indexes(&capture);
        for index in &found {
            assert_eq!(SegmentIndex::decode(&index.encode()).as_ref(), Ok(index));
        }
        let segments = found.iter().map(SegmentIndex::summary).collect();
        let roll_up = RollUp { engine: Engine::Postgresql, segments };
        assert_eq!(RollUp::decode(&roll_up.encode()).as_ref(), Ok(&roll_up));
    }
}

#[test]
fn the_bytes_of_an_index_are_fixed() {
    let extent = Extent { start: Offset(0x10), end: Offset(0x20) };
    let ends = Ends {
        commits: 2,
        aborts: 1,
        times: Some((Timestamp(-5), Timestamp(1_000_000))),
        transactions: Some((7, 9)),
    };
    let index = SegmentIndex {
        engine: Engine::Postgresql,
        epoch: Epoch(3),
        number: 0x42,
        start: Offset(0x4200_0000),
        raw_len: 16,
        head: Head::From(Offset(0x41FF_FFF0)),
        last: Some(extent),
        blocks: vec![Block { raw_len: 16, ends }, Block::default()],
        counts: Counts { width: 1, buckets: BTreeMap::from([(-1, 1), (1, 300)]) },
        marks: vec![Mark {
            kind: MarkKind::RestorePoint,
            extent,
            time: Some(Timestamp(77)),
            transaction: None,
            payload: b"name".to_vec(),
        }],
        marks_left_out: 0,
        unknown: BTreeMap::from([(130, 4)]),
        anomalies: 1,
    };
    let bytes = index.encode();
    assert_eq!(SegmentIndex::decode(&bytes), Ok(index));
    let hash = blake3::hash(&bytes).to_hex();
    assert_eq!(bytes.len(), 248);
    assert_eq!(&hash[..16], "1a6e2311e710e1bc");
}

#[test]
fn every_damaged_byte_is_refused() {
    let capture = Capture::open(15);
    let bytes = indexes(&capture)[0].encode();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        assert!(SegmentIndex::decode(&damaged).is_err(), "byte {at}");
        assert!(SegmentIndex::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn too_many_buckets_become_wider_and_lose_no_commit() {
    let mut counts = Counts::default();
    let many = BUCKETS_MAX as i64 + 10;
    for second in -5..many {
        counts.note(Timestamp(second * 1_000_000));
    }
    assert_eq!(counts.width, 2);
    assert_eq!(counts.buckets.values().map(|n| i64::from(*n)).sum::<i64>(), many + 5);
    assert_eq!(counts.start_of(-3), Timestamp(-6_000_000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_with_a_right_checksum_never_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        for magic in [b"PITRIDX1", b"PITRROL1"] {
            let mut bytes = codec::begin(magic, Engine::Postgresql);
            bytes.extend(&body);
            let bytes = codec::end(bytes);
            let _ = SegmentIndex::decode(&bytes);
            let _ = RollUp::decode(&bytes);
        }
    }
}
