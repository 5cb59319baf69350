//! A sealed segment: frames, then one skippable frame (the footer) that says what they are.
//!
//! Enters: frames in order with their raw bytes. Leaves: the footer that makes the run a segment.
//! A file without a whole footer is no segment: a crash before its last byte leaves an open one.
//! Layout byte by byte: docs/FORMAT.md.

use super::bytes::Fields;
use super::frame::{SKIPPABLE_MAGIC, skippable};
use super::{Engine, Hash, RunningHash, SEGMENT_RAW_MAX, SegmentError, SegmentHead};

/// A suffix read of this size holds the footer of any segment up to 5 GiB raw.
pub const FOOTER_READ: u64 = 64 << 10;

const MAGIC: &[u8; 8] = b"PITRSEG1";
const END_MAGIC: &[u8; 8] = b"PITREND1";
const VERSION: u16 = 1;
const FLAG_PARTIAL: u16 = 1;
/// Length, CRC, version, reserved, magic.
const TRAILER: usize = 4 + 4 + 2 + 2 + 8;
const FIXED: usize = 8 + 2 + 2 + 2 + 2 + 4 + 4 + 8 + 8 + 8 + 8 + 32 + 32 + 4;
const ENTRY: usize = 12;

/// One frame of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    pub raw_len: u32,
    pub file_len: u32,
    /// CRC-32 (IEEE) of the frame's bytes as they stand in the object.
    pub crc: u32,
}

/// What the end of a sealed segment says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub head: SegmentHead,
    /// A timeline's last, unfilled segment.
    pub partial: bool,
    pub raw_len: u64,
    /// BLAKE3 of the raw bytes.
    pub hash: Hash,
    pub frames: Vec<FrameEntry>,
}

/// A frame ready to be appended: compressed, with its checksum.
#[derive(Debug, Clone)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub entry: FrameEntry,
}

impl Frame {
    /// Compresses `raw` (at most [`super::FRAME_RAW_MAX`] bytes) into one frame.
    ///
    /// # Errors
    /// Whatever the compressor fails with.
    pub fn of(codec: super::Codec, raw: &[u8]) -> Result<Self, SegmentError> {
        Self::of_in(codec, raw, Vec::new())
    }

    /// [`Frame::of`] in memory that serves again.
    ///
    /// # Errors
    /// As [`Frame::of`].
    pub fn of_in(codec: super::Codec, raw: &[u8], buffer: Vec<u8>) -> Result<Self, SegmentError> {
        let bytes = codec.compress_in(raw, buffer)?;
        let entry = FrameEntry {
            raw_len: u32::try_from(raw.len()).expect("bounded by FRAME_RAW_MAX"),
            file_len: u32::try_from(bytes.len()).expect("a frame of a bounded piece"),
            crc: crc32fast::hash(&bytes),
        };
        Ok(Self { bytes, entry })
    }
}

/// The segment that is being filled: what its footer will say.
#[derive(Debug, Clone)]
pub struct OpenSegment {
    pub head: SegmentHead,
    pub frames: Vec<FrameEntry>,
    hash: RunningHash,
    file_len: u64,
}

impl OpenSegment {
    pub fn new(head: SegmentHead) -> Self {
        Self { head, frames: Vec::new(), hash: RunningHash::default(), file_len: 0 }
    }

    /// Accounts for a frame that now stands behind the others.
    ///
    /// # Panics
    /// When `raw` is not what the frame was made of.
    pub fn push(&mut self, entry: FrameEntry, raw: &[u8]) {
        assert_eq!(entry.raw_len as usize, raw.len(), "a frame and its raw bytes");
        self.hash.update(raw);
        self.file_len += u64::from(entry.file_len);
        self.frames.push(entry);
    }

    pub const fn raw_len(&self) -> u64 {
        self.hash.bytes()
    }

    /// Bytes of the frames so far.
    pub const fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The hash of the raw bytes so far.
    pub fn hash(&self) -> Hash {
        self.hash.now()
    }

    /// The bytes that seal it, and what they say.
    pub fn seal(self, partial: bool) -> (Footer, Vec<u8>) {
        let footer = Footer {
            partial,
            raw_len: self.hash.bytes(),
            hash: self.hash.now(),
            head: self.head,
            frames: self.frames,
        };
        let bytes = footer.encode();
        (footer, bytes)
    }
}

