//! What a search needs to know of an archive: the log along one path of timelines.
//!
//! In: whatever reads the archive implements [`LogView`]. Out: a frozen picture of it: while a
//! search runs nothing is added, so that every answer speaks of the same log.

use async_trait::async_trait;
use proto::archive::index::Ends;
use proto::postgres::lsn::{Lsn, Timeline};
use proto::postgres::scan::{Event, Span};
use proto::timestamp::Timestamp;

use crate::catalog::CatalogError;

/// The log that leads to one timeline, as it stood when the view was opened.
#[async_trait]
pub trait LogView: Send + Sync {
    /// Where the path leads.
    fn timeline(&self) -> Timeline;

    /// The pieces of the path in the order of the log, the open segment last. None overlaps
    /// another: where a timeline branches inside a segment, the newer one's holds the older's
    /// bytes as well, and stands alone.
    fn segments(&self) -> &[SegmentSummary];

    /// Every event whose record *ends* in the piece: `from < end <= until`. A record that begins
    /// in an earlier piece is read from there (`proto::archive::index::Head::From`).
    async fn events(&self, segment: &SegmentSummary) -> Result<Vec<Event>, CatalogError>;

    /// The first record that begins at or behind `lsn`; none when the log ends before one does.
    async fn record_from(&self, lsn: Lsn) -> Result<Option<Span>, CatalogError>;

    /// The last complete record.
    fn end(&self) -> Option<Span>;

    /// Everything committed up to this moment of the server's clock stands before the end.
    fn watermark(&self) -> Option<Timestamp>;

    /// Stretches that are known to be lost.
    fn gaps(&self) -> &[Gap];

    /// The complete bases on this path, in any order.
    fn bases(&self) -> &[BaseSummary];
}

/// A piece of the log: a segment, or a part of a large one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSummary {
    /// The timeline whose file holds it.
    pub timeline: Timeline,
    pub number: u64,
    pub from: Lsn,
    /// The first byte behind it; in the open segment, behind what is archived.
    pub until: Lsn,
    /// From the index; `None` when there is none, or when it misses a record that spans in: then
    /// the piece is decoded.
    pub ends: Option<Ends>,
    /// Names of its restore points, from the index; `None` as above.
    pub restore_points: Option<Vec<String>>,
    /// Records that are not as they should be.
    pub anomalies: u64,
}

/// A stretch of log that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub from: Lsn,
    pub to: Lsn,
    pub reason: String,
}

/// A base as far as a search needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseSummary {
    pub id: String,
    /// Replay begins here: the log is needed from the segment of this position on.
    pub start: Lsn,
    /// Consistent from here on.
    pub stop: Lsn,
    /// The database's clock when the copy began and when it ended.
    pub started: Timestamp,
    pub finished: Timestamp,
}
