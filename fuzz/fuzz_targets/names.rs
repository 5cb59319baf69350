//! What stands in names of objects and in answers: positions, segments, sequence numbers, hashes, sizes.
#![no_main]

use archiver::source::postgres::conn::version_number;
use archiver::source::postgres::session::parse_bytes;
use fuzz::seeds;
use proto::archive::layout::{self, Lineage, SegmentName};
use proto::mongodb::OplogTs;
use proto::postgres::history::History;
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize};
use proto::segment::{Codec, Hash};
use proto::timestamp::Timestamp;

fn seeds() -> Vec<seeds::Seed> {
    [
        "16/B374D848",
        "000000010000000A00000042.partial.zst",
        "0000001A.history",
        "00000042.json",
        "1763632800.0000000001.bson.zst",
        "1795150757,2",
        "Timestamp(1795150757, 2)",
        "zstd:-5",
        "16MB",
        "2026-11-20T14:19:47.31+01:00",
        "15.18 (Debian 15.18-0+deb12u1)",
        "19beta3",
        "10min",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "4294967295.1",
        "00000001FFFFFFFF000000FF",
        "lineage/1/tail/000000010000000A00000042/00000007.zst",
    ]
    .iter()
    .enumerate()
    .map(|(at, text)| seeds::seed(&at.to_string(), *text))
    .collect()
}

fn input(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    if let Ok(ts) = text.parse::<OplogTs>() {
        assert_eq!(ts.to_string().parse(), Ok(ts));
        let name = SegmentName::mongodb(ts);
        assert_eq!(layout::mongodb_first(&name.name), Some(ts));
        let _ = (Lineage(1).sealed(&name), ts.hour(), ts.time());
    }
    if let Ok(time) = Timestamp::parse(&text) {
        assert_eq!(Timestamp::parse(&time.to_string()).ok(), Some(time));
        assert_eq!(Timestamp::from_postgres(time.to_postgres()), time);
    }
    if let Ok(hash) = text.parse::<Hash>() {
        assert_eq!(hash.to_string().parse(), Ok(hash));
    }
    if let Ok(codec) = text.parse::<Codec>() {
        assert_eq!(codec.to_string().parse::<Codec>().ok(), Some(codec));
    }
    for shift in [20, 24, 30] {
        let size = SegmentSize::try_from(1 << shift).expect("a size");
        if let Ok(id) = SegmentId::parse(&text, size) {
            assert_eq!(id.name(size), text.to_ascii_uppercase());
            assert!(id.start(size) < id.end(size), "a segment ends behind its beginning");
            if id.end(size) < Lsn(u64::MAX) {
                assert_eq!(SegmentId::parse(&id.next().name(size), size).ok(), Some(id.next()));
            }
            let _ = Lineage(u32::MAX).partial(&SegmentName::postgres(id, size));
        }
        let _ = layout::postgres_segment_of(&text, size);
    }
    if let Some((first, partial)) = layout::mongodb_segment_of(&text) {
        let name = SegmentName::mongodb(first);
        let key = if partial { Lineage(1).partial(&name) } else { Lineage(1).sealed(&name) };
        assert_eq!(key.name(), text);
    }
    if let Some(timeline) = History::parse_name(&text) {
        assert_eq!(
            History::file_name(timeline),
            text.to_ascii_uppercase().replace("HISTORY", "history")
        );
    }
    if let Some(seq) = layout::sequence_of(&text) {
        let _ = Lineage(1).tail("x", seq);
    }
    let _ = (parse_bytes(&text), version_number(&text));
}

fuzz::target!("names", most: 1 << 20, seeds: seeds, input: input);
