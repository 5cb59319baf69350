//! A new epoch begins with its parent's bytes, or it is another cluster's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::disk::SystemDisk;
use proto::position::{ByteCount, Epoch, Offset};
use proto::postgres::lsn::SegmentSize;
use proto::segment::{Codec, Hash};
use tokio::sync::mpsc;

use super::probe::NoProbe;
use super::{SpoolError, SpoolEvent, SpoolLevel, SpoolSetup, SpoolStart, Spooler, WalSegments};
use crate::ring::{EpochChange, Item, RingSender, ring};
use crate::source::postgres::indexer::WalIndexer;

const START: u64 = 5 << 20;

type Ended = tokio::task::JoinHandle<Result<(), SpoolError>>;

fn spooler(dir: &std::path::Path) -> (RingSender, mpsc::UnboundedReceiver<SpoolEvent>, Ended) {
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
    let (epoch, next, previous) = (Epoch(1), Offset(START), Hash::NONE);
    let start = SpoolStart { epoch, next, previous, open: None, proved: None };
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
    let dir = tempfile::tempdir().expect("a folder");
    let (ring, mut inbox, ended) = spooler(dir.path());
    let resume = Item::Resume { from: Offset(START) };
    let change = EpochChange {
        at: Offset(START + 600),
        next: Epoch(2),
        from: Offset(START),
        previous: None,
    };
    let items = [
        Item::Resume { from: Offset(START) },
        data(START, 1, 1000),
        Item::Epoch(change),
        resume,
        data(START, copied, 700),
    ];
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
    let reached = events.iter().rev().find_map(|event| match event {
        SpoolEvent::Flushed(state) => Some((state.slot.name.epoch, state.raw_len)),
        _ => None,
    });
    assert_eq!(reached, Some((Epoch(2), 700)));
}

#[tokio::test]
async fn a_new_epoch_that_begins_with_other_bytes_is_another_clusters() {
    let (ended, events) = branch(2).await;
    assert!(matches!(ended, Err(SpoolError::Diverged { .. })), "{ended:?}");
    let foreign = events.iter().any(|event| match event {
        SpoolEvent::Flushed(state) => state.slot.name.epoch == Epoch(2),
        SpoolEvent::Sealed(sealed) => sealed.slot.name.epoch == Epoch(2),
        _ => false,
    });
    assert!(!foreign, "its bytes were announced");
}
