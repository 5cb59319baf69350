//! Where the log of an engine ends whose segments have no size of their own.
//!
//! Enters: an archive. Leaves: the end of the unbroken log. Names say which segments there are and
//! in which order; that one continues another is proved by its start and by the predecessor's hash
//! alone. Only reads.

use futures_util::{StreamExt, TryStreamExt, stream};
use proto::archive::ArchiveError;
use proto::archive::chain::{self, Chain};
use proto::archive::layout::{Lineage, SegmentName};
use proto::position::{Epoch, Offset, Position};
use proto::segment::{FOOTER_READ, Footer, Hash, SegmentHead};
use proto::store::{Range, Store, list_all};

use super::resume::End;
use crate::spool::Segmenter;
use crate::spool::recover::StoreEnd;

/// Uploads go side by side, so the last few sealed segments may have holes between them.
const HOLES_LOOKED_FOR: usize = 64;
const REQUESTS_AT_ONCE: usize = 8;

/// What comes behind a run of segments.
#[derive(Debug, Clone)]
struct Reached {
    start: Offset,
    previous: Hash,
    last: Option<SegmentName>,
}

impl Reached {
    /// Whether a segment with this head goes on here; or behind a gap, which leaves room between
    /// and names nothing that stands before it.
    fn continues_with(&self, head: &SegmentHead) -> bool {
        (head.start == self.start && head.previous == self.previous)
            || (head.start > self.start && head.previous.is_none())
    }

    fn behind(footer: &Footer, name: SegmentName) -> Self {
        let start = Offset(footer.head.start.0 + footer.raw_len);
        Self { start, previous: footer.hash, last: Some(name) }
    }
}

/// Finds the end of the unbroken log of a lineage that has one epoch.
///
/// # Errors
/// When the store fails, or what stands at the end is damaged.
pub async fn find_end(
    store: &dyn Store,
    lineage: Lineage,
    epoch: Epoch,
    segmenter: &dyn Segmenter,
) -> Result<End, ArchiveError> {
    // Tails first: one that vanishes meanwhile stands in a sealed segment that is seen then.
    let tails = tailed(store, lineage, segmenter).await?;
    let mut at = sealed_run(store, lineage, epoch, segmenter).await?;
    let mut found = None;
    for name in tails {
        if at.last.as_ref().is_some_and(|last| name.name <= last.name) {
            continue;
        }
        let chain = chain::follow(store, lineage, &name.name).await?;
        let head = chain.links.first().map(|link| link.header.head);
        if let Some(head) = head.filter(|head| at.continues_with(head)) {
            found = Some((head, name, chain));
            break;
        }
    }
    let before = at.last.take();
    let Some((head, name, chain)) = found else {
        let durable = before.is_some().then(|| Position::new(epoch, at.start));
        let (start, previous) = (at.start, at.previous);
        let store = StoreEnd { epoch, start, slot: None, previous, raw: Vec::new() };
        return Ok(End { store, chain: Chain::default(), durable, before });
    };
    let (raw, _) = chain::read_raw(store, &name.name, &chain).await?;
    let (start, previous) = (head.start, head.previous);
    let slot = Some(segmenter.named(epoch, head.number, start));
    let reached = Offset(start.0 + raw.len() as u64);
    let begun = !raw.is_empty() || before.is_some();
    let durable = begun.then(|| Position::new(epoch, reached));
    // Behind a gap nothing stands right before it.
    let before = before.filter(|_| !previous.is_none());
    Ok(End { store: StoreEnd { epoch, start, slot, previous, raw }, chain, durable, before })
}

/// The last sealed segments that follow each other without a hole.
async fn sealed_run(
    store: &dyn Store,
    lineage: Lineage,
    epoch: Epoch,
    segmenter: &dyn Segmenter,
) -> Result<Reached, ArchiveError> {
    let (names, all) = last_sealed(store, lineage, epoch, segmenter).await?;
    let reads: Vec<_> = names
        .into_iter()
        .map(|name| async move {
            let footer = footer(store, lineage, &name).await?;
            Ok::<_, ArchiveError>((name, footer))
        })
        .collect();
    let found: Vec<(SegmentName, Footer)> =
        stream::iter(reads).buffered(REQUESTS_AT_ONCE).try_collect().await?;
    let mut at = Reached { start: Offset(0), previous: Hash::NONE, last: None };
    if let (false, Some((_, first))) = (all, found.first()) {
        // What stands before it was uploaded long ago.
        at = Reached { start: first.head.start, previous: first.head.previous, last: None };
    }
    for (name, footer) in found {
        if !at.continues_with(&footer.head) {
            break;
        }
        at = Reached::behind(&footer, name);
    }
    Ok(at)
}

/// The last sealed segments, in order, and whether these are all.
async fn last_sealed(
    store: &dyn Store,
    lineage: Lineage,
    epoch: Epoch,
    segmenter: &dyn Segmenter,
) -> Result<(Vec<SegmentName>, bool), ArchiveError> {
    let mut names: Vec<SegmentName> = Vec::new();
    for group in store.folders(&lineage.log_epoch(epoch)).await?.iter().rev() {
        if names.len() >= HOLES_LOOKED_FOR {
            return Ok((names, false));
        }
        let objects = list_all(store, &lineage.log_group(epoch, group)).await?;
        let sealed = objects.iter().filter_map(|object| object.key.name().strip_suffix(".zst"));
        let mut earlier: Vec<_> = sealed.filter_map(|name| segmenter.parse(name)).collect();
        earlier.sort_by(|a, b| a.name.cmp(&b.name));
        earlier.append(&mut names);
        names = earlier;
        let extra = names.len().saturating_sub(HOLES_LOOKED_FOR);
        if extra > 0 {
            names.drain(..extra);
            return Ok((names, false));
        }
    }
    Ok((names, true))
}

async fn footer(
    store: &dyn Store,
    lineage: Lineage,
    name: &SegmentName,
) -> Result<Footer, ArchiveError> {
    let key = lineage.sealed(name);
    let suffix = store.get(&key, Range::Last(FOOTER_READ)).await?;
    Footer::decode_suffix(&suffix).map_err(|source| ArchiveError::Segment { key, source })
}

/// The segments that have tails, in order.
async fn tailed(
    store: &dyn Store,
    lineage: Lineage,
    segmenter: &dyn Segmenter,
) -> Result<Vec<SegmentName>, ArchiveError> {
    let folders = store.folders(&lineage.tails()).await?;
    let mut names: Vec<_> = folders.iter().filter_map(|name| segmenter.parse(name)).collect();
    names.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(names)
}
