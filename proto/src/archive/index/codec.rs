//! The bytes of an index and of a roll-up; the same parts are written the same way in both.
//!
//! All numbers are little-endian. `varint` is unsigned LEB128 (seven bits a byte, lowest first),
//! at most ten bytes; `zigzag` is a varint of a signed number, 0, -1, 1, -2 … as 0, 1, 2, 3.
//!
//! ```text
//! index      magic "PITRIDX1", version u16, engine u16, epoch u32, number u64, start u64,
//!            raw length u64, head u64, last u64 u64,
//!            count u32 of blocks, each: raw length u32, ends,
//!            bucket width u32, count u32 of buckets, each: zigzag of the distance to the bucket
//!            before it (to 0 for the first), varint of its commits,
//!            marks, marks left out u64,
//!            count u16 of unknown record types, each: type u8, number u64,
//!            anomalies u64, CRC-32 (IEEE) u32 of everything before it
//! head       0: clean; 2^64-1: unknown; else the position where the record that spans in began
//! last       start and end of the last complete record; both 0: none
//! ends       commits u32, aborts u32, earliest and latest commit time i64 i64 (microseconds since
//!            1970; latest before earliest: none), lowest and highest transaction u64 u64 (likewise)
//! marks      count u32, each: kind u16, flags u16 (1: has a time, 2: has a transaction),
//!            start u64, end u64, time i64, transaction u64, length u32 and bytes of its payload
//! roll-up    magic "PITRROL1", version u16, engine u16, count u32 of segments, each: epoch u32,
//!            number u64, start u64, raw length u64, head u64, last u64 u64, ends, anomalies u64,
//!            marks; CRC-32 u32 as above
//! ```

use std::collections::BTreeMap;

use super::{Block, Counts, Ends, Extent, Head, Mark, MarkKind, SegmentIndex, VERSION};
use crate::position::{Epoch, Offset};
use crate::segment::Engine;
use crate::segment::bytes::Fields;
use crate::timestamp::Timestamp;

const MAGIC: &[u8; 8] = b"PITRIDX1";
const UNKNOWN_HEAD: u64 = u64::MAX;
const HAS_TIME: u16 = 1;
const HAS_TRANSACTION: u16 = 2;

/// What can be wrong with bytes that claim to be an index or a roll-up.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IndexError {
    #[error("magic {found:?} is not {expected:?}")]
    Magic { expected: String, found: String },
    #[error("format version {found}, and this program reads up to {known}")]
    Version { found: u16, known: u16 },
    #[error("checksum {found:08x}, and the bytes have {expected:08x}")]
    Checksum { expected: u32, found: u32 },
    #[error("no {what} where one should stand")]
    Field { what: &'static str },
}

type Decoded<T> = Result<T, IndexError>;

impl SegmentIndex {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(MAGIC, self.engine);
        out.extend(self.epoch.0.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.start.0.to_le_bytes());
        out.extend(self.raw_len.to_le_bytes());
        put_head(&mut out, self.head, self.last);
        put_count(&mut out, self.blocks.len());
        for block in &self.blocks {
            out.extend(block.raw_len.to_le_bytes());
            put_ends(&mut out, &block.ends);
        }
        out.extend(self.counts.width.to_le_bytes());
        put_count(&mut out, self.counts.buckets.len());
        let mut before = 0;
        for (bucket, commits) in &self.counts.buckets {
            put_varint(&mut out, zigzag(bucket.wrapping_sub(before)));
            put_varint(&mut out, u64::from(*commits));
            before = *bucket;
        }
        put_marks(&mut out, &self.marks);
        out.extend(self.marks_left_out.to_le_bytes());
        let kinds = u16::try_from(self.unknown.len()).expect("at most 256 record types");
        out.extend(kinds.to_le_bytes());
        for (kind, number) in &self.unknown {
            out.push(*kind);
            out.extend(number.to_le_bytes());
        }
        out.extend(self.anomalies.to_le_bytes());
        end(out)
    }

    /// # Errors
    /// When the bytes are no index of a known version, or are damaged.
    pub fn decode(bytes: &[u8]) -> Decoded<Self> {
        let (engine, mut fields) = open(MAGIC, bytes)?;
        let f = &mut fields;
        let epoch = Epoch(field(f.u32(), "epoch")?);
        let number = field(f.u64(), "number")?;
        let start = Offset(field(f.u64(), "start")?);
        let raw_len = field(f.u64(), "length")?;
        let (head, last) = take_head(f)?;
        let mut blocks = Vec::new();
        for _ in 0..field(f.u32(), "count of blocks")? {
            let raw_len = field(f.u32(), "block")?;
            blocks.push(Block { raw_len, ends: take_ends(f)? });
        }
        let counts = take_counts(f)?;
        let marks = take_marks(f)?;
        let marks_left_out = field(f.u64(), "count of marks left out")?;
        let mut unknown = BTreeMap::new();
        for _ in 0..field(f.u16(), "count of unknown types")? {
            let [kind] = field(f.array::<1>(), "unknown type")?;
            unknown.insert(kind, field(f.u64(), "unknown type")?);
        }
        let anomalies = field(f.u64(), "anomalies")?;
        Ok(Self {
            engine,
            epoch,
            number,
            start,
            raw_len,
            head,
            last,
            blocks,
            counts,
            marks,
            marks_left_out,
            unknown,
            anomalies,
        })
    }
}

pub(super) fn begin(magic: &[u8; 8], engine: Engine) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((engine as u16).to_le_bytes());
    out
}

pub(super) fn end(mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&out);
    out.extend(crc.to_le_bytes());
    out
}

