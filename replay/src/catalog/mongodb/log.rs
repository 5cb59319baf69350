//! Reading the oplog out of an archive, in order.
//!
//! Enters: where to begin. Leaves: runs of whole entries. A segment that does not continue the one
//! before it is a gap, and ends the reading: nothing behind it is served as if it followed.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinHandle;

use proto::archive::chain;
use proto::archive::layout::{Lineage, SegmentName};
use proto::mongodb::{Documents, OplogTs};
use proto::position::Offset;
use proto::segment::{FOOTER_READ, Footer, Hash};
use proto::store::{Range, Store};

use super::{OplogArchive, Segment, Stored};
use crate::catalog::CatalogError;
use crate::catalog::load::REQUESTS_AT_ONCE;
use crate::catalog::read::unpacked;

/// Segments that are fetched ahead of the one that is taken.
const AHEAD: usize = 3;

/// A segment's place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub start: Offset,
    pub previous: Hash,
    /// Of its raw bytes.
    pub hash: Hash,
    pub raw_len: u64,
}

type Fetched = Result<(Head, Vec<u8>), CatalogError>;

/// The log from a segment on, up to another.
#[derive(Debug)]
pub struct LogReader {
    store: Arc<dyn Store>,
    lineage: Lineage,
    left: VecDeque<Segment>,
    fetching: VecDeque<(OplogTs, u64, JoinHandle<Fetched>)>,
    /// Bytes in the store of what was handed out.
    stored: u64,
    last: Option<(OplogTs, Head)>,
}

impl OplogArchive {
    /// The log from the segment with an entry of `from` on, up to the one with `to`.
    pub fn log(&self, from: OplogTs, to: OplogTs) -> LogReader {
        let (first, last) = (self.segment_of(from), self.segment_of(to));
        let left = self.segments.get(first..=last).unwrap_or_default().iter().cloned().collect();
        let (store, lineage) = (self.store.clone(), self.lineage);
        LogReader { store, lineage, left, fetching: VecDeque::new(), stored: 0, last: None }
    }
}

impl OplogArchive {
    /// A gap between two entries: the segments on its sides, as far as their places in the log tell.
    /// One request a sealed segment that has no index. (That a segment continues the very bytes of
    /// the one before it is proved when it is read.)
    ///
    /// # Errors
    /// When the store fails, or a segment is damaged.
    pub async fn gap_between(
        &self,
        from: OplogTs,
        to: OplogTs,
    ) -> Result<Option<(OplogTs, OplogTs)>, CatalogError> {
        let (first, last) = (self.segment_of(from), self.segment_of(to));
        let segments = self.segments.get(first..=last).unwrap_or_default();
        let known = self.summaries(from).await?;
        let place = |segment: &Segment| {
            let (summary, segment) = (known.get(&segment.first), segment.clone());
            let place = summary.map(|summary| (summary.start, summary.raw_len));
            async move {
                match place {
                    Some(place) => Ok(place),
                    None => self.head_of(&segment).await.map(|head| (head.start, head.raw_len)),
                }
            }
        };
        let places: Vec<_> = segments.iter().map(place).collect();
        let places: Vec<(Offset, u64)> =
            stream::iter(places).buffered(REQUESTS_AT_ONCE).try_collect().await?;
        let broken = places.windows(2).position(|pair| pair[1].0.0 != pair[0].0.0 + pair[0].1);
        Ok(broken.map(|at| (segments[at].first, segments[at + 1].first)))
    }
}

impl OplogArchive {
    /// Where a segment stands in the log.
    ///
    /// # Errors
    /// When the store fails, or the segment is damaged.
    pub async fn head_of(&self, segment: &Segment) -> Result<Head, CatalogError> {
        head(&*self.store, self.lineage, segment).await
    }
}

impl Head {
    pub(crate) fn continues(&self, before: &Self) -> bool {
        self.previous == before.hash && self.start.0 == before.start.0 + before.raw_len
    }
}

