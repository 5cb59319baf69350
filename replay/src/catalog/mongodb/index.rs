//! Reading and making the indexes of oplog segments.
//!
//! Enters: an archive. Leaves: a summary for each sealed segment that has one, roll-ups first; and, by
//! `pitr reindex`, an index for each that has none. Indexes are derived: one that is absent, damaged
//! or of a newer program is left out, and whoever needs it decodes the log instead.

use std::collections::BTreeMap;

use proto::archive::index::{OplogIndexer, RollUp, SegmentIndex, Summary, VERSION};
use proto::archive::layout::{SegmentName, mongodb_first};
use proto::mongodb::OplogTs;
use proto::segment::Engine;
use proto::store::{Key, Store, list_all};

use super::{EPOCH, OplogArchive, Stored};
use crate::catalog::CatalogError;
use crate::catalog::index::{ROLL_UP, read_all, segment_of, singles};
use crate::catalog::read::unpacked;
use crate::catalog::reindex::Reindexed;

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
        let wanted = roll_ups.drain(behind..).map(|(_, key)| key);
        for (_, bytes) in read_all(&*self.store, wanted).await? {
            let Ok(roll_up) = RollUp::decode(&bytes) else { continue };
            let of = roll_up.segments.into_iter().map(|summary| (OplogTs(summary.number), summary));
            found.extend(of.filter(|(number, _)| *number >= first));
        }
        // Listing begins behind what the roll-ups hold without a hole.
        let wanted = self.segments.iter().filter(|segment| segment.first >= first);
        let next = wanted.map(|segment| segment.first).find(|first| !found.contains_key(first));
        let Some(next) = next else { return Ok(found) };
        let after = self.index_key(OplogTs(next.0.saturating_sub(1)));
        let singles = singles(&*self.store, &folder, Some(&after)).await?;
        let wanted = singles
            .into_iter()
            .filter(|key| indexed(key).is_some_and(|first| !found.contains_key(&first)));
        for (key, bytes) in read_all(&*self.store, wanted).await? {
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
            let made = self.make_index(*first).await;
            if let Some(summary) = done.keep(writable, &self.index_key(*first), made).await? {
                known.insert(*first, summary);
            }
        }
        for run in sealed.chunks_exact(ROLL_UP as usize) {
            let segments: Vec<Summary> =
                run.iter().filter_map(|first| known.get(first).cloned()).collect();
            if segments.len() == run.len() {
                let key = self.lineage.roll_up(&SegmentName::mongodb(run[0]), u32::from(VERSION));
                done.roll_up(writable, &key, Engine::Mongodb, segments).await?;
            }
        }
        Ok(done)
    }

    async fn make_index(&self, first: OplogTs) -> Result<SegmentIndex, CatalogError> {
        let key = self.lineage.sealed(&SegmentName::mongodb(first));
        let (footer, raw) = unpacked(&*self.store, &key).await?;
        let frames = footer.frames.iter().map(|frame| frame.raw_len);
        Ok(OplogIndexer::build(first.0, footer.head.start, &raw, frames))
    }
}

/// The segment that an index (or the first that a roll-up) of the known version is about.
fn indexed(key: &Key) -> Option<OplogTs> {
    mongodb_first(segment_of(key)?)
}
