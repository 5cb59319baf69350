//! A new epoch begins with its parent's bytes, or it is another cluster's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::disk::SystemDisk;
use proto::position::{ByteCount, Epoch, Offset, Position};
use proto::postgres::lsn::SegmentSize;
use proto::segment::{Codec, Engine, Frame, Hash, SegmentHead};
use tokio::sync::mpsc;

use super::probe::NoProbe;
use super::{
    OpenFile, SpoolError, SpoolEvent, SpoolLevel, SpoolSetup, SpoolStart, Spooler, WalSegments,
};
use crate::ring::{EpochChange, Item, RingSender, ring};
use crate::source::postgres::indexer::WalIndexer;

const START: u64 = 5 << 20;

type Ended = tokio::task::JoinHandle<Result<(), SpoolError>>;

fn spooler(dir: &std::path::Path) -> (RingSender, mpsc::UnboundedReceiver<SpoolEvent>, Ended) {
    let (epoch, next, previous) = (Epoch(1), Offset(START), Hash::NONE);
    spooler_at(dir, SpoolStart { epoch, next, previous, open: None, proved: None })
}

fn spooler_at(
    dir: &std::path::Path,
    start: SpoolStart,
) -> (RingSender, mpsc::UnboundedReceiver<SpoolEvent>, Ended) {
    let (sender, receiver) = ring();
    let (events, inbox) = mpsc::unbounded_channel();
    let setup = SpoolSetup {
        disk: Arc::new(SystemDisk),
        dir: dir.to_owned(),
        codec: Codec::Lz4,
        flush: Duration::from_millis(1),
        segmenter: Arc::new(WalSegments(setup_size())),
        level: Arc::new(SpoolLevel::new(ByteCount(1 << 30))),
        probe: Arc::new(NoProbe),
        lineage: 1,
        writer: 1,
    };
    let indexer = Box::new(WalIndexer::new(setup_size()));
    (sender, inbox, tokio::spawn(Spooler::new(setup, start, indexer, receiver, events).run()))
}

fn setup_size() -> SegmentSize {
    SegmentSize::try_from(1 << 20).expect("a size")
}

fn data(start: u64, byte: u8, len: usize) -> Item {
    Item::Data { start: Offset(start), bytes: Bytes::from(vec![byte; len]), clock: None }
}

/// 1000 bytes of epoch 1, a branch at 600, and what epoch 2 sends for its first 700.
async fn branch(copied: u8) -> (Result<(), SpoolError>, Vec<SpoolEvent>) {
    follow([Item::Resume { from: Offset(START) }, data(START, copied, 700)]).await
}

/// 1000 bytes of epoch 1, a branch at 600, and then what `items` say.
async fn follow(
    items: impl IntoIterator<Item = Item>,
) -> (Result<(), SpoolError>, Vec<SpoolEvent>) {
    let dir = tempfile::tempdir().expect("a folder");
    let spool = spooler(dir.path());
    let change = EpochChange {
        at: Offset(START + 600),
        next: Epoch(2),
        from: Offset(START),
        previous: None,
    };
    let parent = [Item::Resume { from: Offset(START) }, data(START, 1, 1000), Item::Epoch(change)];
    hand_on(spool, parent.into_iter().chain(items)).await
}

/// Hands on `items` and what follows from them.
async fn hand_on(
    (ring, mut inbox, ended): (RingSender, mpsc::UnboundedReceiver<SpoolEvent>, Ended),
    items: impl IntoIterator<Item = Item>,
) -> (Result<(), SpoolError>, Vec<SpoolEvent>) {
    for item in items {
        // A spool that has ended takes nothing more.
        let _ = ring.push(item);
    }
    drop(ring);
    let ended = ended.await.expect("no panic");
    let mut events = Vec::new();
    while let Some(event) = inbox.recv().await {
        events.push(event);
    }
    (ended, events)
}

#[tokio::test]
async fn a_new_epoch_that_begins_with_its_parents_bytes_is_followed() {
    let (ended, events) = branch(1).await;
    ended.expect("the same bytes");
    let partial = events.iter().any(|e| matches!(e, SpoolEvent::Sealed(s) if s.footer.partial));
    assert!(partial, "the parent's last segment is sealed as a partial one");
    assert_eq!(reached(&events), Some((Epoch(2), 700)));
}

/// How far what was told last reaches.
fn reached(events: &[SpoolEvent]) -> Option<(Epoch, u64)> {
    events.iter().rev().find_map(|event| match event {
        SpoolEvent::Flushed(state) => Some((state.slot.name.epoch, state.raw_len)),
        _ => None,
    })
}

