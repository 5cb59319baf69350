//! Where the log in the store ends, and how a writer takes its place there.
//!
//! Enters: an archive. Leaves: the end of the unbroken log (listings only propose, hashes decide),
//! and, for a writer, a fence that stops every older one at its next put.

use proto::archive::ArchiveError;
use proto::archive::chain::Chain;
use proto::archive::layout::{Lineage, SegmentName};
use proto::archive::ledger::{self, Event};
use proto::clock::Clock;
use proto::position::{Offset, Position};
use proto::segment::{Engine, SegmentHead, TailKind};
use proto::store::Store;

use super::tails::{ShipTools, TailChain};
use super::{ShipError, tails::Grown};
use crate::spool::recover::StoreEnd;

/// The end of a lineage's log. How it is found is each engine's own.
#[derive(Debug)]
pub struct End {
    pub store: StoreEnd,
    pub chain: Chain,
    /// The end as a position, if the archive holds any log.
    pub durable: Option<Position>,
    /// The sealed segment right before, for an engine whose sources take up at a record.
    pub before: Option<SegmentName>,
}

/// Takes the next writer epoch in the ledger.
///
/// # Errors
/// When the store fails.
pub async fn take_writer(
    store: &dyn Store,
    lineage: Lineage,
    clock: &dyn Clock,
    host: String,
) -> Result<u64, ArchiveError> {
    let program = format!("pitrd {}", env!("CARGO_PKG_VERSION"));
    ledger::append(store, lineage, clock.wall(), Event::Writer { host, program }).await
}

