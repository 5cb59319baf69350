//! Page headers of the write-ahead log (src/include/access/xlog_internal.h,
//! `XLogPageHeaderData`, `XLogLongPageHeaderData`).
//!
//! In: the first bytes of a page. Out: what its header says, unjudged: whether it is the page that
//! should stand there is the reader's to decide. All numbers are the server's own little-endian.

use super::lsn::{Lsn, Timeline};

/// `XLOG_BLCKSZ` as every distribution builds it; the long header names it, so another one shows.
pub const PAGE_SIZE: u64 = 8192;
/// Of every page but the first of a segment.
pub const SHORT_HEADER: usize = 24;
/// Of the first page of a segment.
pub const LONG_HEADER: usize = 40;

/// The page begins with the rest of a record.
pub const FIRST_IS_CONTRECORD: u16 = 1;
/// The header is the long one.
pub const LONG: u16 = 2;
/// The record that should go on here was given up after a crash.
pub const OVERWRITE_CONTRECORD: u16 = 8;

/// `XLOG_PAGE_MAGIC` of each released version. It may change inside a version's beta cycle, so it
/// tells layouts apart and never decides whether bytes are archived.
pub const MAGICS: [(u16, u8); 5] =
    [(0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    pub magic: u16,
    pub flags: u16,
    pub timeline: Timeline,
    pub address: Lsn,
    /// Bytes still to come of the record that the page begins with.
    pub rest: u32,
    pub long: Option<LongHeader>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    pub system_id: u64,
    pub segment_size: u32,
    pub page_size: u32,
}

impl PageHeader {
    /// `None` when there are too few bytes for the header that the flags announce.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (short, tail) = bytes.split_first_chunk::<SHORT_HEADER>()?;
        let flags = u16::from_le_bytes([short[2], short[3]]);
        let long = if flags & LONG != 0 { Some(LongHeader::parse(tail)?) } else { None };
        Some(Self {
            magic: u16::from_le_bytes([short[0], short[1]]),
            flags,
            timeline: Timeline(le32(short, 4)),
            address: Lsn(le64(short, 8)),
            rest: le32(short, 16),
            long,
        })
    }

    pub const fn continues_record(&self) -> bool {
        self.flags & FIRST_IS_CONTRECORD != 0
    }

    pub const fn overwrites_record(&self) -> bool {
        self.flags & OVERWRITE_CONTRECORD != 0
    }

    /// The server's major version, where the magic is one that a release used.
    pub fn version(&self) -> Option<u8> {
        version_of(self.magic)
    }
}

impl LongHeader {
    fn parse(tail: &[u8]) -> Option<Self> {
        let tail = tail.first_chunk::<{ LONG_HEADER - SHORT_HEADER }>()?;
        Some(Self {
            system_id: le64(tail, 0),
            segment_size: le32(tail, 8),
            page_size: le32(tail, 12),
        })
    }
}

pub fn version_of(magic: u16) -> Option<u8> {
    MAGICS.iter().find(|(known, _)| *known == magic).map(|(_, version)| *version)
}

/// Little-endian `u32` at `at`; 0 beyond the end, so that rubbish never panics.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// Little-endian `u64` at `at`; 0 beyond the end, so that rubbish never panics.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xD110_u16.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend(0x0300_0000_u64.to_le_bytes());
        bytes.extend(99_u32.to_le_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn a_short_and_a_long_header_are_told_apart_by_their_flag() {
        let short = header(FIRST_IS_CONTRECORD);
        let parsed = PageHeader::parse(&short).expect("a short header");
        assert_eq!((parsed.version(), parsed.timeline), (Some(15), Timeline(7)));
        assert_eq!((parsed.address, parsed.rest), (Lsn(0x0300_0000), 99));
        assert!(parsed.continues_record() && parsed.long.is_none());

        let mut long = header(LONG);
        assert_eq!(PageHeader::parse(&long), None);
        long.extend(42_u64.to_le_bytes());
        long.extend((1_u32 << 20).to_le_bytes());
        long.extend(8192_u32.to_le_bytes());
        let parsed = PageHeader::parse(&long).and_then(|h| h.long).expect("a long header");
        assert_eq!((parsed.system_id, parsed.segment_size), (42, 1 << 20));
    }

    #[test]
    fn an_unknown_magic_is_data_and_no_error() {
        let mut bytes = header(0);
        bytes[0] = 0x21;
        let parsed = PageHeader::parse(&bytes).expect("a header");
        assert_eq!(parsed.version(), None);
    }
}
