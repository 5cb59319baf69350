//! Which segments of each timeline the archive has, sealed, partial or as a chain of tails.
//!
//! Enters: listings, `tail/` before `log/`: a segment that is sealed in between is then seen
//! sealed. Leaves: a [`TimelineLog`] a timeline. Only segments that are not sealed cost requests of
//! their own, one an object of their chains; they are few: the open one, and the last one of each
//! timeline.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::damage::damaged;
use super::load::REQUESTS_AT_ONCE;
use super::{CatalogError, Damage};
use proto::archive::ArchiveError;
use proto::archive::chain::{self, Chain, Prefix};
use proto::archive::layout::{Lineage, SegmentName, postgres_segment_of};
use proto::position::Epoch;
use proto::postgres::lsn::{SegmentId, SegmentSize, Timeline};
use proto::segment::{FOOTER_READ, Footer, Watermark};
use proto::store::{Range, Store, list_all};

/// How many of a timeline's newest chains are looked through for watermarks.
const CHAINS_FOR_WATERMARKS: usize = 2;

/// The log of one timeline.
#[derive(Debug, Clone, Default)]
pub struct TimelineLog {
    /// By segment number.
    pub segments: BTreeMap<u64, Stored>,
    /// The latest proof of completeness that stands in its tails.
    pub watermark: Option<Watermark>,
    /// Open segments whose chain breaks, by number, and how: what stands before is in `segments`.
    pub broken: BTreeMap<u64, String>,
}

/// How a segment is stored.
#[derive(Debug, Clone)]
pub enum Stored {
    /// Full; the object's size.
    Sealed { bytes: u64 },
    /// A timeline's last one, unfilled.
    Partial { bytes: u64, raw_bytes: u64 },
    /// Still open when it was read.
    Tails(Box<Chain>),
}

impl TimelineLog {
    /// Takes a proof that is later than the one that is known.
    fn prove(&mut self, mark: Option<Watermark>) {
        let newer = mark.filter(|mark| self.watermark.is_none_or(|known| known.clock < mark.clock));
        self.watermark = newer.or(self.watermark);
    }
}

impl Stored {
    /// Raw bytes that are there, from the segment's first on.
    pub fn raw_bytes(&self, size: SegmentSize) -> u64 {
        match self {
            Self::Sealed { .. } => size.bytes(),
            Self::Partial { raw_bytes, .. } => *raw_bytes,
            Self::Tails(chain) => chain.raw_len(),
        }
    }

    /// Bytes in the store.
    pub fn stored_bytes(&self) -> u64 {
        match self {
            Self::Sealed { bytes } | Self::Partial { bytes, .. } => *bytes,
            Self::Tails(chain) => chain.links.iter().map(|link| link.bytes).sum(),
        }
    }
}

/// What an entry of the listings says.
enum Listed {
    Sealed(u64),
    Partial(u64),
}

pub(super) async fn read(
    store: &dyn Store,
    lineage: Lineage,
    size: SegmentSize,
    damage: &mut Vec<Damage>,
) -> Result<BTreeMap<Timeline, TimelineLog>, CatalogError> {
    let tails = store.folders(&lineage.tails()).await?;
    let mut tailed: Vec<SegmentId> =
        tails.iter().filter_map(|name| SegmentId::parse(name, size).ok()).collect();
    tailed.sort();
    let listed = list_log(store, lineage, size).await?;

    let mut logs: BTreeMap<Timeline, TimelineLog> = BTreeMap::new();
    for (id, listed) in &listed {
        let log = logs.entry(id.timeline).or_default();
        let stored = match *listed {
            Listed::Sealed(bytes) => Stored::Sealed { bytes },
            Listed::Partial(bytes) => match partial(store, lineage, *id, size, bytes).await {
                Ok(stored) => stored,
                Err(error) => {
                    damage.push(damaged(error)?);
                    continue;
                }
            },
        };
        log.segments.insert(id.number, stored);
    }
    read_chains(store, lineage, size, &tailed, &mut logs, damage).await?;
    read_watermarks(store, lineage, size, &tailed, &mut logs).await;
    Ok(logs)
}

/// Every object below `log/`, by groups of segments and several groups at once.
async fn list_log(
    store: &dyn Store,
    lineage: Lineage,
    size: SegmentSize,
) -> Result<BTreeMap<SegmentId, Listed>, CatalogError> {
    let mut groups = Vec::new();
    for epoch in store.folders(&lineage.log()).await? {
        let Ok(number) = u32::from_str_radix(&epoch, 16) else { continue };
        let epoch = Epoch(number);
        let found = store.folders(&lineage.log_epoch(epoch)).await?;
        groups.extend(found.into_iter().map(|group| lineage.log_group(epoch, &group)));
    }
    let pages: Vec<_> = stream::iter(groups)
        .map(|group| async move { list_all(store, &group).await })
        .buffered(REQUESTS_AT_ONCE)
        .try_collect()
        .await?;
    let mut listed = BTreeMap::new();
    for object in pages.into_iter().flatten() {
        let Some((id, partial)) = postgres_segment_of(object.key.name(), size) else { continue };
        match partial {
            false => drop(listed.insert(id, Listed::Sealed(object.bytes))),
            // A full segment is worth more than its own beginning.
            true => drop(listed.entry(id).or_insert(Listed::Partial(object.bytes))),
        }
    }
    Ok(listed)
}

