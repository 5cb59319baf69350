//! Reading the indexes of a timeline: roll-ups first, then the indexes of single segments that no
//! roll-up holds; and what every engine's indexes have in common.
//!
//! Enters: a timeline and its first segment of interest. Leaves: a summary for each segment that
//! has one. Indexes are derived: one that is absent, damaged or of a newer program is left out, and
//! whoever needs it decodes the log instead.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::load::REQUESTS_AT_ONCE;
use super::{Catalog, CatalogError};
use proto::archive::index::{RollUp, SegmentIndex, Summary, VERSION};
use proto::postgres::lsn::{SegmentId, Timeline};
use proto::store::{Key, Range, Store, list_after, list_all};

/// Segments in a full roll-up (docs/FORMAT.md).
pub(super) const ROLL_UP: u64 = 256;

impl Catalog {
    /// The summaries of a timeline's segments from `first` on, by number.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn summaries(
        &self,
        timeline: Timeline,
        first: u64,
    ) -> Result<BTreeMap<u64, Summary>, CatalogError> {
        let mut found = BTreeMap::new();
        let folder = self.lineage.index_epoch(timeline.into());
        let roll_ups = list_all(&*self.store, &format!("{folder}roll-up/")).await?;
        let wanted = roll_ups.into_iter().filter(|object| {
            let id = self.indexed(&object.key);
            id.is_some_and(|id| id.number + ROLL_UP > first)
        });
        for (_, bytes) in read_all(&*self.store, wanted.map(|object| object.key)).await? {
            let Ok(roll_up) = RollUp::decode(&bytes) else { continue };
            let summaries = roll_up.segments.into_iter().filter(|s| s.epoch == timeline.into());
            found.extend(summaries.map(|summary| (summary.number, summary)));
        }
        // Listing begins behind what the roll-ups hold without a hole.
        let mut from = first;
        while found.contains_key(&from) {
            from += 1;
        }
        let before = from.checked_sub(1).map(|number| SegmentId { timeline, number });
        let after = before.map(|id| self.index_key(id));
        let singles = singles(&*self.store, &folder, after.as_ref()).await?;
        let wanted = singles
            .into_iter()
            .filter(|key| self.indexed(key).is_some_and(|id| !found.contains_key(&id.number)));
        for (key, bytes) in read_all(&*self.store, wanted).await? {
            let Ok(index) = SegmentIndex::decode(&bytes) else { continue };
            if self.indexed(&key).is_some_and(|id| id.number == index.number) {
                found.insert(index.number, index.summary());
            }
        }
        Ok(found)
    }

    pub(super) fn index_key(&self, id: SegmentId) -> Key {
        self.lineage.index(&self.name_of(id), u32::from(VERSION))
    }

    pub(super) fn indexed(&self, key: &Key) -> Option<SegmentId> {
        SegmentId::parse(segment_of(key)?, self.segment_size()).ok()
    }
}

/// The segment that an index (or the first that a roll-up) of the known version is about.
pub(super) fn segment_of(key: &Key) -> Option<&str> {
    let (name, version) = key.name().split_once(".v")?;
    (version == VERSION.to_string()).then_some(name)
}

/// The indexes of single segments in a folder, behind one of them.
pub(super) async fn singles(
    store: &dyn Store,
    folder: &str,
    after: Option<&Key>,
) -> Result<Vec<Key>, CatalogError> {
    let listed = list_after(store, folder, after.map(Key::as_str)).await?;
    let keys = listed.into_iter().map(|object| object.key);
    Ok(keys.filter(|key| !key.as_str()[folder.len()..].contains('/')).collect())
}

/// Several at once, in their order; without those that are no more.
pub(super) async fn read_all(
    store: &dyn Store,
    keys: impl Iterator<Item = Key>,
) -> Result<Vec<(Key, bytes::Bytes)>, CatalogError> {
    let read = |key: Key| async move {
        match store.get(&key, Range::All).await {
            Ok(bytes) => Ok(Some((key, bytes))),
            // Made again at this moment.
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(CatalogError::from(error)),
        }
    };
    let keys: Vec<Key> = keys.collect();
    let found: Vec<Option<(Key, bytes::Bytes)>> =
        stream::iter(keys).map(read).buffered(REQUESTS_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}
