//! From an object's bytes back to the log's raw bytes, every promise of the format checked.

use super::codec::claimed;
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
        unpack(frame, at as u64, &mut raw, ("footer", footer.raw_len))?;
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
    let most = ("tail header", header.raw_len);
    read_onto(&object[super::TAIL_HEADER_LEN as usize..], &mut raw, most)?;
    check_length("tail header", header.raw_len, raw.len() as u64)?;
    Ok((header, raw))
}

/// The raw bytes of a run of frames, at most `most`; skippable ones are passed over.
///
/// # Errors
/// [`SegmentError::Frame`] when the run ends within a frame or one is damaged;
/// [`SegmentError::Length`] when there are more.
pub fn read_frames(bytes: &[u8], most: u64) -> Result<Vec<u8>, SegmentError> {
    let mut raw = Vec::new();
    read_onto(bytes, &mut raw, ("caller", most))?;
    Ok(raw)
}

fn read_onto(mut bytes: &[u8], raw: &mut Vec<u8>, most: Most) -> Result<(), SegmentError> {
    let mut at = 0;
    while !bytes.is_empty() {
        let span = first_frame(bytes).map_err(|e| e.at(at))?.ok_or_else(|| torn(at as usize))?;
        if span.kind != FrameKind::Skippable {
            unpack(&bytes[..span.len], at, raw, most)?;
        }
        bytes = &bytes[span.len..];
        at += span.len as u64;
    }
    Ok(())
}

/// Room for so many raw bytes at once; of more, as they come: a header may be damaged and claim anything.
const ROOM_MAX: usize = 64 << 20;

pub(crate) fn room_for(raw_len: u64) -> Vec<u8> {
    Vec::with_capacity(usize::try_from(raw_len).unwrap_or(0).min(ROOM_MAX))
}

/// Who says how many raw bytes there are at most.
type Most = (&'static str, u64);

/// One frame, behind what `raw` holds. A thousand bytes can hold a frame of 32 MiB of zeros: what would
/// be more than was said is not unpacked.
fn unpack(frame: &[u8], at: u64, raw: &mut Vec<u8>, most: Most) -> Result<(), SegmentError> {
    check_most(most, (raw.len() as u64).saturating_add(claimed(frame).unwrap_or(0)))?;
    decompress_onto(frame, raw).map_err(|e| e.at(at))?;
    check_most(most, raw.len() as u64)
}

fn torn(at: usize) -> SegmentError {
    SegmentError::Frame { offset: at as u64, detail: "the object ends within this frame".into() }
}

fn check_length(what: &'static str, expected: u64, found: u64) -> Result<(), SegmentError> {
    if expected == found { Ok(()) } else { Err(SegmentError::Length { what, expected, found }) }
}

fn check_most((what, most): Most, found: u64) -> Result<(), SegmentError> {
    if found <= most { Ok(()) } else { Err(SegmentError::Length { what, expected: most, found }) }
}

/// # Errors
/// [`SegmentError::Hash`] when they differ.
pub fn check_hash(what: &'static str, expected: Hash, found: Hash) -> Result<(), SegmentError> {
    if expected == found { Ok(()) } else { Err(SegmentError::Hash { what, expected, found }) }
}
