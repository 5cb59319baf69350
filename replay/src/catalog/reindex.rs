//! Making indexes again from the log: `pitr reindex`.
//!
//! Enters: a catalog, and a store that may be written to. Leaves: an index for every sealed segment
//! and a roll-up for every full run of them, as far as they were absent or could not be read. Each
//! is one object, created whole: a crash leaves some made and the rest to be made.

use bytes::Bytes;

use super::index::ROLL_UP;
use super::read::unpacked;
use super::{Catalog, CatalogError, LogPath, Stored, describe};
use proto::archive::index::{Head, Indexer, RollUp, SegmentIndex, Summary, VERSION};
use proto::postgres::lsn::{SegmentId, Timeline};
use proto::segment::Engine;
use proto::store::{Body, Key, Put, Range, Store};

/// Log before a segment is read up to this much, to find where a record began that spans in.
const RUN_UP_MAX: u64 = 128 << 20;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reindexed {
    pub segments: u64,
    pub made: u64,
    pub roll_ups: u64,
    /// Segments that could not be read: they stay without an index.
    pub unreadable: Vec<String>,
}

impl Catalog {
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
        let count = self.logs.values().map(|log| log.segments.len() as u64).sum();
        for (timeline, log) in &self.logs {
            let mut summaries = self.summaries(*timeline, 0).await?;
            for (number, stored) in &log.segments {
                done.segments += 1;
                told(done.segments, count);
                let known = summaries.get(number).is_some_and(|s| s.head != Head::Unknown);
                if known || !matches!(stored, Stored::Sealed { .. }) {
                    continue;
                }
                let id = SegmentId { timeline: *timeline, number: *number };
                let made = self.make_index(id).await;
                if let Some(summary) = done.keep(writable, &self.index_key(id), made).await? {
                    summaries.insert(*number, summary);
                }
            }
            self.roll_up(writable, *timeline, &summaries, &mut done).await?;
        }
        Ok(done)
    }

    async fn make_index(&self, id: SegmentId) -> Result<SegmentIndex, CatalogError> {
        let size = self.segment_size();
        let key = self.lineage.sealed(&self.name_of(id));
        let (footer, raw) = unpacked(&*self.store, &key).await?;
        super::read::check_place(&key, &footer, self.lineage, id, size)?;
        let path = LogPath::new(self.history(id.timeline));
        let mut back = 1;
        loop {
            let (before, all) = self.before(&path, id.number, back).await?;
            let frames = footer.frames.iter().map(|frame| frame.raw_len);
            let index = Indexer::build(id, size, &before, &raw, frames);
            let enough = all || back * size.bytes() >= RUN_UP_MAX;
            if index.head != Head::Unknown || enough {
                return Ok(index);
            }
            back *= 4;
        }
    }

    /// The log of up to `back` segments before `number`, and whether that is all there is.
    async fn before(
        &self,
        path: &LogPath,
        number: u64,
        back: u64,
    ) -> Result<(Vec<u8>, bool), CatalogError> {
        let size = self.segment_size();
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut all = false;
        for before in (number.saturating_sub(back)..number).rev() {
            let whole = self.locate(path, before).filter(|l| l.raw_bytes == size.bytes());
            let Some(located) = whole else {
                all = true;
                break;
            };
            match self.raw(located.id).await {
                Ok(raw) => pieces.push(raw),
                Err(error @ CatalogError::Store(_)) => return Err(error),
                // A damaged one is as good as none: the index says that it does not know.
                Err(_) => {
                    all = true;
                    break;
                }
            }
        }
        pieces.reverse();
        Ok((pieces.concat(), all || number < back))
    }

    async fn roll_up(
        &self,
        writable: &dyn Store,
        timeline: Timeline,
        summaries: &std::collections::BTreeMap<u64, Summary>,
        done: &mut Reindexed,
    ) -> Result<(), CatalogError> {
        let mut firsts: Vec<u64> = summaries.keys().map(|number| number / ROLL_UP).collect();
        firsts.dedup();
        for first in firsts.into_iter().map(|group| group * ROLL_UP) {
            let segments: Vec<Summary> =
                summaries.range(first..first + ROLL_UP).map(|(_, s)| s.clone()).collect();
            let settled = segments.iter().all(|summary| summary.head != Head::Unknown);
            if segments.len() as u64 != ROLL_UP || !settled {
                continue;
            }
            let name = self.name_of(SegmentId { timeline, number: first });
            let key = self.lineage.roll_up(&name, u32::from(VERSION));
            done.roll_up(writable, &key, Engine::Postgresql, segments).await?;
        }
        Ok(())
    }
}

impl Reindexed {
    /// Puts the index that was made of a segment, or notes that it cannot be read.
    pub(super) async fn keep(
        &mut self,
        store: &dyn Store,
        key: &Key,
        made: Result<SegmentIndex, CatalogError>,
    ) -> Result<Option<Summary>, CatalogError> {
        match made {
            Ok(index) => {
                replace(store, key, index.encode()).await?;
                self.made += 1;
                Ok(Some(index.summary()))
            }
            Err(error @ CatalogError::Store(_)) => Err(error),
            Err(error) => {
                self.unreadable.push(describe(&error));
                Ok(None)
            }
        }
    }

    /// Puts a roll-up, unless it is there.
    pub(super) async fn roll_up(
        &mut self,
        store: &dyn Store,
        key: &Key,
        engine: Engine,
        segments: Vec<Summary>,
    ) -> Result<(), CatalogError> {
        let roll_up = RollUp { engine, segments };
        self.roll_ups += u64::from(replace(store, key, roll_up.encode()).await?);
        Ok(())
    }
}

/// Puts a derived object, over one that says something else; `false` when it was there already.
async fn replace(store: &dyn Store, key: &Key, bytes: Vec<u8>) -> Result<bool, CatalogError> {
    let body = Body::from(bytes.clone());
    if store.put(key, &body).await? == Put::Created {
        return Ok(true);
    }
    if store.get(key, Range::All).await? == bytes {
        return Ok(false);
    }
    store.delete(key).await?;
    store.put(key, &body).await?;
    Ok(true)
}
