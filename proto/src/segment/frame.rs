//! Finding the frames in a run of bytes: where each ends, without decoding it.
//!
//! Enters: bytes that begin with a frame. Leaves: its kind and length, or `None` while it is torn.

use super::SegmentError;
use super::codec::{ZSTD_MAGIC, magic_of};
use super::lz4;

/// Our skippable frames (RFC 8878 §3.1.2 allows 0x184D2A50 to 5F; pzstd takes the first).
pub const SKIPPABLE_MAGIC: u32 = 0x184D_2A51;
/// A skippable frame of ours is never longer than this: the frame table of a 1 GiB segment.
const SKIPPABLE_MAX: usize = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    Zstd,
    Lz4,
    /// Magic and length stand before the content: eight bytes.
    Skippable,
}

/// One frame at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSpan {
    pub kind: FrameKind,
    /// Bytes of the whole frame, its header included.
    pub len: usize,
}

/// The first frame of `bytes`; `Ok(None)` when `bytes` end before it does.
///
/// # Errors
/// [`SegmentError::Frame`] when the bytes begin with nothing that we write.
pub fn first_frame(bytes: &[u8]) -> Result<Option<FrameSpan>, SegmentError> {
    let bad = |detail: &str| SegmentError::Frame { offset: 0, detail: detail.to_owned() };
    let Some(magic) = magic_of(bytes) else { return Ok(None) };
    let (kind, len) = match magic {
        ZSTD_MAGIC => match zstd::zstd_safe::find_frame_compressed_size(bytes) {
            Ok(len) => (FrameKind::Zstd, len),
            // The library does not tell "torn" from "broken": both end the run of good frames.
            Err(_) => return Ok(None),
        },
        lz4::MAGIC => match lz4::frame_len(bytes)? {
            Some(len) => (FrameKind::Lz4, len),
            None => return Ok(None),
        },
        SKIPPABLE_MAGIC => {
            let Some(len) = bytes.get(4..8) else { return Ok(None) };
            let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
            if len > SKIPPABLE_MAX {
                return Err(bad("a skippable frame too large to be ours"));
            }
            (FrameKind::Skippable, len + 8)
        }
        _ => return Err(bad("no frame begins here")),
    };
    Ok((len <= bytes.len()).then_some(FrameSpan { kind, len }))
}

/// A skippable frame around `content`.
pub(super) fn skippable(content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).expect("bounded by SKIPPABLE_MAX");
    let mut out = Vec::with_capacity(content.len() + 8);
    out.extend(SKIPPABLE_MAGIC.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Codec;

    #[test]
    fn frames_are_found_and_torn_ones_are_not() {
        let raw = vec![3_u8; 300_000];
        for codec in [Codec::Zstd { level: 3 }, Codec::Lz4, Codec::None] {
            let frame = codec.compress(&raw).expect("compresses");
            let mut run = frame.clone();
            run.extend(skippable(b"x"));
            let span = first_frame(&run).expect("a frame").expect("whole");
            assert_eq!(span.len, frame.len(), "{codec}");
            for cut in [1, 5, 20, frame.len() - 1] {
                assert_eq!(first_frame(&frame[..cut]).expect("torn"), None, "{codec} at {cut}");
            }
        }
        assert!(first_frame(b"not a frame").is_err());
    }
}
