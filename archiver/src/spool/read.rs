//! Reading frames back out of a spool file: the rare paths.

use proto::disk::Disk;
use proto::segment::{Hash, decompress, first_frame};

use super::SpoolError;
use super::error::io_error;
use super::file::FrameRange;

/// The compressed bytes of some frames, as they stand in the file.
///
/// # Errors
/// When the file cannot be read or is shorter than it was.
pub fn bytes(disk: &dyn Disk, range: &FrameRange) -> Result<Vec<u8>, SpoolError> {
    let len = usize::try_from(range.len).expect("a segment fits in memory");
    let bytes =
        disk.read_at(&range.path, range.offset, len).map_err(io_error("read", &range.path))?;
    if bytes.len() == len {
        Ok(bytes)
    } else {
        let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        Err(SpoolError::Io { action: "read", path: range.path.clone(), source })
    }
}

/// The same, each frame of which can be read.
///
/// # Errors
/// When the file cannot be read or a frame is damaged.
pub fn checked(disk: &dyn Disk, range: &FrameRange) -> Result<Vec<u8>, SpoolError> {
    let frames = bytes(disk, range)?;
    each_frame_of(&frames, range, |_| true)?;
    Ok(frames)
}

/// The raw bytes of some frames.
///
/// # Errors
/// When the file cannot be read or a frame is damaged.
pub fn raw(disk: &dyn Disk, range: &FrameRange) -> Result<Vec<u8>, SpoolError> {
    let mut raw = Vec::new();
    each_frame(disk, range, |piece| {
        raw.extend_from_slice(piece);
        true
    })?;
    Ok(raw)
}

/// The hash of the first `len` raw bytes of some frames.
///
/// # Errors
/// When the file cannot be read or a frame is damaged.
pub fn hash_prefix(disk: &dyn Disk, range: &FrameRange, len: u64) -> Result<Hash, SpoolError> {
    let mut hash = proto::segment::RunningHash::default();
    each_frame(disk, range, |piece| {
        let rest = len - hash.bytes();
        hash.update(&piece[..usize::try_from(rest).map_or(piece.len(), |r| r.min(piece.len()))]);
        hash.bytes() < len
    })?;
    Ok(hash.now())
}

/// Calls `take` with the raw bytes of one frame after the other, until it says `false`.
///
/// # Errors
/// When the file cannot be read or a frame is damaged.
pub fn each_frame(
    disk: &dyn Disk,
    range: &FrameRange,
    take: impl FnMut(&[u8]) -> bool,
) -> Result<(), SpoolError> {
    each_frame_of(&bytes(disk, range)?, range, take)
}

fn each_frame_of(
    compressed: &[u8],
    range: &FrameRange,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Result<(), SpoolError> {
    let wrong = |source| SpoolError::Segment { path: range.path.clone(), source };
    let mut at = 0;
    while at < compressed.len() {
        let Some(span) = first_frame(&compressed[at..]).map_err(wrong)? else { break };
        let piece = decompress(&compressed[at..at + span.len]).map_err(wrong)?;
        if !take(&piece) {
            break;
        }
        at += span.len;
    }
    Ok(())
}
