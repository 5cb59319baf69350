//! Sealed objects and their footers, as they come and with checksums that fit.
#![no_main]

use fuzz::seeds;
use proto::position::{Epoch, Offset};
use proto::segment::{
    Codec, Engine, FRAME_RAW_MAX, Footer, Frame, Hash, OpenSegment, SegmentHead, read_sealed,
};

/// The footer's trailer: length, CRC, version, reserved, magic (docs/FORMAT.md).
const TRAILER: usize = 20;
/// Where the footer's content has the hash of the raw bytes.
const HASH_AT: usize = 56;
/// A larger segment is no mistake, and takes what it takes.
const RAW_MOST: u64 = 4 << 20;

fn seeds() -> Vec<seeds::Seed> {
    let head = SegmentHead {
        engine: Engine::Postgresql,
        lineage: 1,
        epoch: Epoch(3),
        number: 0x42,
        writer: 7,
        start: Offset(0x42 << 20),
        previous: Hash::of(b"before"),
    };
    let raw: Vec<u8> = (0..2000_u32).flat_map(|n| (n / 50).to_le_bytes()).collect();
    let object_of = |head, codec, raw: &[u8], partial| {
        let (mut segment, mut object) = (OpenSegment::new(head), Vec::new());
        for piece in raw.chunks(3000) {
            let frame = Frame::of(codec, piece).expect("compresses");
            object.extend(&frame.bytes);
            segment.push(frame.entry, piece);
        }
        object.extend(segment.seal(partial).1);
        object
    };
    let object = |codec, raw, partial| object_of(head, codec, raw, partial);
    let endless = SegmentHead { start: Offset(u64::MAX - 5), ..head };
    vec![
        seeds::seed("found-endless", object_of(endless, Codec::Lz4, &raw[..100], true)),
        seeds::seed("zstd", object(Codec::default(), &raw, false)),
        seeds::seed("lz4", object(Codec::Lz4, &raw, false)),
        seeds::seed("partial", object(Codec::None, &raw[..100], true)),
        seeds::seed("empty", object(Codec::None, &[], true)),
    ]
}

/// The same object with every checksum made to fit, so that what is behind them is reached.
fn repaired(data: &[u8]) -> Option<Vec<u8>> {
    let mut object = data.to_vec();
    let at = object.len().checked_sub(TRAILER)?;
    let len = u32::from_le_bytes(object[at..at + 4].try_into().ok()?) as usize;
    let from = at.checked_sub(len)?;
    let seal = |object: &mut Vec<u8>| {
        let crc = crc32fast::hash(&object[from..at]);
        object[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    };
    seal(&mut object);
    let footer = Footer::decode_suffix(&object).ok()?;
    let table = at - footer.frames.len() * 12;
    let (mut begin, mut raw) = (0_usize, Vec::new());
    for (number, entry) in footer.frames.iter().enumerate() {
        let frame = object.get(begin..begin.checked_add(entry.file_len as usize)?)?.to_vec();
        begin += frame.len();
        let field = table + number * 12 + 8;
        object[field..field + 4].copy_from_slice(&crc32fast::hash(&frame).to_le_bytes());
        if raw.len() as u64 <= RAW_MOST {
            raw.extend(proto::segment::decompress(&frame).unwrap_or_default());
        }
    }
    object.get_mut(from + HASH_AT..from + HASH_AT + 32)?.copy_from_slice(&Hash::of(&raw).0);
    seal(&mut object);
    Some(object)
}

fn check(object: &[u8]) {
    let footer = Footer::decode_suffix(object);
    if let Ok(footer) = &footer {
        let again = footer.encode();
        assert_eq!(Footer::decode_suffix(&again).as_ref().ok(), Some(footer), "it reads back");
        assert!(footer.head.start.0.checked_add(footer.raw_len).is_some(), "it has an end");
        assert!(footer.frames.len() * 12 <= object.len());
        let _ = footer.frames_len();
        if footer.raw_len > RAW_MOST {
            return;
        }
    }
    if let Ok((read, raw)) = read_sealed(object) {
        assert_eq!((read.raw_len, read.hash), (raw.len() as u64, Hash::of(&raw)));
        assert_eq!(Some(read), footer.ok());
    }
}

fn input(data: &[u8]) {
    check(data);
    if let Some(object) = repaired(data) {
        check(&object);
    }
}

fuzz::target!("sealed", most: FRAME_RAW_MAX + (24 << 20), seeds: seeds, input: input);