async fn partial(
    store: &dyn Store,
    lineage: Lineage,
    id: SegmentId,
    size: SegmentSize,
    bytes: u64,
) -> Result<Stored, CatalogError> {
    let key = lineage.partial(&SegmentName::postgres(id, size));
    let suffix = store.get(&key, Range::Last(FOOTER_READ)).await?;
    let footer =
        Footer::decode_suffix(&suffix).map_err(|source| CatalogError::Segment { key, source })?;
    Ok(Stored::Partial { bytes, raw_bytes: footer.raw_len })
}

/// Follows the chains of segments that are not sealed.
async fn read_chains(
    store: &dyn Store,
    lineage: Lineage,
    size: SegmentSize,
    tailed: &[SegmentId],
    logs: &mut BTreeMap<Timeline, TimelineLog>,
    damage: &mut Vec<Damage>,
) -> Result<(), CatalogError> {
    let open: Vec<SegmentId> = tailed.iter().rev().filter(|id| !has(logs, id)).copied().collect();
    let chains: Vec<_> = stream::iter(open)
        .map(|id| async move { (id, follow(store, lineage, id, size).await) })
        .buffered(REQUESTS_AT_ONCE)
        .collect()
        .await;
    for (id, followed) in chains {
        let log = logs.entry(id.timeline).or_default();
        match followed {
            Ok(Followed::Chain(Prefix { chain, broken })) => {
                if let Some(error) = broken {
                    let found = damaged(error.into())?;
                    log.broken.insert(id.number, found.to_string());
                    damage.push(found);
                }
                if !chain.links.is_empty() {
                    log.prove(chain.watermark());
                    log.segments.insert(id.number, Stored::Tails(Box::new(chain)));
                }
            }
            Ok(Followed::Sealed(bytes)) => {
                drop(log.segments.insert(id.number, Stored::Sealed { bytes }));
            }
            Err(error) => damage.push(damaged(error.into())?),
        }
    }
    Ok(())
}

fn has(logs: &BTreeMap<Timeline, TimelineLog>, id: &SegmentId) -> bool {
    logs.get(&id.timeline).is_some_and(|log| log.segments.contains_key(&id.number))
}

/// Where no open chain has a watermark, as in the first minute of a segment, the tails of the
/// newest sealed ones tell.
async fn read_watermarks(
    store: &dyn Store,
    lineage: Lineage,
    size: SegmentSize,
    tailed: &[SegmentId],
    logs: &mut BTreeMap<Timeline, TimelineLog>,
) {
    let mut wanted: Vec<SegmentId> = Vec::new();
    for (timeline, _) in logs.iter().filter(|(_, log)| log.watermark.is_none()) {
        let newest = tailed.iter().rev().filter(|id| id.timeline == *timeline);
        wanted.extend(newest.take(CHAINS_FOR_WATERMARKS).filter(|id| has(logs, id)));
    }
    let marks: Vec<_> = stream::iter(wanted)
        .map(|id| async move {
            (id.timeline, chain::last_watermark(store, lineage, &id.name(size)).await)
        })
        .buffered(REQUESTS_AT_ONCE)
        .collect()
        .await;
    for (timeline, mark) in marks {
        // A sealed segment does not need its tails: what cannot be read proves nothing, that is all.
        logs.entry(timeline).or_default().prove(mark.ok().flatten());
    }
}

enum Followed {
    Chain(Prefix),
    /// It was sealed meanwhile, and its tails are going.
    Sealed(u64),
}

/// A chain that changes while it is read (tails are merged, then removed) is read again.
async fn follow(
    store: &dyn Store,
    lineage: Lineage,
    id: SegmentId,
    size: SegmentSize,
) -> Result<Followed, ArchiveError> {
    const ATTEMPTS: u32 = 3;
    let mut attempt = 1;
    loop {
        let prefix = chain::follow_good(store, lineage, &id.name(size)).await?;
        if prefix.broken.is_none() {
            return Ok(Followed::Chain(prefix));
        }
        let sealed = lineage.sealed(&SegmentName::postgres(id, size));
        if let Some(bytes) = store.head(&sealed).await? {
            return Ok(Followed::Sealed(bytes));
        }
        if attempt == ATTEMPTS {
            return Ok(Followed::Chain(prefix));
        }
        attempt += 1;
    }
}
