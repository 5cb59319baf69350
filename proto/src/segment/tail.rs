//! A tail: one skippable frame that says where it stands in the chain, then frames of new bytes.
//!
//! Enters: the range, the writer and the running hash before and after. Leaves: an object of the
//! chain `tail/<segment>/<seq8>.zst`. An empty one is a fence (a new writer's first put) or a
//! watermark (proof that nothing was committed up to a server clock time). Layout: docs/FORMAT.md.

use super::bytes::Fields;
use super::frame::{SKIPPABLE_MAGIC, skippable};
use super::{Engine, Hash, SEGMENT_RAW_MAX, SegmentError, SegmentHead};
use crate::position::{Epoch, Offset};
use crate::timestamp::Timestamp;

const MAGIC: &[u8; 8] = b"PITRTAL1";
const VERSION: u16 = 1;
/// Bytes of the header with its skippable frame: one read finds it.
pub const TAIL_HEADER_LEN: u64 = 8 + CONTENT as u64;
const CONTENT: usize =
    8 + 2 + 2 + 2 + 2 + 4 + 4 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 32 + 32 + 32 + 8 + 8 + 4 + 4;

/// How many tails are merged into one, and how many merged ones again.
pub const MERGE_COUNT: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum TailKind {
    Data = 0,
    Fence = 1,
    Watermark = 2,
    /// The frames of [`MERGE_COUNT`] tails (or merged tails) in one object.
    Merged = 3,
}

/// Proof that everything committed before `clock − margin` stands at or before `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    /// The database server's own clock.
    pub clock: Timestamp,
    pub offset: Offset,
    /// What asynchronous commits may lag behind: max(2 s, 4 × `wal_writer_delay`), milliseconds.
    pub margin_ms: u32,
}

/// What stands at the beginning of a tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailHeader {
    pub head: SegmentHead,
    pub kind: TailKind,
    /// Place in the chain of this segment; `last` is larger in a merged tail.
    pub first: u64,
    pub last: u64,
    /// Raw offset in the segment, and how many raw bytes follow.
    pub raw_start: u64,
    pub raw_len: u64,
    /// Hash of the segment's raw bytes before and after this tail.
    pub before: Hash,
    pub after: Hash,
    pub watermark: Option<Watermark>,
}

impl Watermark {
    /// Complete up to and including this moment of the server's clock.
    pub fn proven(&self) -> Timestamp {
        self.clock.plus_micros(-i64::from(self.margin_ms) * 1000)
    }
}

impl TailHeader {
    /// The raw offset behind this tail.
    pub const fn raw_end(&self) -> u64 {
        self.raw_start + self.raw_len
    }

    /// The position behind this tail.
    pub const fn end(&self) -> Offset {
        Offset(self.head.start.0 + self.raw_end())
    }

    /// The header as a skippable frame of [`TAIL_HEADER_LEN`] bytes; the frames follow it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CONTENT);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.kind as u16).to_le_bytes());
        out.extend((self.head.engine as u16).to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(self.head.lineage.to_le_bytes());
        out.extend(self.head.epoch.0.to_le_bytes());
        out.extend(self.head.number.to_le_bytes());
        out.extend(self.head.writer.to_le_bytes());
        out.extend(self.head.start.0.to_le_bytes());
        out.extend(self.first.to_le_bytes());
        out.extend(self.last.to_le_bytes());
        out.extend(self.raw_start.to_le_bytes());
        out.extend(self.raw_len.to_le_bytes());
        out.extend(self.before.0);
        out.extend(self.after.0);
        out.extend(self.head.previous.0);
        let mark = self.watermark;
        out.extend(mark.map_or(i64::MIN, |mark| mark.clock.0).to_le_bytes());
        out.extend(mark.map_or(0, |mark| mark.offset.0).to_le_bytes());
        out.extend(mark.map_or(0, |mark| mark.margin_ms).to_le_bytes());
        let crc = crc32fast::hash(&out);
        out.extend(crc.to_le_bytes());
        debug_assert_eq!(out.len(), CONTENT, "the layout of docs/FORMAT.md");
        skippable(&out)
    }

