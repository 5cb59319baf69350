//! Segments that end where the source says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::disk::SystemDisk;
use proto::position::{ByteCount, Epoch, Offset};
use proto::segment::{Codec, Hash};
use tokio::sync::mpsc;

use super::probe::NoProbe;
use super::recover::{RecoverSetup, Recovered, StoreEnd, recover};
use super::{
    OplogSegments, SealedFile, Slot, SpoolError, SpoolEvent, SpoolLevel, SpoolSetup, Spooler,
};
use crate::ring::{Item, ring};
use crate::seal::SegmentIndexer;

#[derive(Debug)]
struct NoIndex;

impl SegmentIndexer for NoIndex {
    fn version(&self) -> u32 {
        1
    }
    fn feed(&mut self, _slot: &Slot, _offset: u64, _raw: &[u8]) {}
    fn finish(&mut self, _slot: &Slot, _raw_len: u64) -> Option<Vec<u8>> {
        None
    }
}

/// What the spool folder holds, where the store holds nothing.
fn found(dir: &Path) -> Recovered {
    let setup = RecoverSetup {
        disk: Arc::new(SystemDisk),
        dir: dir.to_owned(),
        codec: Codec::Lz4,
        segmenter: Arc::new(OplogSegments),
        lineage: 1,
        writer: 1,
    };
    let (epoch, start, previous) = (Epoch(1), Offset(0), Hash::NONE);
    let end = StoreEnd { epoch, start, slot: None, previous, raw: Vec::new() };
    recover(&setup, &end).expect("recovered")
}

/// Takes up where the folder ends, behind the bytes `last`, and hands on `items`.
async fn run(
    dir: &Path,
    last: &[u8],
    items: Vec<Item>,
) -> (Result<(), SpoolError>, Vec<SpoolEvent>) {
    let (sender, receiver) = ring();
    let (events, mut inbox) = mpsc::unbounded_channel();
    let setup = SpoolSetup {
        disk: Arc::new(SystemDisk),
        dir: dir.to_owned(),
        codec: Codec::Lz4,
        flush: Duration::from_millis(1),
        segmenter: Arc::new(OplogSegments),
        level: Arc::new(SpoolLevel::new(ByteCount(1 << 30))),
        probe: Arc::new(NoProbe),
        lineage: 1,
        writer: 1,
    };
    setup.level.set(1 << 29);
    let spooler = Spooler::new(setup, found(dir).start, Box::new(NoIndex), receiver, events);
    let ended = tokio::spawn(spooler.behind(Bytes::copy_from_slice(last)).run());
    for item in items {
        // A spool that has ended takes nothing more.
        let _ = sender.push(item);
    }
    drop(sender);
    let ended = ended.await.expect("no panic");
    let mut told = Vec::new();
    while let Some(event) = inbox.recv().await {
        told.push(event);
    }
    (ended, told)
}

fn data(start: u64, byte: u8, len: usize) -> Item {
    Item::Data { start: Offset(start), bytes: Bytes::from(vec![byte; len]), clock: None }
}

fn begin(number: u64) -> Item {
    Item::Begin { number: 7 << 32 | number }
}

fn resume(from: u64) -> Item {
    Item::Resume { from: Offset(from) }
}

fn sealed(told: &[SpoolEvent]) -> Vec<&SealedFile> {
    let sealed = told.iter().filter_map(|event| match event {
        SpoolEvent::Sealed(sealed) => Some(sealed),
        _ => None,
    });
    sealed.collect()
}

/// Two whole segments and 200 bytes of a third.
async fn three(dir: &Path) -> Vec<SpoolEvent> {
    let large = 3 << 20;
    let items = vec![
        resume(0),
        begin(1),
        data(0, 1, 100),
        begin(2),
        data(100, 2, large),
        begin(3),
        data(100 + large as u64, 3, 200),
    ];
    let (ended, told) = run(dir, b"", items).await;
    ended.expect("taken");
    told
}