/// Puts an empty tail at the end of the chain: an older writer loses its next put. What that one
/// puts until then is taken into `end`: a segment's worth at most. Where the segment that comes next
/// is not known there is no chain yet: then its first tail is what stops the other.
///
/// # Errors
/// [`ShipError::Fenced`] when a newer writer was faster.
pub async fn fence(
    tools: &ShipTools,
    engine: Engine,
    end: &mut End,
) -> Result<Option<TailChain>, ShipError> {
    let Some(slot) = &end.store.slot else { return Ok(None) };
    let newer = end.chain.links.iter().find(|link| link.header.head.writer > tools.writer);
    if let Some(newer) = newer {
        // Taken between our look into the ledger and our look at the chain: a tail of ours behind
        // that fence would break the chain for everybody.
        let (key, own, by) = (newer.key.clone(), tools.writer, newer.header.head.writer);
        return Err(ShipError::Fenced { key, own, by });
    }
    let head = SegmentHead {
        engine,
        lineage: tools.lineage.0,
        epoch: end.store.epoch,
        number: slot.number,
        writer: tools.writer,
        start: slot.start,
        previous: end.store.previous,
    };
    let name = slot.name.name.clone();
    let mut chain = TailChain::continuing(head, name, &end.chain);
    loop {
        match chain.put_empty(tools, TailKind::Fence, None).await? {
            Grown::Whole => return Ok(Some(chain)),
            Grown::Adopted => {}
            Grown::Ahead => {
                chain.follow(tools, &mut end.store.raw).await?;
                let held = Offset(end.store.start.0 + end.store.raw.len() as u64);
                end.durable = Some(Position::new(end.store.epoch, held));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::archive::chain;
    use proto::archive::identity::PostgresIdentity;
    use proto::position::Epoch;
    use proto::postgres::lsn::{SegmentId, SegmentSize, Timeline};
    use proto::segment::{Codec, Frame, Hash, TailHeader};
    use proto::store::Body;

    use super::*;
    use crate::source::postgres::end::find_end;
    use crate::testing::{archive, tools};

    const LINEAGE: Lineage = Lineage(1);
    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn first() -> SegmentId {
        SegmentId { timeline: Timeline(1), number: 1 }
    }

    /// The first writer's tail at this place, which holds so many ones behind so many.
    fn tail(seq: u64, from: usize, ones: usize) -> Vec<u8> {
        let header = TailHeader {
            head: SegmentHead {
                engine: Engine::Postgresql,
                lineage: LINEAGE.0,
                epoch: Epoch(1),
                number: 1,
                writer: 1,
                start: first().start(SIZE).into(),
                previous: Hash::NONE,
            },
            kind: TailKind::Data,
            first: seq,
            last: seq,
            raw_start: from as u64,
            raw_len: ones as u64,
            before: Hash::of(&vec![1; from]),
            after: Hash::of(&vec![1; from + ones]),
            watermark: None,
        };
        let mut object = header.encode();
        object.extend(Frame::of(Codec::Lz4, &vec![1; ones]).expect("compresses").bytes);
        object
    }

    fn identity() -> PostgresIdentity {
        PostgresIdentity {
            segment_bytes: SIZE,
            version_num: 180_000,
            first: first().start(SIZE),
            first_timeline: Timeline(1),
        }
    }

    #[tokio::test]
    async fn a_writer_that_finds_a_newer_ones_fence_puts_nothing_behind_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = archive(folder.path()).await;
        let name = first().name(SIZE);
        let body = Body::from(tail(0, 0, 100));
        store.put(&LINEAGE.tail(&name, 0), &body).await.expect("put");
        for (writer, is_fenced) in [(3, false), (2, true)] {
            let mut end = find_end(&*store, LINEAGE, &identity()).await.expect("an end");
            let fenced = fence(&tools(store.clone(), writer), Engine::Postgresql, &mut end).await;
            assert_eq!(matches!(fenced, Err(ShipError::Fenced { by: 3, .. })), is_fenced);
        }
        let found = chain::follow(&*store, LINEAGE, &name).await.expect("unbroken");
        assert_eq!((found.links.len(), found.writer()), (2, 3));
    }

    /// A put that nobody knew the end of, done after the pipeline was built anew.
    #[tokio::test]
    async fn a_tail_of_our_own_that_comes_late_is_continued() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = archive(folder.path()).await;
        let name = first().name(SIZE);
        let mut end = find_end(&*store, LINEAGE, &identity()).await.expect("an end");
        let body = Body::from(tail(0, 0, 100));
        store.put(&LINEAGE.tail(&name, 0), &body).await.expect("put");
        let fenced = fence(&tools(store.clone(), 1), Engine::Postgresql, &mut end).await;
        assert_eq!(fenced.expect("ours").expect("a chain").raw_len(), 100);
        assert_eq!(end.store.raw, [1; 100]);
    }

    #[tokio::test]
    async fn tails_behind_those_that_were_seen_are_followed_within_a_segment_that_was_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = archive(folder.path()).await;
        let mut end = find_end(&*store, LINEAGE, &identity()).await.expect("an end");
        // Sealed unfilled with so much; its tails are not listed yet.
        end.store.raw = vec![1; 120];
        for (seq, from, ones) in [(0, 0, 100), (1, 100, 50)] {
            let body = Body::from(tail(seq, from, ones));
            store.put(&LINEAGE.tail(&first().name(SIZE), seq), &body).await.expect("put");
        }
        let fenced = fence(&tools(store, 2), Engine::Postgresql, &mut end).await;
        assert_eq!(fenced.expect("fenced").expect("a chain").raw_len(), 150);
        assert_eq!(end.store.raw, [1; 150]);
    }

    #[tokio::test]
    async fn a_writer_that_goes_on_while_it_is_fenced_is_followed_and_then_fenced() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = archive(folder.path()).await;
        let name = first().name(SIZE);
        let put = async |seq, from, ones| {
            let body = Body::from(tail(seq, from, ones));
            store.put(&LINEAGE.tail(&name, seq), &body).await.expect("put");
        };
        put(0, 0, 100).await;
        let mut end = find_end(&*store, LINEAGE, &identity()).await.expect("an end");
        assert_eq!(end.store.raw, [1; 100]);
        // Between the look and the fence.
        put(1, 100, 20).await;
        put(2, 120, 30).await;
        let fenced =
            fence(&tools(store.clone(), 2), Engine::Postgresql, &mut end).await.expect("fenced");
        let chain = fenced.expect("a chain");
        assert_eq!(end.store.raw, [1; 150]);
        let reached = Position::new(Epoch(1), Offset(first().start(SIZE).0 + 150));
        assert_eq!((end.durable, chain.end()), (Some(reached), reached.offset));
        let found = chain::follow(&*store, LINEAGE, &name).await.expect("unbroken");
        let last = found.links.last().expect("a fence").header;
        assert_eq!((last.first, last.kind, last.head.writer), (3, TailKind::Fence, 2));
    }
}
