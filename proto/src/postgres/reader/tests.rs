//! The reader against what real servers wrote and `pg_waldump` read, and against rubbish.

use proptest::prelude::*;

use super::super::lsn::{Lsn, SegmentSize};
use super::super::record::Anomaly;
use super::super::testdata::Capture;
use super::{Item, KEPT, RecordReader};

const MANAGERS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// An item without its borrowed bytes.
#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Record {
        start: Lsn,
        end: Lsn,
        prev: Lsn,
        xid: u32,
        rmid: u8,
        len: u32,
        ok: bool,
        main: Vec<u8>,
    },
    Skipped(Lsn),
    Overwritten(Lsn, Lsn),
    End(Lsn),
    Anomaly(Anomaly),
}

fn own(item: Item<'_>) -> Owned {
    match item {
        Item::Record(r) => Owned::Record {
            start: r.start,
            end: r.end,
            prev: r.prev,
            xid: r.xid,
            rmid: r.rmid,
            len: r.total_len,
            ok: r.crc_ok,
            main: r.main_data.to_vec(),
        },
        Item::Skipped { end } => Owned::Skipped(end),
        Item::Overwritten { record, at } => Owned::Overwritten(record, at),
        Item::End { at } => Owned::End(at),
        Item::Anomaly(anomaly) => Owned::Anomaly(anomaly),
    }
}

fn read(start: Lsn, size: SegmentSize, pieces: &[&[u8]]) -> Vec<Owned> {
    let mut reader = RecordReader::new(start, size);
    let mut found = Vec::new();
    for piece in pieces {
        reader.feed(piece, &mut |item| found.push(own(item)));
    }
    found
}

fn one_megabyte() -> SegmentSize {
    SegmentSize::try_from(1 << 20).expect("a size")
}

/// Where the first record of 15's capture begins, with some of the log behind it.
fn sample() -> (Lsn, Vec<u8>) {
    let capture = Capture::open(15);
    (capture.start, capture.wal[..256 << 10].to_vec())
}

#[test]
fn every_record_is_the_one_that_pg_waldump_reads() {
    for capture in Capture::all() {
        let found = read(capture.start, capture.size, &[&capture.wal]);
        let mut lines = capture.dump.iter();
        for item in &found {
            let Owned::Record { start, prev, xid, rmid, len, ok, .. } = item else { continue };
            let line = lines.next().expect("no more records than pg_waldump found");
            let version = capture.version;
            assert!(*ok, "{version}: {start}");
            assert_eq!((*start, *prev), (line.lsn, line.prev), "{version}");
            assert_eq!((*xid, *len), (line.xid, line.total_len), "{version}: {start}");
            assert_eq!(MANAGERS[usize::from(*rmid)], line.manager, "{version}: {start}");
        }
        assert_eq!(lines.count(), 0, "{}: pg_waldump found more", capture.version);
        let anomalies = found.iter().filter(|i| matches!(i, Owned::Anomaly(_))).count();
        assert_eq!(anomalies, 0, "{}", capture.version);
        assert!(matches!(found.last(), Some(Owned::End(_))), "{}", capture.version);
    }
}

