//! What can go wrong with a base, and whether another attempt may go better.

use proto::archive::ArchiveError;
use proto::mongodb::{OpTime, OplogTs};
use proto::postgres::lsn::{Lsn, Timeline};
use proto::segment::SegmentError;
use proto::store::{self, Key, StoreError};

use super::split::SplitError;

/// What an error asks of the caller. The parts of a base that failed are harmless: nothing reads a
/// base without its `complete.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Take another base after a pause.
    Retry,
    /// Somebody must change something first: rights, settings, addresses.
    Config,
    /// The log has a hole where this base begins: take another base now.
    LogMissing,
    /// Bytes are not what they must be; another base may be whole.
    Damaged,
}

/// What a source fails with, told by its own type.
#[derive(Debug, thiserror::Error)]
#[error("the source")]
pub struct SourceError {
    pub class: Class,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Nothing was begun.
    #[error("the archive is of cluster {archived}, and the server is {found}")]
    WrongCluster { archived: String, found: String },
    #[error("the tar stream of {stream}")]
    Split {
        stream: String,
        #[source]
        source: SplitError,
    },
    #[error("compressing a part of {stream}")]
    Compress {
        stream: String,
        #[source]
        source: SegmentError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{key} is taken by other bytes")]
    Taken { key: Key },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the backup sends {found} where {expected} is due")]
    Order { expected: &'static str, found: &'static str },
    #[error(
        "the backup's label says {found:?}, and the server began it at {start} on timeline {timeline}"
    )]
    Label { start: Lsn, timeline: Timeline, found: String },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("a task of the base ended early")]
    Task(#[from] tokio::task::JoinError),
    #[error("a compressor of the base ended early")]
    CompressorGone,
}

/// Why the log that a base needs is not durable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    #[error(
        "the log of the base begins in segment {segment}, and the archive does not have it and goes on behind it"
    )]
    Missing { segment: String },
    #[error("the log has a gap from {from} to {to}, which the base needs ({reason})")]
    Gap { from: Lsn, to: Lsn, reason: String },
    #[error("the log stood still at {reached} for {} s, and the base needs it to {stop}: is pitrd run running?", stood.as_secs())]
    Stalled { reached: Lsn, stop: Lsn, stood: std::time::Duration },
    #[error("the oplog has a gap from {last} to {first}, which the base needs ({reason})")]
    OplogGap { last: OpTime, first: OpTime, reason: String },
    #[error("the archive has stood still for {} s, and the base needs the oplog to {stop}: is pitrd run running?", stood.as_secs())]
    NotStored { stop: OplogTs, stood: std::time::Duration },
    #[error("the writer of the log ended before {stop}")]
    WriterGone { stop: Lsn },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl BaseError {
    pub fn class(&self) -> Class {
        match self {
            Self::Source(error) => error.class,
            Self::WrongCluster { .. } => Class::Config,
            Self::Store(error) => of_store(error.class()),
            Self::Archive(error) => of_store(error.class()),
            Self::Log(error) => error.class(),
            Self::Split { .. } | Self::Taken { .. } | Self::Label { .. } => Class::Damaged,
            Self::Compress { .. } | Self::Order { .. } => Class::Retry,
            Self::Task(_) | Self::CompressorGone => Class::Retry,
        }
    }

    pub fn is_retryable(&self) -> bool {
        self.class() != Class::Config
    }
}

impl LogError {
    pub fn class(&self) -> Class {
        match self {
            Self::Missing { .. } | Self::Gap { .. } | Self::OplogGap { .. } => Class::LogMissing,
            Self::Stalled { .. } | Self::NotStored { .. } | Self::WriterGone { .. } => Class::Retry,
            Self::Archive(error) => of_store(error.class()),
        }
    }
}

fn of_store(class: store::Class) -> Class {
    match class {
        store::Class::Absent | store::Class::Retry => Class::Retry,
        store::Class::Config => Class::Config,
        store::Class::Damaged => Class::Damaged,
    }
}

impl From<StoreError> for LogError {
    fn from(error: StoreError) -> Self {
        Self::Archive(error.into())
    }
}
