//! Where an archive's lineages and a timeline's log begin and end, found in a few listings.

use super::identity::{FORMAT_VERSION, Identity};
use super::layout::{self, Lineage};
use super::{ArchiveError, from_json};
use crate::position::Epoch;
use crate::postgres::history::History;
use crate::postgres::lsn::{SegmentId, SegmentSize, Timeline};
use crate::store::{Range, Store, list_all};

/// The lineages of an archive, in order.
///
/// # Errors
/// When the store fails.
pub async fn lineages(store: &dyn Store) -> Result<Vec<Lineage>, ArchiveError> {
    let folders = store.folders(layout::LINEAGES).await?;
    let mut found: Vec<_> =
        folders.iter().filter_map(|name| name.parse().ok()).map(Lineage).collect();
    found.sort();
    Ok(found)
}

/// A lineage's identity; `None` when it has none yet.
///
/// # Errors
/// When the store fails, the identity is damaged, or a newer program wrote it: then nothing but its
/// format number is taken for understood.
pub async fn identity(
    store: &dyn Store,
    lineage: Lineage,
) -> Result<Option<Identity>, ArchiveError> {
    let key = lineage.identity();
    match store.get(&key, Range::All).await {
        Ok(bytes) => {
            let Format { format: found } = from_json(&key, &bytes)?;
            let known = FORMAT_VERSION;
            if found > known {
                return Err(ArchiveError::Newer { key, found, known });
            }
            Ok(Some(from_json(&key, &bytes)?))
        }
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

/// The timelines that have sealed segments or tails, ascending.
///
/// # Errors
/// When the store fails.
pub async fn timelines(store: &dyn Store, lineage: Lineage) -> Result<Vec<Timeline>, ArchiveError> {
    let epoch = |name: &str| u32::from_str_radix(name.get(..8)?, 16).ok().map(Timeline);
    let mut found: Vec<Timeline> =
        store.folders(&lineage.log()).await?.iter().filter_map(|name| epoch(name)).collect();
    found.extend(store.folders(&lineage.tails()).await?.iter().filter_map(|name| epoch(name)));
    found.sort();
    found.dedup();
    Ok(found)
}

/// The highest sealed segment of a timeline (a partial one excepted).
///
/// # Errors
/// When the store fails.
pub async fn last_sealed(
    store: &dyn Store,
    lineage: Lineage,
    timeline: Timeline,
    size: SegmentSize,
) -> Result<Option<SegmentId>, ArchiveError> {
    let epoch = Epoch::from(timeline);
    for group in store.folders(&lineage.log_epoch(epoch)).await?.iter().rev() {
        let objects = list_all(store, &lineage.log_group(epoch, group)).await?;
        let ids = objects.iter().filter_map(|o| layout::postgres_segment_of(o.key.name(), size));
        if let Some(last) = ids.filter(|(_, partial)| !partial).map(|(id, _)| id).max() {
            return Ok(Some(last));
        }
    }
    Ok(None)
}

/// The segments of a timeline that have tails, ascending.
///
/// # Errors
/// When the store fails.
pub async fn tailed(
    store: &dyn Store,
    lineage: Lineage,
    timeline: Timeline,
    size: SegmentSize,
) -> Result<Vec<SegmentId>, ArchiveError> {
    let folders = store.folders(&lineage.tails()).await?;
    let ids = folders.iter().filter_map(|name| SegmentId::parse(name, size).ok());
    let mut ids: Vec<_> = ids.filter(|id| id.timeline == timeline).collect();
    ids.sort();
    Ok(ids)
}

/// A timeline's history; `None` when the archive has none.
///
/// # Errors
/// When the store fails, or what stands there makes no sense.
pub async fn history(
    store: &dyn Store,
    lineage: Lineage,
    timeline: Timeline,
) -> Result<Option<History>, ArchiveError> {
    let key = lineage.history(timeline);
    match store.get(&key, Range::All).await {
        Ok(raw) => History::parse(timeline, raw)
            .map(Some)
            .map_err(|source| ArchiveError::History { key, source }),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
