//! Where an archive's lineages and a timeline's log begin and end, found in a few listings.

use bytes::Bytes;

use super::identity::{FORMAT_VERSION, Identity};
use super::layout::{self, Lineage};
use super::{ArchiveError, from_json};
use crate::position::Epoch;
use crate::postgres::history::History;
use crate::postgres::lsn::{SegmentId, SegmentSize, Timeline};
use crate::store::{Key, Range, Store, StoreError, list_all};

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
    match read_twice(store, &key).await {
        Ok(raw) => History::parse(timeline, raw)
            .map(Some)
            .map_err(|source| ArchiveError::History { key, source }),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads that must not differ, of so many.
const READS_MAX: usize = 6;

/// PostgreSQL's own file, without a checksum, and it says where a timeline's log begins: a bit that
/// turned over on its way would lead a writer astray. So it counts once two reads agree.
async fn read_twice(store: &dyn Store, key: &Key) -> Result<Bytes, StoreError> {
    let mut last = store.get(key, Range::All).await?;
    for _ in 1..READS_MAX {
        let again = store.get(key, Range::All).await?;
        if again == last {
            return Ok(last);
        }
        last = again;
    }
    let detail = format!("{READS_MAX} reads, and no two of them one after the other agree");
    Err(StoreError::Damaged { address: store.address(), key: key.clone(), detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fault::{Fault, FaultStore, Kind, Op, Rule};
    use crate::store::folder::FolderStore;
    use crate::store::{Access, Body};

    #[tokio::test]
    async fn a_history_that_was_misread_once_leads_nobody_astray() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = FolderStore::open(folder.path(), Access::ReadWrite).await.expect("a store");
        let (store, faults) = FaultStore::new(std::sync::Arc::new(inner), 7);
        let (lineage, timeline) = (Lineage(1), Timeline(3));
        let raw = "1\t0/3000150\tno recovery target specified\n";
        let body = Body::from(raw.as_bytes().to_vec());
        store.put(&lineage.history(timeline), &body).await.expect("put");
        let truth = History::parse(timeline, Bytes::from(raw)).expect("a history").entries;
        for fault in [Fault::Flip, Fault::Short] {
            faults.script(Rule::once(Op::Get, fault));
            let found = history(&*store, lineage, timeline).await.expect("read").expect("there");
            assert_eq!(found.entries, truth);
        }
        assert!(faults.fired(Kind::Flip) > 0 && faults.fired(Kind::Short) > 0);
        // Another one each time: nobody can tell which.
        faults.script(Rule::once(Op::Get, Fault::Flip).times(99));
        let refused = history(&*store, lineage, timeline).await;
        assert!(matches!(refused, Err(ArchiveError::Store(StoreError::Damaged { .. }))));
        assert!(history(&*store, lineage, Timeline(9)).await.expect("read").is_none());
    }
}
