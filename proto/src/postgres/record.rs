//! One record of the write-ahead log, and what may be wrong about one
//! (src/include/access/xlogrecord.h).
//!
//! In: a record's header and payload. Out: its main data, the tail that belongs to its resource
//! manager. What does not fit is `None` or an [`Anomaly`]: a fact to be recorded; archiving the
//! bytes never depends on understanding them.

use super::lsn::Lsn;
use super::page::{le32, le64};

/// `SizeOfXLogRecord`
pub const RECORD_HEADER: usize = 24;
/// Records start on this boundary (`MAXALIGN`).
pub const ALIGNMENT: u64 = 8;
/// Above `XLogRecordMaxSize` (1020 MiB) of every version.
pub const MAX_RECORD: u32 = 1 << 30;

/// Resource managers (src/include/access/rmgrlist.h: the same 22 from 14 to 18).
pub const RM_XLOG: u8 = 0;
pub const RM_XACT: u8 = 1;
pub const RM_LAST_KNOWN: u8 = 21;

/// Of `RM_XLOG` (src/include/catalog/pg_control.h).
pub const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
pub const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
pub const XLOG_SWITCH: u8 = 0x40;
pub const XLOG_BACKUP_END: u8 = 0x50;
pub const XLOG_PARAMETER_CHANGE: u8 = 0x60;
pub const XLOG_RESTORE_POINT: u8 = 0x70;
pub const XLOG_END_OF_RECOVERY: u8 = 0x90;
pub const XLOG_FPI_FOR_HINT: u8 = 0xA0;
pub const XLOG_FPI: u8 = 0xB0;

/// A record's fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub total_len: u32,
    pub xid: u32,
    pub prev: Lsn,
    pub info: u8,
    pub rmid: u8,
    pub crc: u32,
}

/// A whole record, as it passes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub start: Lsn,
    /// The first byte after the record, aligned: what PostgreSQL calls its end pointer. After a
    /// segment switch this is the end of the segment.
    pub end: Lsn,
    pub xid: u32,
    pub prev: Lsn,
    pub rmid: u8,
    /// All eight bits; the resource manager's own are the upper four.
    pub info: u8,
    pub total_len: u32,
    pub crc_ok: bool,
    /// Magic of the page it ends on: tells layouts apart.
    pub magic: u16,
    /// For the resource managers that are looked at; empty for all others.
    pub main_data: &'a [u8],
    /// The main data is longer than what was kept of it.
    pub cut: bool,
}

/// Something in the log that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Anomaly {
    #[error("page at {at} says that it stands at {found}")]
    PageAddress { at: Lsn, found: Lsn },
    #[error("page at {at} has flags {flags:#06x}, which do not fit its place")]
    PageFlags { at: Lsn, flags: u16 },
    #[error("page at {at} says segment size {segment_size}, page size {page_size}")]
    Sizes { at: Lsn, segment_size: u32, page_size: u32 },
    #[error("page at {at} is empty in the middle of the record at {record}")]
    EmptyPage { record: Lsn, at: Lsn },
    #[error("page at {at} begins with {found} bytes of a record that did not begin before it")]
    UnexpectedContinuation { at: Lsn, found: u32 },
    #[error(
        "page at {at} should go on with {expected} bytes of the record at {record}, says {found}"
    )]
    Continuation { record: Lsn, at: Lsn, expected: u32, found: u32 },
    #[error("record at {at} has impossible length {found}")]
    Length { at: Lsn, found: u32 },
    #[error("record at {at} names {found} as the one before it, which is {expected}")]
    Previous { at: Lsn, expected: Lsn, found: Lsn },
    #[error("record at {at} has checksum {found:08x}, its bytes have {expected:08x}")]
    Checksum { at: Lsn, expected: u32, found: u32 },
}

impl Header {
    pub fn parse(bytes: &[u8; RECORD_HEADER]) -> Self {
        Self {
            total_len: le32(bytes, 0),
            xid: le32(bytes, 4),
            prev: Lsn(le64(bytes, 8)),
            info: bytes[16],
            rmid: bytes[17],
            crc: le32(bytes, 20),
        }
    }
}

