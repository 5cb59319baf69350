//! What can go wrong with an archive as a whole.

use crate::postgres::history::HistoryError;
use crate::segment::SegmentError;
use crate::store::{Class, Key, StoreError};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{key} is not readable")]
    Segment {
        key: Key,
        #[source]
        source: SegmentError,
    },
    #[error("{key} is not what its format says")]
    Json {
        key: Key,
        #[source]
        source: serde_json::Error,
    },
    #[error("{key} makes no sense")]
    History {
        key: Key,
        #[source]
        source: HistoryError,
    },
    /// Nothing of it is understood safely.
    #[error("{key} has format {found}, and this program knows formats up to {known}")]
    Newer { key: Key, found: u32, known: u32 },
    #[error("the chain of tails of {segment} breaks at {key}: {detail}")]
    Chain { segment: String, key: Key, detail: String },
    #[error("the ledger grows faster than an entry can be added (at {seq})")]
    LedgerRace { seq: u64 },
}

impl ArchiveError {
    pub fn class(&self) -> Class {
        match self {
            Self::Store(error) => error.class(),
            Self::LedgerRace { .. } => Class::Retry,
            Self::Newer { .. } => Class::Config,
            Self::Segment { .. }
            | Self::Json { .. }
            | Self::History { .. }
            | Self::Chain { .. } => Class::Damaged,
        }
    }
}
