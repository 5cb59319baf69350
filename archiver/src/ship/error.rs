//! What ends shipping: never a store that is away, only a contradiction.

use proto::archive::ArchiveError;
use proto::segment::Hash;
use proto::store::{Key, StoreError};

use crate::spool::SpoolError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShipError {
    /// A newer writer has put its fence where our next tail belongs.
    #[error("writer {by} has taken over at {key}; this is writer {own}")]
    Fenced { key: Key, own: u64, by: u64 },
    /// The key is taken by other bytes of the log: two histories. Nothing was touched.
    #[error("{key} holds other bytes: the archive has {found}, we have {ours}")]
    Conflict { key: Key, ours: Hash, found: Hash },
    #[error("{key} is taken by something that is not ours: {detail}")]
    Foreign { key: Key, detail: String },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}
