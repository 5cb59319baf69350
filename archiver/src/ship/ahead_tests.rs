//! A chain that an older writer has brought further than we have come.

use std::sync::Arc;

use proto::archive::layout::OPLOG_EPOCH;
use proto::disk::SystemDisk;
use proto::position::Offset;
use proto::segment::{Codec, Engine, Frame, Hash, SegmentHead};

use super::tails::Grown;
use super::{ShipError, TailChain};
use crate::spool::{OpenFile, OpenState, OplogSegments, Segmenter};
use crate::testing::{archive, tools};

fn head(writer: u64) -> SegmentHead {
    SegmentHead {
        engine: Engine::Mongodb,
        lineage: 1,
        epoch: OPLOG_EPOCH,
        number: 7,
        writer,
        start: Offset(0),
        previous: Hash::NONE,
    }
}

/// The open segment of a spool of its own that holds these bytes.
fn state(dir: &std::path::Path, writer: u64, raw: &[u8]) -> OpenState {
    let slot = OplogSegments.named(OPLOG_EPOCH, 7, Offset(0));
    std::fs::create_dir_all(dir).expect("a folder");
    let file = OpenFile::create(Arc::new(SystemDisk), dir, slot, head(writer));
    let mut open = file.expect("a file");
    open.append(&Frame::of(Codec::Lz4, raw).expect("a frame"), raw).expect("written");
    open.sync().expect("synced");
    open.state(None, false)
}

/// What becomes of our first `ours` where an older writer has put `theirs`.
async fn grown(ours: &[u8], then: &[u8], theirs: &[u8]) -> Vec<Result<Grown, ShipError>> {
    let root = tempfile::tempdir().expect("a folder");
    let store = archive(root.path()).await;
    let name = OplogSegments.named(OPLOG_EPOCH, 7, Offset(0)).name.name;
    let older = state(&root.path().join("older"), 1, theirs);
    let mut chain = TailChain::new(head(1), name.clone());
    chain.put_data(&tools(store.clone(), 1), &older, None).await.expect("put");
    let mut chain = TailChain::new(head(2), name);
    let mut became = Vec::new();
    for (dir, raw) in [("first", ours), ("second", then)] {
        let newer = state(&root.path().join(dir), 2, raw);
        became.push(chain.put_data(&tools(store.clone(), 2), &newer, None).await);
    }
    became
}

#[tokio::test]
async fn a_tail_that_begins_with_our_bytes_and_goes_on_is_waited_for_and_adopted() {
    let became = grown(b"abc", b"abcdefgh", b"abcdef").await;
    assert!(matches!(became[..], [Ok(Grown::Ahead), Ok(Grown::Adopted)]), "{became:?}");
}

#[tokio::test]
async fn a_longer_tail_of_other_bytes_is_a_conflict() {
    let became = grown(b"abX", b"abXdefgh", b"abcdef").await;
    let conflict =
        |became: &Result<Grown, ShipError>| matches!(became, Err(ShipError::Conflict { .. }));
    assert!(became.iter().all(conflict), "{became:?}");
}
