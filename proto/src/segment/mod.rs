//! A sealed, immutable piece of the log, and the tails of the one that is still open.
//!
//! Enters: the database's own bytes. Leaves: objects that `zstd -d` turns back into them, each
//! with its place in the log, its hash and its predecessor's. Every byte: docs/FORMAT.md.

pub(crate) mod bytes;
mod codec;
mod error;
mod frame;
mod hash;
mod lz4;
mod sealed;
mod tail;
mod read;

pub use codec::{Codec, FRAME_RAW, FRAME_RAW_MAX, decompress, decompress_onto};
pub use error::SegmentError;
pub use frame::{FrameKind, FrameSpan, SKIPPABLE_MAGIC, first_frame};
pub use hash::{Hash, RunningHash};
pub(crate) use read::room_for;
pub use read::{check_hash, read_frames, read_sealed, read_tail};
pub use sealed::{FOOTER_READ, Footer, Frame, FrameEntry, OpenSegment};
pub use tail::{MERGE_COUNT, TAIL_HEADER_LEN, TailHeader, TailKind, Watermark};

use serde::{Deserialize, Serialize};

use crate::position::{Epoch, Offset};

/// No segment has more raw bytes: PostgreSQL's largest one, and far more than one of an oplog. A larger
/// claim is refused before anything is unpacked.
pub const SEGMENT_RAW_MAX: u64 = 1 << 30;

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u16)]
pub enum Engine {
    Postgresql = 1,
    Mongodb = 2,
}

impl Engine {
    pub(crate) const fn from_code(code: u16) -> Option<Self> {
        match code {
            1 => Some(Self::Postgresql),
            2 => Some(Self::Mongodb),
            _ => None,
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Postgresql => "postgresql",
            Self::Mongodb => "mongodb",
        })
    }
}

/// Which segment, where it begins and what stands before it: the same in its tails and its seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHead {
    pub engine: Engine,
    pub lineage: u32,
    pub epoch: Epoch,
    /// PostgreSQL: the segment number. MongoDB: the first timestamp.
    pub number: u64,
    /// The writer epoch of the sidecar that wrote it.
    pub writer: u64,
    /// Position of its first byte.
    pub start: Offset,
    /// Hash of the predecessor's raw bytes; [`Hash::NONE`] for a lineage's first segment and
    /// behind a gap.
    pub previous: Hash,
}