#[test]
fn a_segment_read_alone_gives_the_records_that_end_in_it_and_did_not_begin_before() {
    let capture = Capture::open(16);
    let whole = read(capture.start, capture.size, &[&capture.wal]);
    for (number, segment) in capture.wal.chunks(1 << 20).enumerate() {
        let from = Lsn(capture.start.0 + (number << 20) as u64);
        let until = Lsn(from.0 + (1 << 20));
        let mine = |item: &&Owned| matches!(item, Owned::Record { start, end, .. } if *start > from && *end <= until);
        let alone = read(from, capture.size, &[segment]);
        assert_eq!(
            alone.iter().filter(mine).collect::<Vec<_>>(),
            whole.iter().filter(mine).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn a_record_over_several_pages_and_segments_is_one_record() {
    for capture in Capture::all() {
        let found = read(capture.start, capture.size, &[&capture.wal]);
        let big = found.iter().any(|item| {
            matches!(item, Owned::Record { start, end, len, ok: true, .. }
                if *len > 1 << 20 && end.0 - start.0 > u64::from(*len))
        });
        assert!(big, "{}", capture.version);
    }
}

#[test]
fn a_flipped_bit_is_reported_and_the_next_page_is_read_again() {
    let (start, clean) = sample();
    let whole = read(start, one_megabyte(), &[&clean]);
    let mut damaged = clean.clone();
    let (position, last) = whole
        .iter()
        .find_map(|item| match item {
            Owned::Record { start: s, end, .. } if s.0 - start.0 > 70_000 => Some((*s, *end)),
            _ => None,
        })
        .expect("a record");
    damaged[(position.0 - start.0) as usize + 26] ^= 1;
    let found = read(start, one_megabyte(), &[&damaged]);
    assert!(found.iter().any(
        |item| matches!(item, Owned::Anomaly(Anomaly::Checksum { at, .. }) if *at == position)
    ));
    let page = (last.0 / 8192 + 2) * 8192;
    let behind = |item: &&Owned| matches!(item, Owned::Record { start, .. } if start.0 > page);
    assert!(found.iter().filter(behind).eq(whole.iter().filter(behind)));
}

#[test]
fn zeros_end_the_log_and_the_next_segment_may_go_on() {
    let capture = Capture::open(17);
    let mut wal = capture.wal.clone();
    let cut = 3 * 8192;
    wal[cut..1 << 20].fill(0);
    let found = read(capture.start, capture.size, &[&wal]);
    let after = Lsn(capture.start.0 + (1 << 20));
    assert!(found.iter().any(|item| match item {
        Owned::End(at) | Owned::Anomaly(Anomaly::EmptyPage { at, .. }) =>
            at.0 <= capture.start.0 + cut as u64,
        _ => false,
    }));
    assert!(found.iter().any(|item| matches!(item, Owned::Record { start, .. } if *start > after)));
}

#[test]
fn a_record_given_up_after_a_crash_is_no_damage() {
    let capture = Capture::open(18);
    let size = capture.size;
    let whole = read(capture.start, size, &[&capture.wal]);
    // A record that begins on one page and ends on the next: as if only its head had been written.
    let (victim, previous) = whole
        .iter()
        .find_map(|item| match item {
            Owned::Record { start, end, prev, .. } if start.0 / 8192 + 1 == end.0 / 8192 => {
                Some((*start, *prev))
            }
            _ => None,
        })
        .expect("a record over two pages");
    let page = (victim.0 / 8192 + 1) * 8192;
    let at = (page - capture.start.0) as usize;
    let mut wal = capture.wal[..at + 8192].to_vec();
    // The page is begun anew with the flag, and one record of nothing but its header.
    wal[at + 2..at + 4].copy_from_slice(&8_u16.to_le_bytes());
    wal[at + 16..at + 20].fill(0);
    wal[at + 24..].fill(0);
    let mut header = [0; 24];
    header[0] = 24;
    header[8..16].copy_from_slice(&previous.0.to_le_bytes());
    header[17] = 21;
    let crc = crc32c::crc32c(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    wal[at + 24..at + 48].copy_from_slice(&header);
    let found = read(capture.start, size, &[&wal]);
    assert!(found.contains(&Owned::Overwritten(victim, Lsn(page))));
    assert!(!found.iter().any(|item| matches!(item, Owned::Anomaly(_))), "{found:?}");
    assert!(found.iter().any(|i| matches!(i, Owned::Record { start, .. } if start.0 == page + 24)));
}

#[test]
fn a_start_inside_a_page_reads_from_the_next_page_on() {
    let (start, wal) = sample();
    let whole = read(start, one_megabyte(), &[&wal]);
    for cut in [1, 8, 24, 39, 40, 100, 8191, 8192, 8193, 16_400] {
        let from = Lsn(start.0 + cut as u64);
        let found = read(from, one_megabyte(), &[&wal[cut..]]);
        let page = from.0.next_multiple_of(8192);
        let first = found.iter().find_map(|i| match i {
            Owned::Record { start, .. } => Some(*start),
            _ => None,
        });
        let expected = whole.iter().find_map(|i| match i {
            Owned::Record { start, .. } if start.0 >= page => Some(*start),
            _ => None,
        });
        assert_eq!(first, expected, "{cut}");
    }
}

#[test]
fn a_record_of_a_gigabyte_is_read_in_bounded_memory() {
    let mut reader = RecordReader::new(Lsn(0), one_megabyte());
    let total: u32 = 1 << 30;
    let mut left = u64::from(total);
    let mut position: u64 = 0;
    let mut page = vec![0_u8; 8192];
    // Enough of it to pass what is kept; the rest would only take time.
    while position < 3 * KEPT as u64 {
        let header = if position.is_multiple_of(1 << 20) { 40 } else { 24 };
        page.fill(7);
        page[..header].fill(0);
        page[..2].copy_from_slice(&0xD118_u16.to_le_bytes());
        page[2] = u8::from(position > 0) | if header == 40 { 2 } else { 0 };
        page[8..16].copy_from_slice(&position.to_le_bytes());
        if position > 0 {
            page[16..20].copy_from_slice(&u32::try_from(left).expect("fits").to_le_bytes());
        }
        page[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        if position == 0 {
            page[40..64].fill(0);
            page[40..44].copy_from_slice(&total.to_le_bytes());
            page[57] = 1;
        }
        reader.feed(&page, &mut |item| panic!("nothing ends here: {item:?}"));
        left -= 8192 - header as u64;
        position += 8192;
    }
    assert_eq!(reader.open_record(), Some(Lsn(40)));
    assert!(reader.kept.len() <= KEPT && reader.kept.capacity() <= 2 * KEPT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_pieces_give_the_same_records(cuts in prop::collection::vec(0_usize..(256 << 10), 0..40)) {
        let (start, wal) = sample();
        let mut cuts = cuts;
        cuts.extend([0, wal.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &wal[w[0]..w[1]]).collect();
        prop_assert_eq!(
            read(start, one_megabyte(), &pieces),
            read(start, one_megabyte(), &[&wal])
        );
    }

    #[test]
    fn byte_by_byte_gives_the_same_records(from in 0_usize..30) {
        let (start, wal) = sample();
        let from = from * 8192;
        let wal = &wal[from..from + 16_384];
        let start = Lsn(start.0 + from as u64);
        let pieces: Vec<&[u8]> = wal.chunks(1).collect();
        prop_assert_eq!(read(start, one_megabyte(), &pieces), read(start, one_megabyte(), &[wal]));
    }

    #[test]
    fn arbitrary_bytes_never_panic(start in any::<u64>(), bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        read(Lsn(start), one_megabyte(), &[&bytes]);
    }

    #[test]
    fn damaged_log_never_panics(
        wounds in prop::collection::vec((0_usize..(256 << 10), any::<u8>()), 1..30),
        shift in 0_usize..9000,
    ) {
        let (start, mut wal) = sample();
        for (at, byte) in wounds {
            wal[at] = byte;
        }
        read(start, one_megabyte(), &[&wal[shift..]]);
        read(start, SegmentSize::DEFAULT, &[&wal]);
    }
}
