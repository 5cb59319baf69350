//! Where the log of a PostgreSQL lineage ends in the store: by segment numbers and timelines.
//!
//! Enters: an archive. Leaves: the end of the unbroken log. Listings only propose, hashes decide.

use std::time::Duration;

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

use crate::ship::Durable;
use crate::ship::resume::End;
use crate::spool::WalSegments;
use crate::spool::recover::StoreEnd;

/// Uploads go side by side, so the last few sealed segments may have holes between them.
const HOLES_LOOKED_FOR: u64 = 64;
/// How long a listing may lag behind a timeline's first objects.
const LISTING_LAG: Duration = Duration::from_secs(10);

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

/// Whether the store holds more of the log than `held`. What another writer archived, or an earlier
/// run, is not lost, though the server has let go of it. A listing that lags is given time: what is
/// taken for lost costs a base.
///
/// # Errors
/// As [`find_end`].
pub async fn is_stored_beyond(
    store: &dyn Store,
    lineage: Lineage,
    identity: &PostgresIdentity,
    held: Position,
) -> Result<bool, ArchiveError> {
    for asked in 0..=LISTING_LAG.as_secs() {
        if asked > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let end = find_end(store, lineage, identity).await?;
        if end.durable.is_some_and(|durable| durable > held) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Before which everything is sealed: as far as segments go, what is durable. It costs a few
/// listings, and no look at the tails.
///
/// # Errors
/// When the store fails.
pub async fn stored(
    store: &dyn Store,
    lineage: Lineage,
    identity: &PostgresIdentity,
) -> Result<Option<Durable>, ArchiveError> {
    let Some(timeline) = ends::timelines(store, lineage).await?.last().copied() else {
        return Ok(None);
    };
    let open = open_segment(store, lineage, identity, timeline).await?;
    let reached = open.start(identity.segment_bytes).at(timeline);
    Ok(Some(Durable::found(reached)))
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
        let open = tailed.unwrap_or(SegmentId { timeline, number: first });
        return behind_sealed(store, lineage, open, size).await;
    };
    let mut open = behind_sealed(store, lineage, last.next(), size).await?;
    let last = SegmentId { timeline, number: open.number - 1 };
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

/// The first segment from `open` on that is not sealed, asked for by name: a listing may lag behind
/// what is there, and the database has let go of that.
async fn behind_sealed(
    store: &dyn Store,
    lineage: Lineage,
    mut open: SegmentId,
    size: SegmentSize,
) -> Result<SegmentId, ArchiveError> {
    while store.head(&lineage.sealed(&SegmentName::postgres(open, size))).await?.is_some() {
        open = open.next();
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
    // Its own, and its parents by name: a listing may lag behind what is there.
    let mut timelines = ends::timelines(store, lineage).await?;
    timelines.push(open.timeline);
    if open.timeline > identity.first_timeline {
        let history = ends::history(store, lineage, open.timeline).await?;
        let entries = history.map(|history| history.entries).unwrap_or_default();
        timelines.extend(entries.iter().map(|branch| branch.parent));
    }
    timelines.retain(|timeline| *timeline <= open.timeline);
    timelines.sort();
    timelines.dedup();
    for timeline in timelines.into_iter().rev() {
        let name = SegmentName::postgres(SegmentId { timeline, number }, size);
        if let Some(footer) = footer(store, lineage.sealed(&name)).await? {
            return Ok(footer.hash);
        }
    }
    Ok(Hash::NONE)
}

#[cfg(test)]
mod tests {
    use proto::position::Epoch;
    use proto::segment::{Codec, Engine, Frame, OpenSegment, SegmentHead};
    use proto::store::Body;
    use proto::store::fault::{Fault, FaultStore, Kind, Op, Rule};

    use super::*;
    use crate::testing::archive;

    const LINEAGE: Lineage = Lineage(1);
    const SIZE: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::try_from(SIZE).expect("a size")
    }

    /// Sealed segment `number`, all of it the same byte, and its hash.
    fn sealed(number: u64, previous: Hash) -> (Vec<u8>, Hash) {
        let head = SegmentHead {
            engine: Engine::Postgresql,
            lineage: 1,
            epoch: Epoch(1),
            number,
            writer: 1,
            start: Offset(number * SIZE),
            previous,
        };
        let raw = vec![number as u8; SIZE as usize];
        let frame = Frame::of(Codec::Lz4, &raw).expect("compresses");
        let mut segment = OpenSegment::new(head);
        segment.push(frame.entry, &raw);
        let mut object = frame.bytes;
        object.extend(segment.seal(false).1);
        (object, Hash::of(&raw))
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_listing_lacks_is_found_by_its_name_and_is_no_gap() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, faults) = FaultStore::new(archive(folder.path()).await, 1);
        let mut previous = Hash::NONE;
        for number in 1..=3 {
            let (object, hash) = sealed(number, previous);
            let name = SegmentName::postgres(SegmentId { timeline: Timeline(1), number }, size());
            store.put(&LINEAGE.sealed(&name), &Body::from(object)).await.expect("put");
            previous = hash;
        }
        let identity = PostgresIdentity {
            segment_bytes: size(),
            version_num: 180_000,
            first: Lsn(SIZE),
            first_timeline: Timeline(1),
        };
        for hidden in 0..=3 {
            faults.heal();
            faults.script(Rule::once(Op::List, Fault::HideNewest(hidden)).times(99));
            if hidden == 3 {
                faults.script(Rule::once(Op::Folders, Fault::Omit).times(99));
            }
            let end = find_end(&*store, LINEAGE, &identity).await.expect("an end");
            assert_eq!((end.store.start, end.store.previous), (Offset(4 * SIZE), previous));
            for (held, beyond) in [(4 * SIZE - 1, true), (4 * SIZE, false)] {
                let held = Lsn(held).at(Timeline(1));
                let asked = is_stored_beyond(&*store, LINEAGE, &identity, held).await;
                assert_eq!(asked.expect("asked"), beyond, "{held:?}");
            }
        }
        assert!(faults.fired(Kind::HideNewest) > 0);
    }
}