async fn head(
    store: &dyn Store,
    lineage: Lineage,
    segment: &Segment,
) -> Result<Head, CatalogError> {
    let name = SegmentName::mongodb(segment.first);
    if let Stored::Tails(chain) = &segment.stored {
        let link = chain.links.first().ok_or(CatalogError::NoSegment { name: name.name })?;
        let head = link.header.head;
        let (start, previous) = (head.start, head.previous);
        return Ok(Head { start, previous, hash: chain.hash(), raw_len: chain.raw_len() });
    }
    let key = lineage.sealed(&name);
    let suffix = store.get(&key, Range::Last(FOOTER_READ)).await?;
    let footer =
        Footer::decode_suffix(&suffix).map_err(|source| CatalogError::Segment { key, source })?;
    let (start, previous) = (footer.head.start, footer.head.previous);
    Ok(Head { start, previous, hash: footer.hash, raw_len: footer.raw_len })
}

impl LogReader {
    /// Bytes in the store of the segments that were handed out.
    pub const fn stored(&self) -> u64 {
        self.stored
    }

    /// The next run of whole entries, a segment's; `None` behind the last one.
    ///
    /// # Errors
    /// [`CatalogError::Gap`] where the log does not go on; or when the store fails.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CatalogError> {
        while self.fetching.len() < AHEAD
            && let Some(segment) = self.left.pop_front()
        {
            let (store, lineage) = (self.store.clone(), self.lineage);
            let (first, stored) = (segment.first, segment.stored.bytes());
            let task = tokio::spawn(async move { fetch(&*store, lineage, &segment).await });
            self.fetching.push_back((first, stored, task));
        }
        let Some((first, stored, task)) = self.fetching.pop_front() else { return Ok(None) };
        let fetched = task
            .await
            .unwrap_or_else(|error| Err(CatalogError::Stopped { detail: error.to_string() }));
        let (head, mut raw) = fetched?;
        if let Some((before, last)) = self.last
            && !head.continues(&last)
        {
            return Err(CatalogError::Gap { before, behind: first });
        }
        self.last = Some((first, head));
        self.stored += stored;
        // The tails may end within an entry.
        let mut documents = Documents::new(&raw);
        for document in documents.by_ref() {
            document.map_err(|source| CatalogError::Entries { segment: first, source })?;
        }
        let whole = documents.offset();
        raw.truncate(whole);
        Ok(Some(raw))
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        for (_, _, task) in &self.fetching {
            task.abort();
        }
    }
}

async fn fetch(store: &dyn Store, lineage: Lineage, segment: &Segment) -> Fetched {
    let name = SegmentName::mongodb(segment.first);
    let chain = match &segment.stored {
        Stored::Sealed { .. } => return fetch_sealed(store, lineage, &name).await,
        Stored::Tails(chain) => chain,
    };
    let read = chain::read_raw(store, &name.name, chain).await;
    let (raw, hash) = match read {
        Ok(read) => read,
        // Sealed since it was listed, and its tails are gone.
        Err(error) => match fetch_sealed(store, lineage, &name).await {
            Ok(sealed) => return Ok(sealed),
            Err(_) => return Err(error.into()),
        },
    };
    let link = chain.links.first().ok_or(CatalogError::NoSegment { name: name.name })?;
    let head = link.header.head;
    let (start, previous, raw_len) = (head.start, head.previous, raw.len() as u64);
    Ok((Head { start, previous, hash: hash.now(), raw_len }, raw))
}

async fn fetch_sealed(store: &dyn Store, lineage: Lineage, name: &SegmentName) -> Fetched {
    let (footer, raw) = unpacked(store, &lineage.sealed(name)).await?;
    let head = footer.head;
    let (start, previous, raw_len) = (head.start, head.previous, footer.raw_len);
    Ok((Head { start, previous, hash: footer.hash, raw_len }, raw))
}
