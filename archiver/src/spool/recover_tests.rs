//! What a killed run left, at its worst moments.

use std::path::Path;
use std::sync::Arc;

use proto::disk::SystemDisk;
use proto::position::{Epoch, Offset, Position};
use proto::postgres::lsn::SegmentSize;
use proto::segment::{Codec, Engine, Frame, Hash, SegmentHead};

use super::recover::{RecoverSetup, Recovered, StoreEnd, recover};
use super::{OpenFile, Slot, WalSegments};

const SIZE: u64 = 1 << 20;
const START: Offset = Offset(5 * SIZE);

fn segments() -> WalSegments {
    WalSegments(SegmentSize::try_from(SIZE).expect("a size"))
}

fn slot() -> Slot {
    segments().slot(Position::new(Epoch(1), START))
}

/// An open file of segment 5 that holds `len` bytes in frames of 256 KiB.
fn left_open(dir: &Path, codec: Codec, len: usize) -> OpenFile {
    left_open_of(Epoch(1), dir, codec, len)
}

fn left_open_of(epoch: Epoch, dir: &Path, codec: Codec, len: usize) -> OpenFile {
    let slot = segments().slot(Position::new(epoch, START));
    let head = SegmentHead {
        engine: Engine::Postgresql,
        lineage: 1,
        epoch,
        number: slot.number,
        writer: 1,
        start: START,
        previous: Hash::NONE,
    };
    let mut open = OpenFile::create(Arc::new(SystemDisk), dir, slot, head).expect("a file");
    for piece in vec![7_u8; len].chunks(256 << 10) {
        open.append(&Frame::of(codec, piece).expect("a frame"), piece).expect("appended");
    }
    open.sync().expect("synced");
    open
}

fn recovered(dir: &Path, held: Vec<u8>) -> Recovered {
    let setup = RecoverSetup {
        disk: Arc::new(SystemDisk),
        dir: dir.to_owned(),
        codec: Codec::Lz4,
        segmenter: Arc::new(segments()),
        lineage: 1,
        writer: 2,
    };
    let (epoch, previous) = (Epoch(1), Hash::NONE);
    let end = StoreEnd { epoch, start: START, slot: Some(slot()), previous, raw: held };
    recover(&setup, &end).expect("recovered")
}

#[test]
fn a_segment_that_was_whole_but_not_sealed_is_sealed_and_nothing_goes_behind_it() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(left_open(dir.path(), Codec::Lz4, 1 << 20));
    let found = recovered(dir.path(), vec![7; 1000]);
    assert_eq!(found.sealed.len(), 1);
    assert_eq!(found.sealed[0].footer.raw_len, SIZE);
    assert_eq!(found.start.next, Offset(START.0 + SIZE));
    assert_eq!(found.start.previous, found.sealed[0].footer.hash);
    assert!(found.start.open.is_none());
}

#[test]
fn a_whole_segment_that_nothing_proves_comes_again_from_the_source() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(left_open(dir.path(), Codec::None, 1 << 20));
    let found = recovered(dir.path(), vec![7; 1000]);
    assert!(found.sealed.is_empty());
    assert_eq!(found.start.next, Offset(START.0 + 1000));
}

#[test]
fn a_sealed_file_with_a_flipped_bit_is_not_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let sealed = left_open(dir.path(), Codec::None, 1 << 20).seal(false, Codec::None);
    let path = sealed.expect("sealed").path;
    assert_eq!(recovered(dir.path(), Vec::new()).sealed.len(), 1);
    let disk = proto::disk::SystemDisk;
    use proto::disk::Disk;
    let mut bytes = disk.read(&path).expect("read");
    bytes[1000] ^= 1;
    disk.remove(&path).expect("removed");
    disk.create_new(&path).and_then(|mut file| file.write_all(&bytes)).expect("written");
    assert!(recovered(dir.path(), Vec::new()).sealed.is_empty());
}