    /// Reads the header off the front of a tail.
    ///
    /// # Errors
    /// [`SegmentError::Tail`] when there is none or it is damaged; [`SegmentError::Version`] when a
    /// newer program wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        let bad = |detail: &str| SegmentError::Tail { detail: detail.to_owned() };
        let mut outer = Fields(bytes);
        if outer.u32() != Some(SKIPPABLE_MAGIC) {
            return Err(bad("the object does not begin as a tail does"));
        }
        let len = outer.u32().ok_or_else(|| bad("torn"))? as usize;
        let content = outer.take(len).ok_or_else(|| bad("torn"))?;
        if content.len() < 14 || &content[..8] != MAGIC {
            return Err(bad("the object does not begin as a tail does"));
        }
        let version = u16::from_le_bytes([content[8], content[9]]);
        if version > VERSION {
            return Err(SegmentError::Version { found: version, known: VERSION });
        }
        let (fields, crc) = content.split_at(content.len() - 4);
        if crc32fast::hash(fields).to_le_bytes() != crc {
            return Err(bad("its checksum does not match"));
        }
        Self::decode_fields(&fields[10..]).ok_or_else(|| bad("its fields do not fit its length"))
    }

    fn decode_fields(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let kind = match fields.u16()? {
            0 => TailKind::Data,
            1 => TailKind::Fence,
            2 => TailKind::Watermark,
            3 => TailKind::Merged,
            _ => return None,
        };
        let engine = Engine::from_code(fields.u16()?)?;
        fields.u16()?;
        let lineage = fields.u32()?;
        let epoch = Epoch(fields.u32()?);
        let number = fields.u64()?;
        let writer = fields.u64()?;
        let start = Offset(fields.u64()?);
        let (first, last) = (fields.u64()?, fields.u64()?);
        let (raw_start, raw_len) = (fields.u64()?, fields.u64()?);
        let (before, after) = (Hash(fields.array()?), Hash(fields.array()?));
        let previous = Hash(fields.array()?);
        let clock = fields.i64()?;
        let offset = Offset(fields.u64()?);
        let margin_ms = fields.u32()?;
        let raw_end = raw_start.checked_add(raw_len)?;
        // Another one can follow it, and its segment has an end.
        let sane = first <= last
            && last < u64::MAX
            && raw_end <= SEGMENT_RAW_MAX
            && raw_end.checked_add(start.0).is_some();
        let watermark =
            (clock != i64::MIN).then_some(Watermark { clock: Timestamp(clock), offset, margin_ms });
        let head = SegmentHead { engine, lineage, epoch, number, writer, start, previous };
        (sane && fields.0.is_empty()).then_some(Self {
            head,
            kind,
            first,
            last,
            raw_start,
            raw_len,
            before,
            after,
            watermark,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{Codec, read_frames, read_tail};

    fn tail(last: u64, raw_start: u64, raw_len: u64) -> TailHeader {
        let head = SegmentHead {
            engine: Engine::Postgresql,
            lineage: 1,
            epoch: Epoch(1),
            number: 7,
            writer: 1,
            start: Offset(7 << 20),
            previous: Hash::NONE,
        };
        let (kind, before, after) = (TailKind::Data, Hash::NONE, Hash::NONE);
        TailHeader {
            head,
            kind,
            first: 5,
            last,
            raw_start,
            raw_len,
            before,
            after,
            watermark: None,
        }
    }

    #[test]
    fn a_tail_that_nothing_can_follow_is_refused() {
        let read = |tail: TailHeader| TailHeader::decode(&tail.encode());
        assert!(read(tail(u64::MAX - 1, 0, 5)).is_ok());
        assert!(matches!(read(tail(u64::MAX, 0, 5)), Err(SegmentError::Tail { .. })));
        let last = SEGMENT_RAW_MAX - 5;
        assert!(read(tail(5, last, 5)).is_ok());
        assert!(matches!(read(tail(5, last, 6)), Err(SegmentError::Tail { .. })));
    }

    #[test]
    fn a_tail_that_holds_more_than_its_header_says_is_never_unpacked_whole() {
        let raw = vec![0_u8; 1 << 20];
        let mut object = tail(5, 0, 1 << 20).encode();
        let frames = Codec::default().compress(&raw).expect("compresses").repeat(20);
        object.extend(&frames);
        let Err(SegmentError::Length { expected, found, .. }) = read_tail(&object) else {
            panic!("a header that does not tell the truth")
        };
        assert_eq!((expected, found), (1 << 20, 2 << 20), "the frame that is too much is the last");
        assert!(read_frames(&frames, 20 << 20).is_ok());
        assert!(read_frames(&frames, (20 << 20) - 1).is_err());
    }
}
