//! What can stop the spool.

use std::io;
use std::path::PathBuf;

use proto::position::{Offset, Position};
use proto::segment::{Hash, SegmentError};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("spool file {}", path.display())]
    Segment {
        path: PathBuf,
        #[source]
        source: SegmentError,
    },
    #[error("the source sent {found:?} where {expected:?} comes next")]
    Discontinuous { expected: Offset, found: Offset },
    /// The same position, other bytes: another cluster, a clone, or a rewound server.
    #[error(
        "the source's log differs from what is archived: up to {at:?} it has hash {found}, \
         the archive {expected}"
    )]
    Diverged { at: Position, expected: Hash, found: Hash },
    /// What the store proves is what the source sends, and only this file says otherwise.
    #[error("the spool file {} is not what was written to it: removed", path.display())]
    Damaged { path: PathBuf },
    #[error("a worker of the pipeline died")]
    Worker,
}

impl SpoolError {
    /// Whether opening the spool anew and asking the source again can mend it: everything that the
    /// local disk did. A file whose fsync failed is abandoned either way.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Segment { .. } | Self::Damaged { .. })
    }

    /// The file is not there any more: its segment was sealed, or brought up and removed.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

pub(crate) fn io_error(
    action: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(io::Error) -> SpoolError {
    move |source| SpoolError::Io { action, path: path.to_owned(), source }
}
