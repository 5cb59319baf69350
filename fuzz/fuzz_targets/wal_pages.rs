//! Bytes that claim to be write-ahead log: pages, records, and the index made of them.
#![no_main]

use fuzz::{Input, input::pieces, seeds};
use proto::archive::index::{Indexer, SegmentIndex};
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize, Timeline};
use proto::postgres::page::PageHeader;
use proto::postgres::scan::{Scanner, Seen};

fn seeds() -> Vec<seeds::Seed> {
    [14, 16, 18]
        .map(|version| {
            let mut bytes = vec![0, 0, 9];
            bytes.extend(seeds::wal(version, 1500));
            seeds::seed(&version.to_string(), bytes)
        })
        .into()
}

fn scanned<'a>(
    start: Lsn,
    size: SegmentSize,
    bytes: impl Iterator<Item = &'a [u8]>,
) -> (Vec<String>, Seen, Lsn) {
    let mut scanner = Scanner::new(start, size);
    let mut events = Vec::new();
    for piece in bytes {
        scanner.feed(piece, &mut |event| {
            assert!(event.start < event.end, "an event ends behind its beginning");
            events.push(format!("{event:?}"));
        });
    }
    let seen = scanner.take_seen();
    (events, seen, scanner.reader().position())
}

fn input(data: &[u8]) {
    let mut input = Input(data);
    let size =
        SegmentSize::try_from(1 << (20 + u64::from(input.byte() % 11))).expect("1 MiB to 1 GiB");
    // The captures begin with a segment; anywhere else must do as well.
    let number = u64::from(input.byte() % 16) + 5;
    let step = input.byte();
    let bytes = input.0;
    let _ = PageHeader::parse(bytes);
    let id = SegmentId { timeline: Timeline(1), number };
    let start = Lsn(id.start(size).0 + u64::from(step & 1) * 0x1F00);
    let whole = scanned(start, size, std::iter::once(bytes));
    assert_eq!(whole, scanned(start, size, pieces(bytes, step)), "the pieces make a difference");
    assert_eq!(whole.2.0, start.0 + bytes.len() as u64, "every byte is taken");

    let frames = pieces(bytes, step).map(|piece| u32::try_from(piece.len()).expect("small"));
    let index = Indexer::build(id, size, &[], bytes, frames);
    let again = SegmentIndex::decode(&index.encode());
    assert_eq!(again.as_ref(), Ok(&index), "an index reads back as it was written");
    let blocks = index.blocks.iter().map(|block| u64::from(block.raw_len)).sum::<u64>();
    assert_eq!(blocks, bytes.len() as u64, "the blocks are all of the segment");
}

fuzz::target!("wal-pages", most: 8 << 20, seeds: seeds, input: input);
