//! What can be wrong with bytes that claim to be a segment or a tail.

use super::Hash;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    #[error("compression {0:?} is unknown (zstd[:LEVEL], lz4 or none)")]
    Codec(String),
    #[error("compressing failed")]
    Compress(#[source] std::io::Error),
    #[error("bad frame at byte {offset}: {detail}")]
    Frame { offset: u64, detail: String },
    #[error("no footer: {detail}")]
    Footer { detail: String },
    #[error("no tail header: {detail}")]
    Tail { detail: String },
    #[error("format version {found}, and this program reads up to {known}")]
    Version { found: u16, known: u16 },
    #[error("the bytes have hash {found}, and the {what} says {expected}")]
    Hash { what: &'static str, expected: Hash, found: Hash },
    #[error("{found} raw bytes, and the {what} says {expected}")]
    Length { what: &'static str, expected: u64, found: u64 },
}

impl SegmentError {
    /// The same, `offset` bytes further into the object.
    #[must_use]
    pub(super) fn at(self, by: u64) -> Self {
        match self {
            Self::Frame { offset, detail } => Self::Frame { offset: offset + by, detail },
            other => other,
        }
    }
}
