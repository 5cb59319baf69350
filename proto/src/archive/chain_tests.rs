//! Chains that are followed while they grow.

use std::sync::Arc;

use crate::archive::ArchiveError;
use crate::archive::chain::follow;
use crate::archive::layout::Lineage;
use crate::position::{Epoch, Offset};
use crate::segment::{Codec, Engine, Frame, Hash, SegmentHead, TailHeader, TailKind};
use crate::store::fault::{Fault, FaultStore, Faults, Kind, Op, Rule};
use crate::store::folder::FolderStore;
use crate::store::{Access, Body, Store};

const SEGMENT: &str = "000000010000000000000001";

/// Tail number `seq` of a chain in which each holds one byte, its number.
fn tail(seq: u8) -> Vec<u8> {
    let raw: Vec<u8> = (0..=seq).collect();
    let head = SegmentHead {
        engine: Engine::Postgresql,
        lineage: 1,
        epoch: Epoch(1),
        number: 1,
        writer: 1,
        start: Offset(1 << 24),
        previous: Hash::NONE,
    };
    let header = TailHeader {
        head,
        kind: TailKind::Data,
        first: seq.into(),
        last: seq.into(),
        raw_start: seq.into(),
        raw_len: 1,
        before: Hash::of(&raw[..raw.len() - 1]),
        after: Hash::of(&raw),
        watermark: None,
    };
    let mut object = header.encode();
    object.extend(Frame::of(Codec::Lz4, &[seq]).expect("compresses").bytes);
    object
}

/// An archive into which these tails came, in this order.
async fn archive(tails: &[u8]) -> (tempfile::TempDir, Arc<FaultStore>, Faults) {
    let folder = tempfile::tempdir().expect("a folder");
    let inner = FolderStore::open(folder.path(), Access::ReadWrite).await.expect("a store");
    let (store, faults) = FaultStore::new(Arc::new(inner), 1);
    for seq in tails {
        let key = Lineage(1).tail(SEGMENT, u64::from(*seq));
        store.put(&key, &Body::from(tail(*seq))).await.expect("put");
    }
    (folder, store, faults)
}

#[tokio::test]
async fn a_listing_that_lacks_tails_that_are_there_breaks_no_chain() {
    // The newest ones are hidden from the listing: here they stand first, and in the middle.
    let (_folder, store, faults) = archive(&[2, 4, 5, 0, 1, 3]).await;
    for hidden in 1..=3 {
        let lists = Rule::once(Op::List, Fault::HideNewest(hidden)).times(3);
        faults.script(lists);
        let chain = follow(&*store, Lineage(1), SEGMENT).await.expect("a whole chain");
        assert_eq!((chain.links.len(), chain.raw_len()), (6, 6), "{hidden} hidden");
        faults.heal();
    }
    assert!(faults.fired(Kind::HideNewest) >= 3);
}

#[tokio::test]
async fn a_tail_that_is_not_there_breaks_the_chain() {
    for missing in [0, 2] {
        let tails: Vec<u8> = (0..5).filter(|seq| *seq != missing).collect();
        let (_folder, store, _faults) = archive(&tails).await;
        let broken = follow(&*store, Lineage(1), SEGMENT).await;
        assert!(matches!(broken, Err(ArchiveError::Chain { .. })), "{broken:?}");
    }
}