/// The epoch's end comes again, at a branch before what was sealed: sealed anew from the branch alone,
/// the segment would not be the one that the store has.
#[test]
fn a_segment_that_was_sealed_unfilled_at_an_epochs_end_is_open_again_with_all_its_bytes() {
    for stored in [0, 1000, 300 << 10] {
        let dir = tempfile::tempdir().expect("a folder");
        let len = 300 << 10;
        let sealed = left_open(dir.path(), Codec::Lz4, len).seal(true, Codec::Lz4);
        let path = sealed.expect("sealed").path;
        let found = recovered(dir.path(), vec![7; stored]);
        let open = found.start.open.expect("it is open again");
        assert_eq!(
            (open.segment.raw_len(), open.segment.hash()),
            (len as u64, Hash::of(&vec![7; len]))
        );
        assert_eq!(found.start.next, Offset(START.0 + len as u64));
        assert!(found.sealed.is_empty() && !path.exists(), "it is there twice");
        drop(open);
        // And once more, as after a kill.
        let again = recovered(dir.path(), vec![7; stored]).start.open.expect("an open file");
        assert_eq!(again.segment.raw_len(), len as u64);
    }
}

#[test]
fn a_segment_sealed_unfilled_whose_footer_tells_of_other_bytes_comes_again_and_ends_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = left_open(dir.path(), Codec::Lz4, 300 << 10);
    let sealed = open.seal(true, Codec::Lz4).expect("sealed");
    // Frames and checksums fit; the hash is of something else.
    let mut footer = sealed.footer.clone();
    footer.hash = Hash::of(b"something else");
    let disk = SystemDisk;
    use proto::disk::Disk;
    let mut bytes = disk.read(&sealed.path).expect("read");
    bytes.truncate(usize::try_from(footer.frames_len()).expect("small"));
    bytes.extend(footer.encode());
    disk.remove(&sealed.path).expect("removed");
    disk.create_new(&sealed.path).and_then(|mut file| file.write_all(&bytes)).expect("written");
    let found = recovered(dir.path(), vec![7; 1000]);
    assert_eq!(found.start.next, Offset(START.0 + 1000), "what the store has is all there is");
    assert!(found.sealed.is_empty() && !sealed.path.exists());
}

/// Acknowledged from the spool, it is on no server any more.
#[test]
fn what_the_spool_alone_has_of_a_new_epoch_is_kept_though_the_old_ones_segment_is_stored() {
    let dir = tempfile::tempdir().expect("a folder");
    let sealed = left_open_of(Epoch(2), dir.path(), Codec::Lz4, 1 << 20).seal(false, Codec::Lz4);
    let sealed = sealed.expect("sealed");
    let found = recovered(dir.path(), vec![7; 1000]);
    assert_eq!(found.sealed.len(), 1);
    assert!(sealed.path.exists());
    let reached = (found.start.epoch, found.start.next, found.start.previous);
    assert_eq!(reached, (Epoch(2), Offset(START.0 + SIZE), sealed.footer.hash));
    assert!(found.start.open.is_none());
}

#[test]
fn an_open_file_that_differs_anywhere_from_what_the_store_holds_is_filled_from_the_store() {
    let len = 600 << 10;
    for differs_at in [None, Some(0), Some(len / 2), Some(len - 1)] {
        let dir = tempfile::tempdir().expect("a folder");
        drop(left_open(dir.path(), Codec::Lz4, len));
        let mut held = vec![7; len];
        if let Some(at) = differs_at {
            held[at] = 8;
        }
        let expected = Hash::of(&held);
        let open = recovered(dir.path(), held).start.open.expect("an open file");
        assert_eq!(open.segment.hash(), expected, "{differs_at:?}");
    }
    let dir = tempfile::tempdir().expect("a folder");
    drop(left_open(dir.path(), Codec::Lz4, len));
    let longer = recovered(dir.path(), vec![7; len + 1]).start.open.expect("an open file");
    assert_eq!(longer.segment.raw_len(), len as u64 + 1, "the store is ahead");
    let shorter = recovered(dir.path(), vec![7; 1]).start.open.expect("an open file");
    assert_eq!(shorter.segment.raw_len(), len as u64 + 1, "the spool is ahead");
}
