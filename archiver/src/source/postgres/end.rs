//! Where the log of a PostgreSQL lineage ends in the store: by segment numbers and timelines.
//!
//! Enters: an archive. Leaves: the end of the unbroken log. Listings only propose, hashes decide.

use proto::archive::chain;
use proto::archive::ends;
use proto::archive::layout::{Lineage, SegmentName};
use proto::archive::ledger::{self, Event};
use proto::archive::{ArchiveError, identity::PostgresIdentity};
use proto::position::{Offset, Position};
use proto::postgres::history::History;
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize, Timeline};
use proto::segment::{FOOTER_READ, Footer, Hash, read_sealed};
use proto::store::{Key, Range, Store};

use crate::ship::resume::End;
use crate::spool::WalSegments;
use crate::spool::recover::StoreEnd;

/// Uploads go side by side, so the last few sealed segments may have holes between them.
const HOLES_LOOKED_FOR: u64 = 64;

/// Finds the end of the unbroken log of a PostgreSQL lineage.
///
/// # Errors
/// When the store fails, or what stands at the end is damaged.
pub async fn find_end(
    store: &dyn Store,
    lineage: Lineage,
    identity: &PostgresIdentity,
) -> Result<End, ArchiveError> {
    let timelines = ends::timelines(store, lineage).await?;
    let timeline = timelines.last().copied().unwrap_or(identity.first_timeline);
    let open = open_segment(store, lineage, identity, timeline).await?;
    let size = identity.segment_bytes;
    let name = open.name(size);
    let chain = chain::follow_whole(store, lineage, &name).await?;
    let (mut raw, _) = chain::read_raw(store, &name, &chain).await?;
    // Killed between a timeline's end and the next one's first byte: its last segment is sealed
    // already, perhaps with more than the tails hold.
    if let Some(partial) = partial(store, lineage, &open, size).await?
        && partial.len() > raw.len()
        && partial.starts_with(&raw)
    {
        raw = partial;
    }
    let previous = match chain.links.first() {
        Some(link) => link.header.head.previous,
        None => previous_hash(store, lineage, identity, open).await?,
    };
    let slot = WalSegments(size).slot(open.start(size).at(timeline));
    let reached = Offset(slot.start.0 + raw.len() as u64);
    let begun = !raw.is_empty() || slot.start > Offset::from(size.floor(identity.first));
    let durable = begun.then(|| Position::new(slot.name.epoch, reached));
    let (epoch, start) = (slot.name.epoch, slot.start);
    let store = StoreEnd { epoch, start, slot: Some(slot), previous, raw };
    Ok(End { store, chain, durable, before: None })
}

/// The raw bytes of a segment that was sealed unfilled.
async fn partial(
    store: &dyn Store,
    lineage: Lineage,
    open: &SegmentId,
    size: SegmentSize,
) -> Result<Option<Vec<u8>>, ArchiveError> {
    let key = lineage.partial(&SegmentName::postgres(*open, size));
    match store.get(&key, Range::All).await {
        Ok(object) => {
            let (_, raw) =
                read_sealed(&object).map_err(|source| ArchiveError::Segment { key, source })?;
            Ok(Some(raw))
        }
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The first segment of the timeline that is not sealed, without a hole before it.
async fn open_segment(
    store: &dyn Store,
    lineage: Lineage,
    identity: &PostgresIdentity,
    timeline: Timeline,
) -> Result<SegmentId, ArchiveError> {
    let size = identity.segment_bytes;
    let sealed = ends::last_sealed(store, lineage, timeline, size).await?;
    let tailed = ends::tailed(store, lineage, timeline, size).await?;
    let first = first_segment(store, lineage, identity, timeline).await?;
    let Some(last) = sealed.filter(|last| last.number >= first) else {
        // Tails before it end at a gap.
        let tailed = tailed.iter().find(|id| id.number >= first).copied();
        return Ok(tailed.unwrap_or(SegmentId { timeline, number: first }));
    };
    let mut open = last.next();
    let lowest = last.number.saturating_sub(HOLES_LOOKED_FOR).max(first);
    for number in (lowest..last.number).rev() {
        let id = SegmentId { timeline, number };
        if store.head(&lineage.sealed(&SegmentName::postgres(id, size))).await?.is_some() {
            continue;
        }
        // A gap whose entry in the ledger cannot be read, or was not written before a kill.
        if follows_nothing(store, lineage, id.next(), size).await? {
            break;
        }
        open = id;
    }
    Ok(open)
}

/// Whether a segment is sealed and names no predecessor: it is the first one behind a gap.
async fn follows_nothing(
    store: &dyn Store,
    lineage: Lineage,
    id: SegmentId,
    size: SegmentSize,
) -> Result<bool, ArchiveError> {
    let footer = footer(store, lineage.sealed(&SegmentName::postgres(id, size))).await?;
    Ok(footer.is_some_and(|footer| footer.head.previous == Hash::NONE))
}

/// What stands at the end of a sealed segment, if there is one.
async fn footer(store: &dyn Store, key: Key) -> Result<Option<Footer>, ArchiveError> {
    match store.get(&key, Range::Last(FOOTER_READ)).await {
        Ok(suffix) => Footer::decode_suffix(&suffix)
            .map(Some)
            .map_err(|source| ArchiveError::Segment { key, source }),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The first segment of a timeline's unbroken log: behind its branch, and behind its last gap.
async fn first_segment(
    store: &dyn Store,
    lineage: Lineage,
    identity: &PostgresIdentity,
    timeline: Timeline,
) -> Result<u64, ArchiveError> {
    let size = identity.segment_bytes;
    let begun = if timeline == identity.first_timeline {
        identity.first
    } else {
        branch_point(store, lineage, timeline).await?.unwrap_or(identity.first)
    };
    let entries = ledger::read(store, lineage).await?.entries;
    let behind_gap = entries.iter().filter_map(|entry| match &entry.event {
        Event::Gap { to, .. } if Timeline::from(to.epoch) == timeline => Some(Lsn::from(to.offset)),
        _ => None,
    });
    Ok(size.segment_of(behind_gap.fold(begun, Lsn::max)))
}

/// Where a timeline left its parent, by its archived history file.
async fn branch_point(
    store: &dyn Store,
    lineage: Lineage,
    timeline: Timeline,
) -> Result<Option<Lsn>, ArchiveError> {
    let history = ends::history(store, lineage, timeline).await?;
    Ok(history.as_ref().and_then(History::branch).map(|branch| branch.at))
}

/// The hash of the segment before `open`, on its own timeline or on an ancestor's.
///
/// # Errors
/// When the store fails or that segment is damaged.
pub async fn previous_hash(
    store: &dyn Store,
    lineage: Lineage,
    identity: &PostgresIdentity,
    open: SegmentId,
) -> Result<Hash, ArchiveError> {
    let size = identity.segment_bytes;
    let Some(number) = open.number.checked_sub(1) else { return Ok(Hash::NONE) };
    let mut timelines = ends::timelines(store, lineage).await?;
    timelines.retain(|timeline| *timeline <= open.timeline);
    for timeline in timelines.into_iter().rev() {
        let name = SegmentName::postgres(SegmentId { timeline, number }, size);
        if let Some(footer) = footer(store, lineage.sealed(&name)).await? {
            return Ok(footer.hash);
        }
    }
    Ok(Hash::NONE)
}
