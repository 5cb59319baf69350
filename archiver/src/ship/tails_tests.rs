//! Tails of a segment that fills faster than the store takes them.

use std::path::Path;

use proto::archive::chain;
use proto::disk::SystemDisk;
use proto::position::{Epoch, Position};
use proto::postgres::lsn::SegmentSize;
use proto::segment::Engine;
use proto::timestamp::Timestamp;

use super::super::shipper::ship_tail;
use super::*;
use crate::spool::{OpenFile, STOP_EVERY, WalSegments};
use crate::testing::{archive, tools};

const PIECE: usize = 256 << 10;
const START: u64 = 5 * SegmentSize::DEFAULT.bytes();

/// Bytes that no codec makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len / 8).flat_map(step).collect()
}

fn open_file(folder: &Path) -> OpenFile {
    let position = Position::new(Epoch(1), Offset(START));
    let slot = WalSegments(SegmentSize::DEFAULT).slot(position);
    let head = SegmentHead {
        engine: Engine::Postgresql,
        lineage: 1,
        epoch: Epoch(1),
        number: slot.number,
        writer: 1,
        start: slot.start,
        previous: Hash::NONE,
    };
    OpenFile::create(Arc::new(SystemDisk), folder, slot, head).expect("a file")
}

fn append(open: &mut OpenFile, raw: &[u8]) {
    for piece in raw.chunks(PIECE) {
        open.append(&Frame::of(Codec::Lz4, piece).expect("a frame"), piece).expect("appended");
    }
    open.sync().expect("synced");
}

#[tokio::test]
async fn a_tail_is_of_bounded_size_however_late_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let tools = tools(archive(folder.path()).await, 1);
    let mut open = open_file(folder.path());
    let raw = noise(9 << 20);
    append(&mut open, &raw);
    let clock = Timestamp(7);
    let offset = Offset(START + raw.len() as u64);
    let mark = Some(Watermark { clock, offset, margin_ms: 2000 });
    let state = open.state(mark, false);
    let mut ours = TailChain::new(state.head, state.slot.name.name.clone());
    while ours.raw_len() < state.raw_len {
        ours.put_data(&tools, &state, mark).await.expect("put");
    }

    let name = &state.slot.name.name;
    let chain = chain::follow(&*tools.store, Lineage(1), name).await.expect("a chain");
    assert!(chain.links.len() > 3, "{} tails", chain.links.len());
    let largest = chain.links.iter().map(|link| link.bytes).max().expect("tails");
    assert!(largest <= TAIL_MAX + STOP_EVERY + (1 << 16), "{largest} bytes");
    let (read, _) = chain::read_raw(&*tools.store, name, &chain).await.expect("whole");
    assert_eq!(Hash::of(&read), Hash::of(&raw));
    let proving: Vec<bool> = chain.links.iter().map(|l| l.header.watermark.is_some()).collect();
    let (last, earlier) = proving.split_last().expect("tails");
    assert!(*last && !earlier.contains(&true), "only the last one reaches what is proved");
}

#[tokio::test]
async fn a_chain_that_ends_within_a_frame_of_the_spool_goes_on_with_the_very_next_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let tools = tools(archive(folder.path()).await, 1);
    let raw = noise(5 << 20);
    // What an earlier run put: its frames were others.
    let held = 3 * PIECE + 1000;
    let mut first = open_file(folder.path());
    append(&mut first, &raw[..held]);
    let state = first.state(None, false);
    let name = state.slot.name.name.clone();
    let mut earlier = TailChain::new(state.head, name.clone());
    earlier.put_data(&tools, &state, None).await.expect("put");

    let mut open = open_file(folder.path());
    append(&mut open, &raw);
    let state = open.state(None, false);
    let found = chain::follow(&*tools.store, Lineage(1), &name).await.expect("a chain");
    let mut ours = TailChain::continuing(state.head, name.clone(), &found);
    while ours.raw_len() < state.raw_len {
        ours.put_data(&tools, &state, None).await.expect("put");
    }
    let chain = chain::follow(&*tools.store, Lineage(1), &name).await.expect("a chain");
    let (read, _) = chain::read_raw(&*tools.store, &name, &chain).await.expect("whole");
    assert_eq!(Hash::of(&read), Hash::of(&raw));
}

/// The fence stood in a segment that was full by then: in the next one the older writer has the same
/// bytes first, each time.
#[tokio::test]
async fn an_older_writer_that_is_always_faster_is_fenced_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let older = tools(archive(folder.path()).await, 1);
    let newer = ShipTools { writer: 2, ..older.clone() };
    let raw = noise(3 * PIECE);
    let mut open = open_file(folder.path());
    append(&mut open, &raw[..2 * PIECE]);
    let state = open.state(None, false);
    let name = state.slot.name.name.clone();
    let mut theirs = TailChain::new(state.head, name.clone());
    theirs.put_data(&older, &state, None).await.expect("put");

    let head = SegmentHead { writer: 2, ..state.head };
    let ours = TailChain::new(head, name.clone());
    let (ours, done) = ship_tail(newer.clone(), ours, state).await;
    done.expect("shipped");
    append(&mut open, &raw[2 * PIECE..]);
    let state = open.state(None, false);
    let fenced = theirs.put_data(&older, &state, None).await;
    assert!(matches!(fenced, Err(ShipError::Fenced { own: 1, by: 2, .. })), "{fenced:?}");
    let (_, done) = ship_tail(newer, ours, state).await;
    done.expect("shipped");
    let chain = chain::follow(&*older.store, Lineage(1), &name).await.expect("a chain");
    let (read, _) = chain::read_raw(&*older.store, &name, &chain).await.expect("whole");
    assert_eq!(Hash::of(&read), Hash::of(&raw));
}
