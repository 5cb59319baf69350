//! Reading and making the indexes of oplog segments.
//!
//! Enters: an archive. Leaves: a summary for each sealed segment that has one, roll-ups first; and, by
//! `pitr reindex`, an index for each that has none. Indexes are derived: one that is absent, damaged
//! or of a newer program is left out, and whoever needs it decodes the log instead.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};

use proto::archive::index::{OplogIndexer, RollUp, SegmentIndex, Summary, VERSION};
use proto::archive::layout::{SegmentName, mongodb_first};
use proto::mongodb::OplogTs;
use proto::segment::{Engine, read_sealed};
use proto::store::{Key, Range, Store, list_after, list_all};

use super::{EPOCH, OplogArchive, Stored};
use crate::catalog::load::REQUESTS_AT_ONCE;
use crate::catalog::reindex::{Reindexed, replace};
use crate::catalog::{CatalogError, describe};

/// Segments in a roll-up (docs/FORMAT.md).
const ROLL_UP: usize = 256;

/// By first entry.
pub type Summaries = BTreeMap<OplogTs, Summary>;

impl OplogArchive {
    /// The summaries of the sealed segments from the one with an entry of `from` on.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn summaries(&self, from: OplogTs) -> Result<Summaries, CatalogError> {
        let mut found = Summaries::new();
        let Some(first) = self.segments.get(self.segment_of(from)).map(|segment| segment.first)
        else {
            return Ok(found);
        };
        let folder = self.lineage.index_epoch(EPOCH);
        let mut roll_ups: Vec<(OplogTs, Key)> =
            list_all(&*self.store, &format!("{folder}roll-up/"))
                .await?
                .into_iter()
                .filter_map(|object| Some((indexed(&object.key)?, object.key)))
                .collect();
        roll_ups.sort();
        // The last one that begins before may reach so far.
        let behind = roll_ups.partition_point(|(begin, _)| *begin <= first).saturating_sub(1);
        for (_, bytes) in self.read_all(roll_ups.drain(behind..).map(|(_, key)| key)).await? {
            let Ok(roll_up) = RollUp::decode(&bytes) else { continue };
            let of = roll_up.segments.into_iter().map(|summary| (OplogTs(summary.number), summary));
            found.extend(of.filter(|(number, _)| *number >= first));
        }
        // Listing begins behind what the roll-ups hold without a hole.
        let wanted = self.segments.iter().filter(|segment| segment.first >= first);
        let next = wanted.map(|segment| segment.first).find(|first| !found.contains_key(first));
        let Some(next) = next else { return Ok(found) };
        let after = self.index_key(OplogTs(next.0.saturating_sub(1))).to_string();
        let singles = list_after(&*self.store, &folder, Some(&after)).await?;
        let wanted = singles.into_iter().map(|object| object.key).filter(|key| {
            let direct = !key.as_str()[folder.len()..].contains('/');
            direct && indexed(key).is_some_and(|first| !found.contains_key(&first))
        });
        for (key, bytes) in self.read_all(wanted).await? {
            let Ok(index) = SegmentIndex::decode(&bytes) else { continue };
            if indexed(&key) == Some(OplogTs(index.number)) {
                found.insert(OplogTs(index.number), index.summary());
            }
        }
        Ok(found)
    }

    fn index_key(&self, first: OplogTs) -> Key {
        self.lineage.index(&SegmentName::mongodb(first), u32::from(VERSION))
    }

    async fn read_all(
        &self,
        keys: impl Iterator<Item = Key>,
    ) -> Result<Vec<(Key, bytes::Bytes)>, CatalogError> {
        let read = |key: Key| async move {
            match self.store.get(&key, Range::All).await {
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

    /// Makes what is missing; `told` is called for each segment with how many are done.
    ///
    /// # Errors
    /// When a store fails. A damaged segment is no error here, but named in the result.
    pub async fn reindex(
        &self,
        writable: &dyn Store,
        told: impl Fn(u64, u64),
    ) -> Result<Reindexed, CatalogError> {
        let mut done = Reindexed::default();
        let mut known = self.summaries(OplogTs(0)).await?;
        let sealed = |stored: &Stored| matches!(stored, Stored::Sealed { .. });
        let sealed = self.segments.iter().filter(|segment| sealed(&segment.stored));
        let sealed: Vec<OplogTs> = sealed.map(|segment| segment.first).collect();
        for first in &sealed {
            done.segments += 1;
            told(done.segments, sealed.len() as u64);
            if known.contains_key(first) {
                continue;
            }
            match self.make_index(*first).await {
                Ok(index) => {
                    replace(writable, &self.index_key(*first), index.encode()).await?;
                    known.insert(*first, index.summary());
                    done.made += 1;
                }
                Err(error @ CatalogError::Store(_)) => return Err(error),
                Err(error) => done.unreadable.push(describe(&error)),
            }
        }
        for run in sealed.chunks_exact(ROLL_UP) {
            let segments: Vec<Summary> =
                run.iter().filter_map(|first| known.get(first).cloned()).collect();
            if segments.len() == ROLL_UP {
                let key = self.lineage.roll_up(&SegmentName::mongodb(run[0]), u32::from(VERSION));
                let roll_up = RollUp { engine: Engine::Mongodb, segments };
                done.roll_ups += u64::from(replace(writable, &key, roll_up.encode()).await?);
            }
        }
        Ok(done)
    }

    async fn make_index(&self, first: OplogTs) -> Result<SegmentIndex, CatalogError> {
        let key = self.lineage.sealed(&SegmentName::mongodb(first));
        let object = self.store.get(&key, Range::All).await?;
        let read = tokio::task::spawn_blocking(move || read_sealed(&object)).await;
        let read = read.map_err(|error| CatalogError::Stopped { detail: error.to_string() })?;
        let (footer, raw) = read.map_err(|source| CatalogError::Segment { key, source })?;
        let frames = footer.frames.iter().map(|frame| frame.raw_len);
        Ok(OplogIndexer::build(first.0, footer.head.start, &raw, frames))
    }
}

/// The segment that an index (or the first that a roll-up) of the known version is about.
fn indexed(key: &Key) -> Option<OplogTs> {
    let (name, version) = key.name().split_once(".v")?;
    if version == VERSION.to_string() { mongodb_first(name) } else { None }
}
