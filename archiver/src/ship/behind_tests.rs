//! Segments that come up where something is missing: the one before, or a tail that meets a fence.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::archive::layout::Lineage;
use proto::clock::SystemClock;
use proto::disk::SystemDisk;
use proto::position::{ByteCount, Epoch, Offset, Position};
use proto::postgres::lsn::SegmentSize;
use proto::segment::{Codec, Engine, Frame, Hash, SegmentHead};
use proto::store::fault::{Fault, FaultStore, Op, Rule};
use proto::store::{Class, Key, Store};
use tokio::sync::mpsc;

use super::resume::take_writer;
use super::{AckFrom, ShipError, ShipStart, Shipper};
use crate::seal::IndexQueue;
use crate::spool::{OpenFile, SealedFile, SpoolLevel, WalSegments};
use crate::testing::{NoIndex, archive, tools};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const PATIENCE: Duration = Duration::from_secs(60);

fn sealed(dir: &Path, number: u64) -> SealedFile {
    let start = Offset(number * SIZE.bytes());
    let slot = WalSegments(SIZE).slot(Position::new(Epoch(1), start));
    let head = SegmentHead {
        engine: Engine::Postgresql,
        lineage: 1,
        epoch: Epoch(1),
        number,
        writer: 1,
        start,
        previous: Hash::NONE,
    };
    let mut open = OpenFile::create(Arc::new(SystemDisk), dir, slot, head).expect("a file");
    let raw = vec![number as u8; 1 << 20];
    for _ in 0..SIZE.bytes() >> 20 {
        open.append(&Frame::of(Codec::Lz4, &raw).expect("a frame"), &raw).expect("written");
    }
    open.seal(false, Codec::Lz4).expect("sealed")
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

#[tokio::test]
async fn a_writer_that_meets_no_fence_learns_of_a_newer_one_from_the_ledger() {
    let root = tempfile::tempdir().expect("a folder");
    let store = archive(root.path()).await;
    let clock = SystemClock::new();
    let take = async |host: &str| take_writer(&*store, Lineage(1), &clock, host.to_owned()).await;
    let (own, newer) = (take("a").await.expect("taken"), take("b").await.expect("taken"));
    let dir = root.path().join("spool");
    std::fs::create_dir_all(&dir).expect("a folder");
    let (tools, level) = (tools(store.clone(), own), Arc::new(SpoolLevel::new(ByteCount(1 << 30))));
    let file = sealed(&dir, 1);
    level.set(file.file_len);
    let (_events, inbox) = mpsc::unbounded_channel();
    let (index, _indexing) = IndexQueue::start(Box::new(NoIndex), tools.clone(), level.clone());
    let start = ShipStart { stored: None, chain: None, sealed: vec![file] };
    let (shipper, _durable) = Shipper::new(tools, AckFrom::Store, level, index, inbox, start);
    let ended = tokio::time::timeout(PATIENCE, shipper.run()).await.expect("it ends");
    assert!(
        matches!(ended, Err(ShipError::Fenced { own: o, by, .. }) if (o, by) == (own, newer)),
        "{ended:?}"
    );
}

/// With `--ack spool` the database may have let go of both, and a next run that finds a hole in the
/// spool asks for the second one again (found by the simulation).
#[tokio::test]
async fn a_segment_leaves_the_spool_only_once_the_store_holds_all_before_it() {
    let root = tempfile::tempdir().expect("a folder");
    let (store, faults) = FaultStore::new(archive(root.path()).await, 1);
    let dir = root.path().join("spool");
    std::fs::create_dir_all(&dir).expect("a folder");
    let files = [sealed(&dir, 1), sealed(&dir, 2)];
    let keys: Vec<Key> = files.iter().map(|file| Lineage(1).sealed(&file.slot.name)).collect();
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    let first = Rule::once(Op::Put, Fault::FailBefore(Class::Retry));
    faults.script(first.on(keys[0].as_str()).times(u32::MAX));

    let level = Arc::new(SpoolLevel::new(ByteCount(1 << 30)));
    level.set(files.iter().map(|file| file.file_len).sum());
    let tools = tools(store.clone(), 1);
    let (_events, inbox) = mpsc::unbounded_channel();
    let (index, _indexing) = IndexQueue::start(Box::new(NoIndex), tools.clone(), level.clone());
    let start = ShipStart { stored: None, chain: None, sealed: files.into() };
    let (shipper, _durable) = Shipper::new(tools, AckFrom::Spool, level, index, inbox, start);
    let running = tokio::spawn(shipper.run());

    until("the second is stored", async || {
        store.head(&keys[1]).await.is_ok_and(|found| found.is_some())
    })
    .await;
    // Long enough for one that went at once.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(paths[1].exists(), "it went before the one that stands before it");
    faults.heal();
    until("both are stored and gone", async || !paths.iter().any(|path| path.exists())).await;
    assert!(store.head(&keys[0]).await.expect("asked").is_some());
    running.abort();
}