/// Whether anything of the new epoch was told.
fn is_told(events: &[SpoolEvent]) -> bool {
    events.iter().any(|event| match event {
        SpoolEvent::Flushed(state) => state.slot.name.epoch == Epoch(2),
        SpoolEvent::Sealed(sealed) => sealed.slot.name.epoch == Epoch(2),
        _ => false,
    })
}

#[tokio::test]
async fn a_new_epoch_that_begins_with_other_bytes_is_another_clusters() {
    let (ended, events) = branch(2).await;
    assert!(matches!(ended, Err(SpoolError::Diverged { .. })), "{ended:?}");
    assert!(!is_told(&events), "its bytes were announced");
}

/// A connection that breaks after `first` bytes of the copy, and the next one.
fn broken(first: Item, next: impl IntoIterator<Item = Item>) -> Vec<Item> {
    let resume = || Item::Resume { from: Offset(START) };
    let mut items = vec![resume(), first, Item::Flush, resume()];
    items.extend(next);
    items
}

#[tokio::test]
async fn a_copy_that_a_reconnect_cuts_in_two_is_proved_whole_or_told_to_nobody() {
    // The second half differs: had the first one been forgotten, nothing would tell.
    let differs = [data(START, 1, 300), data(START + 300, 2, 400)];
    let (ended, events) = follow(broken(data(START, 1, 300), differs)).await;
    assert!(matches!(ended, Err(SpoolError::Diverged { .. })), "{ended:?}");
    assert!(!is_told(&events), "its bytes were announced");
    // The first half differs, and comes as it should the second time: it is not what is kept.
    let (ended, events) = follow(broken(data(START, 2, 300), [data(START, 1, 700)])).await;
    ended.expect("the same bytes");
    assert_eq!(reached(&events), Some((Epoch(2), 700)));
    let hash = events.iter().rev().find_map(|event| match event {
        SpoolEvent::Flushed(state) => Some(state.hash),
        _ => None,
    });
    assert_eq!(hash, Some(Hash::of(&[1; 700])));
}

#[tokio::test]
async fn a_copy_that_was_not_proved_to_its_end_is_told_to_nobody() {
    let flush = [data(START, 1, 300), Item::Flush];
    let (ended, events) = follow(broken(data(START, 1, 300), flush)).await;
    ended.expect("it may end there");
    assert!(!is_told(&events), "flushed by a shutdown of the server, or at the end");
    let (done, _skipped) = tokio::sync::oneshot::channel();
    let behind = START + (1 << 20);
    let gap = [
        data(START, 1, 300),
        Item::Skip { from: Offset(behind), done },
        data(behind, 3, 10),
        Item::Flush,
    ];
    let (ended, events) = follow(broken(data(START, 1, 300), gap)).await;
    ended.expect("a gap");
    assert_eq!(reached(&events), Some((Epoch(2), 10)));
    let of_copy = events.iter().any(|event| match event {
        SpoolEvent::Flushed(state) => state.slot.name.epoch == Epoch(2) && state.raw_len != 10,
        SpoolEvent::Sealed(sealed) => sealed.slot.name.epoch == Epoch(2),
        _ => false,
    });
    assert!(!of_copy, "{events:?}");
}

#[tokio::test]
async fn frames_without_a_checksum_are_told_to_nobody_before_the_source_has_proved_them() {
    let resume = || Item::Resume { from: Offset(START) };
    let left = |dir: &std::path::Path| {
        let slot = WalSegments(setup_size()).slot(Position::new(Epoch(1), Offset(START)));
        let head = SegmentHead {
            engine: Engine::Postgresql,
            lineage: 1,
            epoch: Epoch(1),
            number: slot.number,
            writer: 1,
            start: Offset(START),
            previous: Hash::NONE,
        };
        let disk = Arc::new(SystemDisk);
        let mut open = OpenFile::create(disk.clone(), dir, slot.clone(), head).expect("a file");
        open.append(&Frame::of(Codec::None, &[1; 500]).expect("a frame"), &[1; 500])
            .expect("written");
        drop(open);
        let (open, _) = OpenFile::recover(disk, dir, slot, head, &[]).expect("recovered");
        let (next, proved) = (Offset(START + 500), Some((200, Hash::of(&[1; 200]))));
        let previous = Hash::NONE;
        spooler_at(dir, SpoolStart { epoch: Epoch(1), next, previous, open: Some(open), proved })
    };
    let dir = tempfile::tempdir().expect("a folder");
    let broken = [resume(), data(START, 1, 300), Item::Flush, resume()];
    let (ended, events) = hand_on(left(dir.path()), broken).await;
    ended.expect("it may end there");
    assert!(events.is_empty(), "{events:?}");
    let (ended, events) = hand_on(left(dir.path()), [resume(), data(START, 1, 600)]).await;
    ended.expect("the same bytes");
    assert_eq!(reached(&events), Some((Epoch(1), 600)));
}
