//! From an object's bytes back to the log's raw bytes, every promise of the format checked.

use super::frame::{FrameKind, first_frame};
use super::{Footer, Hash, SegmentError, TailHeader, decompress_onto};

/// A whole sealed segment: its footer and raw bytes, lengths, CRCs and hash verified.
///
/// # Errors
/// [`SegmentError`] naming what does not hold.
pub fn read_sealed(object: &[u8]) -> Result<(Footer, Vec<u8>), SegmentError> {
    let footer = Footer::decode_suffix(object)?;
    let mut raw = room_for(footer.raw_len);
    let mut at = 0_usize;
    for entry in &footer.frames {
        let end = at + entry.file_len as usize;
        let frame = object.get(at..end).ok_or_else(|| torn(at))?;
        if crc32fast::hash(frame) != entry.crc {
            let detail = "its CRC is not the one in the frame table".to_owned();
            return Err(SegmentError::Frame { offset: at as u64, detail });
        }
        let before = raw.len();
        decompress_onto(frame, &mut raw).map_err(|e| e.at(at as u64))?;
        check_length("frame table", u64::from(entry.raw_len), (raw.len() - before) as u64)?;
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
    let mut raw = room_for(header.raw_len);
    read_onto(&object[super::TAIL_HEADER_LEN as usize..], &mut raw)?;
    check_length("tail header", header.raw_len, raw.len() as u64)?;
    Ok((header, raw))
}

/// The raw bytes of a run of frames; skippable ones are passed over.
///
/// # Errors
/// [`SegmentError::Frame`] when the run ends within a frame or one is damaged.
pub fn read_frames(bytes: &[u8]) -> Result<Vec<u8>, SegmentError> {
    let mut raw = Vec::new();
    read_onto(bytes, &mut raw)?;
    Ok(raw)
}

fn read_onto(mut bytes: &[u8], raw: &mut Vec<u8>) -> Result<(), SegmentError> {
    let mut at = 0;
    while !bytes.is_empty() {
        let span = first_frame(bytes).map_err(|e| e.at(at))?.ok_or_else(|| torn(at as usize))?;
        if span.kind != FrameKind::Skippable {
            decompress_onto(&bytes[..span.len], raw).map_err(|e| e.at(at))?;
        }
        bytes = &bytes[span.len..];
        at += span.len as u64;
    }
    Ok(())
}

/// Room for so many raw bytes; a header may be damaged and claim anything.
pub(crate) fn room_for(raw_len: u64) -> Vec<u8> {
    Vec::with_capacity(usize::try_from(raw_len).unwrap_or(0).min(1 << 30))
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
