//! Where a source takes up whose log has records of any size: at the last whole one that is held.
//!
//! Enters: what the spool found, and where the store ends. Leaves: that record. It is sent again and
//! compared, so that a source proves that it has the same log. Only reads.

use std::sync::Arc;

use bytes::Bytes;
use proto::archive::ArchiveError;
use proto::archive::layout::{Lineage, SegmentName};
use proto::disk::Disk;
use proto::position::{Offset, Position};
use proto::segment::read_sealed;
use proto::store::{Range, Store};

use super::recover::Recovered;
use super::spooler::blocking;
use super::{FrameRange, Segmenter, SpoolError, read};

/// What a source must know of the log that is held; nothing for one that begins with a segment.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Where the first record begins that is not held whole.
    pub next: Offset,
    /// The segment that this record belongs to, if it is begun.
    pub open: Option<OpenSegment>,
    /// The record before.
    pub last: Option<Record>,
    /// The segment of which the first record alone is held, and not whole.
    pub begun: Option<u64>,
    /// The bytes of that record, where they stand in the segment before.
    pub(crate) behind: Bytes,
}

/// A segment that is begun, up to the last whole record in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSegment {
    pub number: u64,
    pub raw_len: u64,
}

/// One record as it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub begin: Offset,
    pub bytes: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Where the bytes are read from.
#[derive(Debug)]
pub struct Places<'a> {
    pub disk: &'a Arc<dyn Disk>,
    pub store: &'a dyn Store,
    pub lineage: Lineage,
    /// The sealed segment right before the one that is open in the store.
    pub before: Option<&'a SegmentName>,
}

/// Finds the last whole record.
///
/// # Errors
/// When the spool or the store cannot be read.
pub async fn find(
    places: &Places<'_>,
    segmenter: &dyn Segmenter,
    recovered: &Recovered,
) -> Result<Held, HeldError> {
    let start = &recovered.start;
    if segmenter.holding(Position::new(start.epoch, start.next)).is_some() {
        return Ok(Held { next: start.next, ..Held::default() });
    }
    // Frames without checksums are compared from the first on, so their segment comes again.
    if let Some(open) = start.open.as_ref().filter(|open| open.is_checked()) {
        let raw = from_spool(places.disk, open.frames_from(0)).await?;
        if let Some(found) = segmenter.last_record(&raw) {
            let begins = open.slot.start;
            let raw_len = found.end as u64;
            return Ok(Held {
                next: Offset(begins.0 + raw_len),
                open: Some(OpenSegment { number: open.slot.number, raw_len }),
                last: Some(Record {
                    begin: Offset(begins.0 + found.start as u64),
                    bytes: raw.slice(found),
                }),
                ..Held::default()
            });
        }
    }
    let next = start.open.as_ref().map_or(start.next, |open| open.slot.start);
    let begun = start.open.as_ref().map(|open| open.slot.number);
    let raw = segment_before(places, recovered, next).await?;
    let Some(found) = segmenter.last_record(&raw) else {
        return Ok(Held { next, begun, ..Held::default() });
    };
    let begin = Offset(next.0 - (raw.len() - found.start) as u64);
    let bytes = raw.slice(found);
    let last = Some(Record { begin, bytes: bytes.clone() });
    Ok(Held { next, open: None, last, begun, behind: bytes })
}

/// The segment that ends at `next`; empty when nothing does.
async fn segment_before(
    places: &Places<'_>,
    recovered: &Recovered,
    next: Offset,
) -> Result<Bytes, HeldError> {
    if let Some(sealed) = recovered.sealed.last() {
        if Offset(sealed.slot.start.0 + sealed.footer.raw_len) != next {
            return Ok(Bytes::new());
        }
        let range =
            FrameRange { path: sealed.path.clone(), offset: 0, len: sealed.footer.frames_len() };
        return Ok(from_spool(places.disk, range).await?);
    }
    let Some(name) = places.before else { return Ok(Bytes::new()) };
    let key = places.lineage.sealed(name);
    let object = places.store.get(&key, Range::All).await.map_err(ArchiveError::from)?;
    let (_, raw) = read_sealed(&object).map_err(|source| ArchiveError::Segment { key, source })?;
    Ok(raw.into())
}

async fn from_spool(disk: &Arc<dyn Disk>, range: FrameRange) -> Result<Bytes, SpoolError> {
    let disk = disk.clone();
    blocking(move || read::raw(&*disk, &range)).await.map(Bytes::from)
}