#[tokio::test]
async fn a_segment_ends_where_the_source_says_and_names_the_one_before_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let told = three(dir.path()).await;
    let [first, second] = sealed(&told)[..] else { panic!("{told:?}") };
    assert!(!first.footer.partial && !second.footer.partial);
    assert_eq!(first.slot.name.name, "0000000007.0000000001.bson");
    assert_eq!((first.slot.start, first.footer.raw_len), (Offset(0), 100));
    assert_eq!((second.slot.start, second.footer.raw_len), (Offset(100), 3 << 20));
    assert_eq!(first.footer.hash, Hash::of(&[1; 100]));
    assert_eq!(second.footer.head.previous, first.footer.hash);
    let open = told.iter().rev().find_map(|event| match event {
        SpoolEvent::Flushed(state) => Some(state),
        _ => None,
    });
    let open = open.expect("the third was flushed");
    assert_eq!((open.head.number, open.raw_len), (7 << 32 | 3, 200));
    assert_eq!(open.head.previous, second.footer.hash);
}

#[tokio::test]
async fn what_a_killed_run_left_goes_on_behind_its_last_entry() {
    let dir = tempfile::tempdir().expect("a folder");
    three(dir.path()).await;
    let left = found(dir.path());
    assert_eq!(left.sealed.len(), 2);
    let next = left.start.next.0;
    assert_eq!(next, 300 + (3 << 20));
    // It comes again with the beginning of its segment, which is begun already.
    let again =
        vec![resume(next - 50), begin(3), data(next - 50, 3, 80), begin(4), data(next + 30, 4, 9)];
    let (ended, told) = run(dir.path(), b"", again).await;
    ended.expect("the same bytes");
    let [third] = sealed(&told)[..] else { panic!("{told:?}") };
    assert_eq!(third.footer.hash, Hash::of(&[3; 230]));
}

#[tokio::test]
async fn an_entry_that_comes_again_with_other_bytes_is_not_taken() {
    let dir = tempfile::tempdir().expect("a folder");
    three(dir.path()).await;
    let next = found(dir.path()).start.next.0;
    let (ended, _) = run(dir.path(), b"", vec![resume(next - 50), data(next - 50, 9, 80)]).await;
    assert!(matches!(ended, Err(SpoolError::Damaged { .. })), "{ended:?}");
    // And again in one connection that breaks: what is proved already is another history.
    let twice = vec![
        resume(next - 200),
        begin(3),
        data(next - 200, 3, 100),
        resume(next - 150),
        data(next - 150, 9, 80),
    ];
    let (ended, _) = run(dir.path(), b"", twice).await;
    assert!(matches!(ended, Err(SpoolError::Diverged { .. })), "{ended:?}");
}

#[tokio::test]
async fn an_entry_of_the_segment_before_is_compared_where_no_segment_is_open() {
    let dir = tempfile::tempdir().expect("a folder");
    let (ended, _) = run(dir.path(), b"", vec![resume(0), begin(1), data(0, 1, 100)]).await;
    ended.expect("taken");
    let left = found(dir.path()).start.open.expect("open");
    left.seal(false, Codec::Lz4).expect("sealed");
    let again = |byte| vec![resume(60), data(60, byte, 40), begin(2), data(100, 2, 5)];
    let (ended, _) = run(dir.path(), &[1; 40], again(9)).await;
    assert!(matches!(ended, Err(SpoolError::Diverged { .. })), "{ended:?}");
    let (ended, told) = run(dir.path(), &[1; 40], again(1)).await;
    ended.expect("the same bytes");
    assert!(
        told.iter().any(|event| matches!(event, SpoolEvent::Flushed(state) if state.raw_len == 5))
    );
}

#[tokio::test]
async fn frames_behind_a_hole_are_never_taken_for_the_next_ones() {
    let dir = tempfile::tempdir().expect("a folder");
    let told = three(dir.path()).await;
    let hole = &sealed(&told)[1].path;
    proto::disk::Disk::remove(&SystemDisk, hole).expect("removed");
    let left = found(dir.path());
    assert_eq!(left.sealed.len(), 1);
    assert_eq!(left.start.next, Offset(100));
    assert!(left.start.open.is_none(), "the third segment begins behind the lost one");
}
