//! What an earlier run left in the spool folder: an open file and a sealed one of any content.
#![no_main]

use std::path::PathBuf;
use std::sync::Arc;

use archiver::spool::recover::{RecoverSetup, StoreEnd, recover};
use archiver::spool::{OplogSegments, Segmenter, WalSegments};
use fuzz::{Input, disk::MemoryDisk, seeds};
use proto::mongodb::OplogTs;
use proto::position::{Epoch, Offset, Position};
use proto::postgres::lsn::SegmentSize;
use proto::segment::{Codec, Engine, FRAME_RAW_MAX, Footer, Frame, Hash, OpenSegment, SegmentHead};

const START: u64 = 7 << 20;

fn head(engine: Engine) -> SegmentHead {
    SegmentHead {
        engine,
        lineage: 1,
        epoch: Epoch(1),
        number: 7,
        writer: 1,
        start: Offset(START),
        previous: Hash::NONE,
    }
}

fn seeds() -> Vec<seeds::Seed> {
    let raw: Vec<u8> = (0..500_u32).flat_map(|n| (n / 9).to_le_bytes()).collect();
    let frames = |codec| -> Vec<u8> {
        raw.chunks(700)
            .flat_map(|piece| Frame::of(codec, piece).expect("compresses").bytes)
            .collect()
    };
    let sealed = |engine, raw: &[u8], partial| {
        let mut segment = OpenSegment::new(head(engine));
        let frame = Frame::of(Codec::Lz4, raw).expect("compresses");
        segment.push(frame.entry, raw);
        [frame.bytes, segment.seal(partial).1].concat()
    };
    let input = |mode: u8, known: u8, sealed: &[u8], open: &[u8]| {
        [&[mode, known][..], &(sealed.len() as u16).to_le_bytes(), sealed, open].concat()
    };
    vec![
        seeds::seed("open-lz4", input(0, 0, &[], &frames(Codec::Lz4))),
        seeds::seed("open-zstd", input(1, 0, &[], &frames(Codec::default()))),
        seeds::seed("open-none", input(0, 4, &[], &frames(Codec::None)[..900])),
        seeds::seed("partial", input(0, 0, &sealed(Engine::Postgresql, &raw, true), &[])),
        seeds::seed(
            "full",
            input(0, 0, &sealed(Engine::Postgresql, &vec![0; 1 << 20], false), &frames(Codec::Lz4)),
        ),
        seeds::seed(
            "oplog",
            input(1, 0, &sealed(Engine::Mongodb, &raw, false), &frames(Codec::Lz4)),
        ),
    ]
}

/// The footer's checksum made to fit.
fn repaired(mut object: Vec<u8>) -> Vec<u8> {
    let Some(at) = object.len().checked_sub(20) else { return object };
    let len = u32::from_le_bytes(object[at..at + 4].try_into().expect("four")) as usize;
    if let Some(from) = at.checked_sub(len) {
        let crc = crc32fast::hash(&object[from..at]);
        object[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }
    object
}

fn input(data: &[u8]) {
    let mut input = Input(data);
    let (mode, known) = (input.byte(), input.byte());
    let sealed = repaired(input.field().to_vec());
    let open = input.0;
    let wal = mode & 1 == 0;
    let segmenter: Arc<dyn Segmenter> = match wal {
        true => Arc::new(WalSegments(SegmentSize::try_from(1 << 20).expect("1 MiB"))),
        false => Arc::new(OplogSegments),
    };
    let dir = PathBuf::from("/spool");
    let disk = MemoryDisk::default();
    let mut behind = 7;
    if !sealed.is_empty() {
        let footer = Footer::decode_suffix(&sealed).ok();
        behind += u64::from(footer.is_some_and(|footer| !footer.partial));
        disk.put(&dir.join("one.sealed"), sealed);
    }
    let at = Offset(behind << 20);
    if !open.is_empty() {
        let name = match segmenter.holding(Position::new(Epoch(1), at)) {
            Some(slot) => format!("{}.open", slot.name.name),
            None => {
                let slot =
                    segmenter.named(Epoch(1), OplogTs::new(1_795_150_757, 2).0, Offset(START));
                format!("{}@{START}-{}.open", slot.name.name, Hash::NONE)
            }
        };
        disk.put(&dir.join(name), open.to_vec());
    }
    let setup = RecoverSetup {
        disk: Arc::new(disk),
        dir,
        codec: Codec::Lz4,
        segmenter: segmenter.clone(),
        lineage: 1,
        writer: 2,
    };
    let end = StoreEnd {
        epoch: Epoch(1),
        start: Offset(START),
        slot: segmenter.holding(Position::new(Epoch(1), Offset(START))),
        previous: Hash::NONE,
        raw: open[..usize::from(known).min(open.len())].to_vec(),
    };
    let recovered = recover(&setup, &end).expect("a disk in memory does not fail");
    assert!(recovered.start.next.0 >= START, "nothing that the store has is asked for again");
    let mut previous = Hash::NONE;
    for Footer { head, partial, hash, .. } in recovered.sealed.iter().map(|sealed| &sealed.footer) {
        assert_eq!(head.previous, previous, "what is kept continues what is before it");
        previous = if *partial { previous } else { *hash };
    }
    let place = |found: &archiver::spool::recover::Recovered| {
        let open =
            found.start.open.as_ref().map(|open| (open.segment.raw_len(), open.segment.hash()));
        let sealed: Vec<_> = found.sealed.iter().map(|sealed| sealed.footer.clone()).collect();
        (found.start.epoch, found.start.next, found.start.previous, open, sealed, found.bytes)
    };
    let first = place(&recovered);
    drop(recovered);
    let again = recover(&setup, &end).expect("a disk in memory does not fail");
    assert_eq!(place(&again), first, "what was recovered is recovered again");
}

fuzz::target!("spool", most: FRAME_RAW_MAX * 3, seeds: seeds, input: input);