/// Checks magic, version and checksum; the fields behind the engine are left.
pub(super) fn open<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Decoded<(Engine, Fields<'a>)> {
    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let found = bytes.get(..8).unwrap_or(bytes);
    if found != magic {
        return Err(IndexError::Magic { expected: shown(magic), found: shown(found) });
    }
    let version = field(Fields(&bytes[8..]).u16(), "version")?;
    if version != VERSION {
        return Err(IndexError::Version { found: version, known: VERSION });
    }
    let (body, crc) = field(bytes.split_last_chunk::<4>(), "checksum")?;
    let (found, expected) = (u32::from_le_bytes(*crc), crc32fast::hash(body));
    if found != expected {
        return Err(IndexError::Checksum { expected, found });
    }
    let mut fields = Fields(field(body.get(10..), "engine")?);
    let engine = field(fields.u16().and_then(Engine::from_code), "engine")?;
    Ok((engine, fields))
}

pub(super) fn field<T>(value: Option<T>, what: &'static str) -> Decoded<T> {
    value.ok_or(IndexError::Field { what })
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).expect("every table is bounded").to_le_bytes());
}

pub(super) fn put_head(out: &mut Vec<u8>, head: Head, last: Option<Extent>) {
    let head = match head {
        Head::Clean => 0,
        Head::From(offset) => offset.0,
        Head::Unknown => UNKNOWN_HEAD,
    };
    let (start, end) = last.map_or((0, 0), |last| (last.start.0, last.end.0));
    for number in [head, start, end] {
        out.extend(number.to_le_bytes());
    }
}

pub(super) fn take_head(f: &mut Fields<'_>) -> Decoded<(Head, Option<Extent>)> {
    let head = match field(f.u64(), "head")? {
        0 => Head::Clean,
        UNKNOWN_HEAD => Head::Unknown,
        offset => Head::From(Offset(offset)),
    };
    let (start, end) = (field(f.u64(), "last record")?, field(f.u64(), "last record")?);
    let last = (end > 0).then_some(Extent { start: Offset(start), end: Offset(end) });
    Ok((head, last))
}

pub(super) fn put_ends(out: &mut Vec<u8>, ends: &Ends) {
    out.extend(ends.commits.to_le_bytes());
    out.extend(ends.aborts.to_le_bytes());
    let (low, high) = ends.times.unwrap_or((Timestamp(1), Timestamp(0)));
    out.extend(low.0.to_le_bytes());
    out.extend(high.0.to_le_bytes());
    let (low, high) = ends.transactions.unwrap_or((1, 0));
    out.extend(low.to_le_bytes());
    out.extend(high.to_le_bytes());
}

pub(super) fn take_ends(f: &mut Fields<'_>) -> Decoded<Ends> {
    let commits = field(f.u32(), "commits")?;
    let aborts = field(f.u32(), "aborts")?;
    let times = (field(f.i64(), "times")?, field(f.i64(), "times")?);
    let transactions = (field(f.u64(), "transactions")?, field(f.u64(), "transactions")?);
    Ok(Ends {
        commits,
        aborts,
        times: (times.0 <= times.1).then_some((Timestamp(times.0), Timestamp(times.1))),
        transactions: (transactions.0 <= transactions.1).then_some(transactions),
    })
}

fn take_counts(f: &mut Fields<'_>) -> Decoded<Counts> {
    let width = field(f.u32().filter(|width| *width > 0), "bucket width")?;
    let mut buckets = BTreeMap::new();
    let mut bucket = 0_i64;
    for _ in 0..field(f.u32(), "count of buckets")? {
        bucket = bucket.wrapping_add(unzigzag(take_varint(f)?));
        let commits = u32::try_from(take_varint(f)?).ok();
        buckets.insert(bucket, field(commits, "bucket")?);
    }
    Ok(Counts { width, buckets })
}

pub(super) fn put_marks(out: &mut Vec<u8>, marks: &[Mark]) {
    put_count(out, marks.len());
    for mark in marks {
        let flags = if mark.time.is_some() { HAS_TIME } else { 0 }
            | if mark.transaction.is_some() { HAS_TRANSACTION } else { 0 };
        out.extend(mark.kind.code().to_le_bytes());
        out.extend(flags.to_le_bytes());
        out.extend(mark.extent.start.0.to_le_bytes());
        out.extend(mark.extent.end.0.to_le_bytes());
        out.extend(mark.time.map_or(0, |time| time.0).to_le_bytes());
        out.extend(mark.transaction.unwrap_or(0).to_le_bytes());
        put_count(out, mark.payload.len());
        out.extend(&mark.payload);
    }
}

pub(super) fn take_marks(f: &mut Fields<'_>) -> Decoded<Vec<Mark>> {
    let mut marks = Vec::new();
    for _ in 0..field(f.u32(), "count of marks")? {
        let kind = MarkKind::from_code(field(f.u16(), "mark")?);
        let flags = field(f.u16(), "mark")?;
        let start = Offset(field(f.u64(), "mark")?);
        let end = Offset(field(f.u64(), "mark")?);
        let time = Timestamp(field(f.i64(), "mark")?);
        let transaction = field(f.u64(), "mark")?;
        let length = field(f.u32(), "mark")? as usize;
        let payload = field(f.take(length), "payload of a mark")?.to_vec();
        marks.push(Mark {
            kind,
            extent: Extent { start, end },
            time: (flags & HAS_TIME != 0).then_some(time),
            transaction: (flags & HAS_TRANSACTION != 0).then_some(transaction),
            payload,
        });
    }
    Ok(marks)
}

const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(f: &mut Fields<'_>) -> Decoded<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let [byte] = field(f.array::<1>(), "number")?;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(IndexError::Field { what: "number" })
}