impl Record<'_> {
    /// The resource manager's own bits of `info`.
    pub const fn kind(&self) -> u8 {
        self.info & 0xF0
    }

    pub const fn is_switch(&self) -> bool {
        is_switch(self.rmid, self.info)
    }
}

pub(crate) const fn is_switch(rmid: u8, info: u8) -> bool {
    rmid == RM_XLOG && info & 0xF0 == XLOG_SWITCH
}

/// The records whose main data is looked at: transactions and what the log says of itself, without
/// the page images that come under the same manager.
pub fn is_looked_at(rmid: u8, info: u8) -> bool {
    rmid == RM_XACT
        || rmid == RM_XLOG && !matches!(info & 0xF0, XLOG_FPI | XLOG_FPI_FOR_HINT | XLOG_SWITCH)
}

/// The main data inside a payload of `length` bytes of which `kept` holds the first ones, and
/// whether it was cut. `None` when the fragment headers make no sense.
pub(crate) fn main_data(kept: &[u8], length: usize, magic: u16) -> Option<(&[u8], bool)> {
    let mut rest = kept;
    let main = loop {
        let (id, tail) = match rest.split_first() {
            Some((id, tail)) => (*id, tail),
            // All fragments may be absent: a record of nothing but its header.
            None if length == 0 => return Some((&[], false)),
            None => return None,
        };
        match id {
            255 => break usize::from(*tail.first()?),
            254 => break usize::try_from(le32(tail.get(..4)?, 0)).ok()?,
            253 => rest = tail.get(2..)?,
            252 => rest = tail.get(4..)?,
            0..=32 => rest = after_block_header(tail, magic)?,
            _ => return None,
        }
    };
    // The main data is the last fragment, whatever stands before it.
    let start = length.checked_sub(main)?;
    Some((kept.get(start..).unwrap_or_default(), kept.len() < length))
}

/// Steps over an `XLogRecordBlockHeader` whose id has been read.
fn after_block_header(bytes: &[u8], magic: u16) -> Option<&[u8]> {
    let flags = *bytes.first()?;
    let mut rest = bytes.get(3..)?;
    if flags & 0x10 != 0 {
        // XLogRecordBlockImageHeader; the meaning of its bits changed with 15.
        let image = *rest.get(4)?;
        rest = rest.get(5..)?;
        let compressed = if magic < 0xD110 { image & 0x02 } else { image & 0x1C };
        if image & 0x01 != 0 && compressed != 0 {
            rest = rest.get(2..)?;
        }
    }
    if flags & 0x80 == 0 {
        rest = rest.get(12..)?;
    }
    rest.get(4..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_data_is_found_behind_an_origin_and_block_references() {
        // origin 7, a block with a compressed image and a hole, four bytes of block data.
        let mut payload = vec![253, 7, 0, 0, 0x10 | 0x20, 4, 0, 10, 0, 0, 0, 0x05, 2, 0];
        payload.extend([0; 16]);
        payload.extend([255, 3]);
        payload.extend([9; 14]);
        payload.extend([1, 2, 3]);
        let found = main_data(&payload, payload.len(), 0xD110);
        assert_eq!(found, Some((&[1_u8, 2, 3][..], false)));
    }

    #[test]
    fn fragments_that_make_no_sense_give_nothing() {
        for payload in [&[77_u8][..], &[255], &[254, 1, 0], &[255, 9, 0], &[0, 0x10, 0, 0]] {
            assert_eq!(main_data(payload, payload.len(), 0xD110), None, "{payload:?}");
        }
    }

    #[test]
    fn main_data_that_was_not_kept_to_its_end_is_marked_as_cut() {
        let mut payload = vec![254];
        payload.extend(100_u32.to_le_bytes());
        payload.extend([5; 20]);
        assert_eq!(main_data(&payload, 105, 0xD110), Some((&[5_u8; 20][..], true)));
    }
}