impl Footer {
    /// The footer as a skippable frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + self.frames.len() * ENTRY + TRAILER);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.head.engine as u16).to_le_bytes());
        out.extend((if self.partial { FLAG_PARTIAL } else { 0 }).to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(self.head.lineage.to_le_bytes());
        out.extend(self.head.epoch.0.to_le_bytes());
        out.extend(self.head.number.to_le_bytes());
        out.extend(self.head.writer.to_le_bytes());
        out.extend(self.head.start.0.to_le_bytes());
        out.extend(self.raw_len.to_le_bytes());
        out.extend(self.hash.0);
        out.extend(self.head.previous.0);
        let count = u32::try_from(self.frames.len()).expect("bounded by the segment's size");
        out.extend(count.to_le_bytes());
        for frame in &self.frames {
            out.extend(frame.raw_len.to_le_bytes());
            out.extend(frame.file_len.to_le_bytes());
            out.extend(frame.crc.to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        let len = u32::try_from(out.len()).expect("bounded by the frame count");
        out.extend(len.to_le_bytes());
        out.extend(crc.to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(END_MAGIC);
        skippable(&out)
    }

    /// Reads the footer off the end of an object, given its last bytes ([`FOOTER_READ`]).
    ///
    /// # Errors
    /// [`SegmentError::Footer`] when there is none, or it is damaged;
    /// [`SegmentError::Version`] when a newer program wrote it.
    pub fn decode_suffix(suffix: &[u8]) -> Result<Self, SegmentError> {
        let bad = |detail: &str| SegmentError::Footer { detail: detail.to_owned() };
        let at = suffix.len().checked_sub(TRAILER).ok_or_else(|| bad("shorter than a trailer"))?;
        let mut trailer = Fields(&suffix[at..]);
        let read = || bad("torn trailer");
        let len = trailer.u32().ok_or_else(read)? as usize;
        let crc = trailer.u32().ok_or_else(read)?;
        let version = trailer.u16().ok_or_else(read)?;
        trailer.u16().ok_or_else(read)?;
        if trailer.0 != END_MAGIC {
            return Err(bad("the object does not end as a segment does"));
        }
        if version > VERSION {
            return Err(SegmentError::Version { found: version, known: VERSION });
        }
        let from = at.checked_sub(len).ok_or_else(|| bad("longer than what was read"))?;
        let content = &suffix[from..at];
        if crc32fast::hash(content) != crc {
            return Err(bad("its checksum does not match"));
        }
        let framed = from.checked_sub(8).map(|head| &suffix[head..head + 4]);
        if framed.is_some_and(|magic| magic != SKIPPABLE_MAGIC.to_le_bytes()) {
            return Err(bad("it does not stand in a skippable frame"));
        }
        Self::decode_content(content).ok_or_else(|| bad("its fields do not fit its length"))
    }

    fn decode_content(content: &[u8]) -> Option<Self> {
        let mut fields = Fields(content);
        if fields.array::<8>()? != *MAGIC {
            return None;
        }
        let _version = fields.u16()?;
        let engine = Engine::from_code(fields.u16()?)?;
        let flags = fields.u16()?;
        fields.u16()?;
        let lineage = fields.u32()?;
        let epoch = crate::position::Epoch(fields.u32()?);
        let number = fields.u64()?;
        let writer = fields.u64()?;
        let start = crate::position::Offset(fields.u64()?);
        let raw_len = fields.u64()?;
        let hash = Hash(fields.array()?);
        let previous = Hash(fields.array()?);
        let count = fields.u32()? as usize;
        if fields.0.len() != count.checked_mul(ENTRY)? {
            return None;
        }
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            let (raw_len, file_len, crc) = (fields.u32()?, fields.u32()?, fields.u32()?);
            frames.push(FrameEntry { raw_len, file_len, crc });
        }
        let sane = raw_len <= SEGMENT_RAW_MAX && start.0.checked_add(raw_len).is_some();
        let head = SegmentHead { engine, lineage, epoch, number, writer, start, previous };
        sane.then_some(Self { head, partial: flags & FLAG_PARTIAL != 0, raw_len, hash, frames })
    }

    /// Bytes of the frames, without the footer.
    pub fn frames_len(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.file_len)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Offset};
    use crate::segment::{Codec, read_sealed};

    fn head(start: u64) -> SegmentHead {
        let (engine, previous) = (Engine::Postgresql, Hash::NONE);
        let start = Offset(start);
        SegmentHead { engine, lineage: 1, epoch: Epoch(1), number: 7, writer: 1, start, previous }
    }

    #[test]
    fn a_footer_whose_segment_has_no_end_or_is_larger_than_any_is_refused() {
        let footer = |start, raw_len| Footer {
            head: head(start),
            partial: false,
            raw_len,
            hash: Hash::NONE,
            frames: Vec::new(),
        };
        let read = |start, raw_len| Footer::decode_suffix(&footer(start, raw_len).encode());
        assert!(read(u64::MAX - 5, 5).is_ok());
        assert!(matches!(read(u64::MAX - 5, 6), Err(SegmentError::Footer { .. })));
        assert!(read(0, SEGMENT_RAW_MAX).is_ok());
        assert!(matches!(read(0, SEGMENT_RAW_MAX + 1), Err(SegmentError::Footer { .. })));
    }

    #[test]
    fn a_segment_that_holds_more_than_its_footer_says_is_never_unpacked_whole() {
        let raw = vec![0_u8; 1 << 20];
        let (mut segment, mut object) = (OpenSegment::new(head(0)), Vec::new());
        for _ in 0..20 {
            let frame = Frame::of(Codec::default(), &raw).expect("compresses");
            segment.push(frame.entry, &raw);
            object.extend(frame.bytes);
        }
        let (mut footer, _) = segment.seal(false);
        footer.raw_len = 3 << 20;
        object.extend(footer.encode());
        let Err(SegmentError::Length { expected, found, .. }) = read_sealed(&object) else {
            panic!("a footer that does not tell the truth")
        };
        assert_eq!((expected, found), (3 << 20, 4 << 20), "the frame that is too much is the last");
    }
}
