//! From raw log to what a view must answer: for whoever implements [`super::LogView`].
//!
//! In: contiguous raw bytes that begin early enough, for a record may begin segments before it
//! ends (`proto::archive::index::Head::From` says where). Out: events, or one record.

use proto::postgres::lsn::{Lsn, SegmentSize};
use proto::postgres::reader::{Item, RecordReader};
use proto::postgres::scan::{Event, Scanner, Span};

/// The events whose records end behind `from`, up to `until`. The bytes begin at `start`, on a
/// page.
pub fn events_in<'a>(
    raw: impl IntoIterator<Item = &'a [u8]>,
    start: Lsn,
    size: SegmentSize,
    (from, until): (Lsn, Lsn),
) -> Vec<Event> {
    let mut scanner = Scanner::new(start, size);
    let mut events = Vec::new();
    for piece in raw {
        scanner.feed(piece, &mut |event| {
            if event.end > from && event.end <= until {
                events.push(event);
            }
        });
    }
    events
}

/// The first sound record in the bytes that begins at or behind `lsn`.
pub fn record_in<'a>(
    raw: impl IntoIterator<Item = &'a [u8]>,
    start: Lsn,
    size: SegmentSize,
    lsn: Lsn,
) -> Option<Span> {
    let mut reader = RecordReader::new(start, size);
    let mut found = None;
    for piece in raw {
        reader.feed(piece, &mut |item| {
            if let Item::Record(record) = item
                && found.is_none()
                && record.crc_ok
                && record.start >= lsn
            {
                found = Some(Span { start: record.start, end: record.end });
            }
        });
        if found.is_some() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 15's capture; the last record in it is a commit.
    fn capture() -> (Vec<u8>, Lsn, SegmentSize) {
        let name = "000000010000000000000006.wal.zst";
        let path = format!("{}/../testdata/wal/15/{name}", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::File::open(path).expect("the capture is part of the source");
        let size = SegmentSize::try_from(1 << 20).expect("a size");
        (zstd::decode_all(file).expect("zstd"), Lsn(6 << 20), size)
    }

    #[test]
    fn a_record_is_found_by_where_it_begins() {
        let (raw, start, size) = capture();
        let pieces = || raw.chunks(70_000);
        let commit = Span { start: Lsn(0x90_00E8), end: Lsn(0x90_0110) };
        assert_eq!(record_in(pieces(), start, size, commit.start), Some(commit));
        assert_eq!(record_in(pieces(), start, size, Lsn(commit.start.0 - 1)), Some(commit));
        assert_eq!(record_in(pieces(), start, size, Lsn(commit.start.0 + 1)), None);
    }

    #[test]
    fn events_belong_to_the_piece_in_which_they_end() {
        let (raw, start, size) = capture();
        let whole = events_in([&raw[..]], start, size, (start, Lsn(u64::MAX)));
        let pieces = (0..4_u64).flat_map(|n| {
            let from = Lsn(start.0 + (n << 20));
            events_in(raw.chunks(9000), start, size, (from, Lsn(from.0 + (1 << 20))))
        });
        assert!(pieces.eq(whole));
    }
}
