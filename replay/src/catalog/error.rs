//! What keeps an archive from being understood.

use proto::archive::ArchiveError;
use proto::mongodb::OplogTs;
use proto::position::Offset;
use proto::postgres::history::HistoryError;
use proto::postgres::lsn::Timeline;
use proto::segment::{Hash, SegmentError};
use proto::store::{Class, Key, StoreError};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("there is no archive at {address}")]
    NoArchive { address: String },
    #[error("the archive at {address} has no lineage {lineage} (it has {})", list(.found))]
    NoLineage { address: String, lineage: u32, found: Vec<u32> },
    #[error("the archive at {address} is of {engine}, which this command does not know")]
    Engine { address: String, engine: proto::segment::Engine },
    #[error("archive format {found}, and this program reads up to {known}")]
    Format { found: u32, known: u32 },
    #[error("{key} is not readable")]
    History {
        key: Key,
        #[source]
        source: HistoryError,
    },
    #[error("segment {name} is not in the archive")]
    NoSegment { name: String },
    #[error("{key} is not readable")]
    Segment {
        key: Key,
        #[source]
        source: SegmentError,
    },
    #[error("{key} holds {field} {found}, and its name says {expected}")]
    Misplaced { key: Key, field: &'static str, expected: u64, found: u64 },
    #[error(
        "segment {name} no longer begins with the {bytes} bytes that were planned: hash {found}, planned {expected}"
    )]
    Changed { name: String, bytes: u64, expected: Hash, found: Hash },
    #[error("segment {name} has {found} bytes, and {expected} were planned")]
    Shrunk { name: String, expected: u64, found: u64 },
    #[error("no log of timeline {timeline} in the archive")]
    NoTimeline { timeline: Timeline },
    #[error("no complete record before {at:?}")]
    NoRecord { at: Offset },
    #[error("the oplog does not go on from segment {before} to segment {behind}: a gap")]
    Gap { before: OplogTs, behind: OplogTs },
    #[error("segment {segment} holds something else than oplog entries")]
    Entries {
        segment: OplogTs,
        #[source]
        source: proto::mongodb::WalkError,
    },
    #[error("an oplog entry of segment {segment} is not readable")]
    Entry {
        segment: OplogTs,
        #[source]
        source: proto::mongodb::EntryError,
    },
    #[error("reading the log stopped in the middle: {detail}")]
    Stopped { detail: String },
}

fn list(found: &[u32]) -> String {
    let shown: Vec<String> = found.iter().map(u32::to_string).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

impl CatalogError {
    pub fn class(&self) -> Class {
        match self {
            Self::Store(error) => error.class(),
            Self::Archive(error) => error.class(),
            Self::NoArchive { .. }
            | Self::NoLineage { .. }
            | Self::NoSegment { .. }
            | Self::NoTimeline { .. }
            | Self::NoRecord { .. }
            | Self::Gap { .. } => Class::Absent,
            Self::Stopped { .. } => Class::Retry,
            Self::Engine { .. } | Self::Format { .. } => Class::Config,
            Self::History { .. }
            | Self::Segment { .. }
            | Self::Misplaced { .. }
            | Self::Changed { .. }
            | Self::Shrunk { .. }
            | Self::Entries { .. }
            | Self::Entry { .. } => Class::Damaged,
        }
    }
}
