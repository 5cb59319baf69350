//! From an object's bytes back to the log's raw bytes, every promise of the format checked.

use super::frame::{FrameKind, first_frame};
use super::{Footer, Hash, SegmentError, TailHeader, decompress};

/// A whole sealed segment: its footer and raw bytes, lengths, CRCs and hash verified.
///
/// # Errors
/// [`SegmentError`] naming what does not hold.
pub fn read_sealed(object: &[u8]) -> Result<(Footer, Vec<u8>), SegmentError> {
    let footer = Footer::decode_suffix(object)?;
    let mut raw = Vec::with_capacity(usize::try_from(footer.raw_len).unwrap_or(0).min(1 << 30));
    let mut at = 0_usize;
    for entry in &footer.frames {
        let end = at + entry.file_len as usize;
        let frame = object.get(at..end).ok_or_else(|| torn(at))?;
        if crc32fast::hash(frame) != entry.crc {
            let detail = "its CRC is not the one in the frame table".to_owned();
            return Err(SegmentError::Frame { offset: at as u64, detail });
        }
        let piece = decompress(frame).map_err(|e| e.at(at as u64))?;
        if piece.len() != entry.raw_len as usize {
            let (expected, found) = (u64::from(entry.raw_len), piece.len() as u64);
            return Err(SegmentError::Length { what: "frame table", expected, found });
        }
        raw.extend(piece);
        at = end;
    }
    check_length("footer", footer.raw_len, raw.len() as u64)?;
    check_hash("footer", footer.hash, Hash::of(&raw))?;
    Ok((footer, raw))
}

/// A whole tail: its header and raw bytes. The caller checks the hashes along the chain.
///
/// # Errors
/// [`SegmentError`] naming what does not hold.
pub fn read_tail(object: &[u8]) -> Result<(TailHeader, Vec<u8>), SegmentError> {
    let header = TailHeader::decode(object)?;
    let raw = read_frames(&object[super::TAIL_HEADER_LEN as usize..])?;
    check_length("tail header", header.raw_len, raw.len() as u64)?;
    Ok((header, raw))
}

/// The raw bytes of a run of frames; skippable ones are passed over.
///
/// # Errors
/// [`SegmentError::Frame`] when the run ends within a frame or one is damaged.
pub fn read_frames(mut bytes: &[u8]) -> Result<Vec<u8>, SegmentError> {
    let (mut raw, mut at) = (Vec::new(), 0);
    while !bytes.is_empty() {
        let span = first_frame(bytes).map_err(|e| e.at(at))?.ok_or_else(|| torn(at as usize))?;
        if span.kind != FrameKind::Skippable {
            raw.extend(decompress(&bytes[..span.len]).map_err(|e| e.at(at))?);
        }
        bytes = &bytes[span.len..];
        at += span.len as u64;
    }
    Ok(raw)
}

fn torn(at: usize) -> SegmentError {
    SegmentError::Frame { offset: at as u64, detail: "the object ends within this frame".into() }
}

fn check_length(what: &'static str, expected: u64, found: u64) -> Result<(), SegmentError> {
    if expected == found { Ok(()) } else { Err(SegmentError::Length { what, expected, found }) }
}

/// # Errors
/// [`SegmentError::Hash`] when they differ.
pub fn check_hash(what: &'static str, expected: Hash, found: Hash) -> Result<(), SegmentError> {
    if expected == found { Ok(()) } else { Err(SegmentError::Hash { what, expected, found }) }
}
