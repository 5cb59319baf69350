//! A write-ahead log made of records, as PostgreSQL writes it (src/include/access/xlogrecord.h,
//! xlog_internal.h): what a reader must find again.

use proto::postgres::lsn::{Lsn, SegmentSize};
use proto::postgres::page::PAGE_SIZE;

const FIRST_IS_CONTRECORD: u16 = 1;
const LONG: u16 = 2;

/// A log that grows by records.
pub struct Log {
    pub start: Lsn,
    pub bytes: Vec<u8>,
    size: SegmentSize,
    magic: u16,
    previous: u64,
}

impl Log {
    /// Begins at `start`, the first byte of a page.
    pub fn new(start: Lsn, size: SegmentSize, magic: u16) -> Self {
        Self { start, bytes: Vec::new(), size, magic, previous: 0 }
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.start.0 + self.bytes.len() as u64
    }

    fn open_page(&mut self, rest: usize) {
        let at = self.position();
        let long = at.is_multiple_of(self.size.bytes());
        let flags = if rest > 0 { FIRST_IS_CONTRECORD } else { 0 } | if long { LONG } else { 0 };
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(u32::try_from(rest).expect("a small record").to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(7_u64.to_le_bytes());
            let segment = u32::try_from(self.size.bytes()).expect("at most 1 GiB");
            self.bytes.extend(segment.to_le_bytes());
            self.bytes.extend(8192_u32.to_le_bytes());
        }
    }

    /// Appends a record with this payload, and gives where it begins.
    pub fn record(&mut self, rmid: u8, info: u8, xid: u32, payload: &[u8]) -> Lsn {
        let mut record = Vec::new();
        record.extend(u32::try_from(24 + payload.len()).expect("a small record").to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, rmid, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(payload), &record);
        record.extend(crc.to_le_bytes());
        record.extend(payload);
        let in_page = |log: &Self| log.position() % PAGE_SIZE;
        if in_page(self) == 0 {
            self.open_page(0);
        }
        let begin = self.position();
        let mut rest = &record[..];
        while !rest.is_empty() {
            if in_page(self) == 0 {
                self.open_page(rest.len());
            }
            let room = usize::try_from(PAGE_SIZE - in_page(self)).expect("8192 at most");
            let (now, later) = rest.split_at(rest.len().min(room));
            self.bytes.extend(now);
            rest = later;
        }
        while !self.position().is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.previous = begin;
        Lsn(begin)
    }
}
