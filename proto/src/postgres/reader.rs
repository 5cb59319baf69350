//! Finds the records in a stream of write-ahead log.
//!
//! In: contiguous bytes of the log in pieces of any size, from any page on. Out: every record that
//! ends in them, and what does not fit, in the order of the log; the pieces make no difference.
//! Nothing is stored: after a crash a reader is begun anew at any page. Memory is bounded: a
//! record's bytes pass through the checksum, and only those that are looked at are kept, up to
//! [`KEPT`]. Source of the rules: src/backend/access/transam/xlogreader.c, `XLogDecodeNextRecord`.

mod page_start;

use super::lsn::{Lsn, SegmentSize, Timeline};
use super::page::{LONG_HEADER, PAGE_SIZE, PageHeader, SHORT_HEADER, le32};
use super::record::{
    ALIGNMENT, Anomaly, Header, MAX_RECORD, RECORD_HEADER, Record, is_looked_at, is_switch,
    main_data,
};

/// At most so much of one record is held in memory.
pub const KEPT: usize = 4 << 20;
/// What the buffer may keep between records.
const KEPT_IDLE: usize = 64 << 10;

/// What a reader finds.
#[derive(Debug)]
pub enum Item<'a> {
    Record(Record<'a>),
    /// A record ended at `end`, whose beginning lies before what was fed.
    Skipped {
        end: Lsn,
    },
    /// The record at `record` was given up: after a crash the log went on at `at` without it.
    Overwritten {
        record: Lsn,
        at: Lsn,
    },
    /// No record begins at `at`: the log ends here, unless it goes on at a later page.
    End {
        at: Lsn,
    },
    Anomaly(Anomaly),
}

/// The reader; see the module.
#[derive(Debug)]
pub struct RecordReader {
    size: SegmentSize,
    position: Lsn,
    state: State,
    /// Start of the record before, when it is known that none came between.
    previous: Option<Lsn>,
    page: Option<PageHeader>,
    page_head: [u8; LONG_HEADER],
    page_head_len: usize,
    head: [u8; RECORD_HEADER],
    kept: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nothing is known before the next page header.
    Seek,
    /// Behind a segment switch: nothing more comes in this segment.
    SegmentRest,
    /// Passing over the rest of a record whose beginning was not seen.
    Skip {
        left: u64,
    },
    /// Passing over the bytes up to the next aligned place.
    Align {
        left: u64,
    },
    /// Where a record begins.
    Boundary,
    /// `filled` bytes of a record's header are there.
    Head {
        start: Lsn,
        filled: usize,
    },
    Body {
        start: Lsn,
        header: Header,
        left: u32,
        crc: u32,
        keep: bool,
    },
}

impl RecordReader {
    /// Reads from `start`; when that is not the start of a page, from the next page on.
    pub fn new(start: Lsn, size: SegmentSize) -> Self {
        Self {
            size,
            position: start,
            state: State::Seek,
            previous: None,
            page: None,
            page_head: [0; LONG_HEADER],
            page_head_len: 0,
            head: [0; RECORD_HEADER],
            kept: Vec::new(),
        }
    }

    /// The next byte that is expected.
    pub const fn position(&self) -> Lsn {
        self.position
    }

    pub const fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// The last page header that stood where it should.
    pub const fn page(&self) -> Option<&PageHeader> {
        self.page.as_ref()
    }

    pub fn timeline(&self) -> Option<Timeline> {
        self.page.map(|p| p.timeline)
    }

    /// Where the record begins that has not ended yet, if one is open.
    pub const fn open_record(&self) -> Option<Lsn> {
        match self.state {
            State::Head { start, .. } | State::Body { start, .. } => Some(start),
            _ => None,
        }
    }

    /// Whether a record is being passed over whose beginning was not seen.
    pub const fn is_skipping(&self) -> bool {
        matches!(self.state, State::Skip { .. } | State::Seek)
    }

    /// Takes the next bytes of the log and shows `visit` what ends in them.
    pub fn feed(&mut self, mut bytes: &[u8], visit: &mut impl FnMut(Item<'_>)) {
        while !bytes.is_empty() {
            let in_page = (self.position.0 % PAGE_SIZE) as usize;
            if in_page == 0 {
                self.page_head_len = 0;
            }
            let in_segment = self.size.offset_in(self.position) as usize;
            let header = if in_segment < LONG_HEADER { LONG_HEADER } else { SHORT_HEADER };
            // A start inside a page leaves its header unseen: then it is passed over.
            if in_page < header && self.page_head_len == in_page {
                let n = bytes.len().min(header - in_page);
                self.page_head[in_page..in_page + n].copy_from_slice(&bytes[..n]);
                self.page_head_len += n;
                self.position.0 = self.position.0.wrapping_add(n as u64);
                bytes = &bytes[n..];
                if self.page_head_len == header {
                    self.open_page(header, visit);
                }
                continue;
            }
            let n = bytes.len().min(PAGE_SIZE as usize - in_page);
            let mut rest = &bytes[..n];
            while !rest.is_empty() {
                let used = self.take(rest, visit);
                self.position.0 = self.position.0.wrapping_add(used as u64);
                rest = &rest[used..];
            }
            bytes = &bytes[n..];
        }
    }

    fn lose(&mut self) {
        self.state = State::Seek;
        self.previous = None;
    }

    const fn starts_segment(&self, at: Lsn) -> bool {
        self.size.offset_in(at) == 0
    }

    const fn head_total(&self) -> u32 {
        u32::from_le_bytes([self.head[0], self.head[1], self.head[2], self.head[3]])
    }

    /// Takes at least one byte of a page's contents; returns how many.
    fn take(&mut self, bytes: &[u8], visit: &mut impl FnMut(Item<'_>)) -> usize {
        match self.state {
            State::Seek | State::SegmentRest => bytes.len(),
            State::Skip { left } => {
                let n = left.min(bytes.len() as u64);
                self.state = State::Skip { left: left - n };
                if n == left {
                    visit(Item::Skipped { end: Lsn(self.position.0.wrapping_add(n)) });
                    self.state = State::Boundary;
                }
                n as usize
            }
            State::Align { left } => {
                let n = left.min(bytes.len() as u64);
                self.state =
                    if n == left { State::Boundary } else { State::Align { left: left - n } };
                n as usize
            }
            State::Boundary => self.begin(bytes, visit),
            State::Head { start, filled } => self.take_head(start, filled, bytes, visit),
            State::Body { .. } => self.take_body(bytes, visit),
        }
    }

    fn begin(&mut self, bytes: &[u8], visit: &mut impl FnMut(Item<'_>)) -> usize {
        let start = self.position;
        let Some((head, rest)) = bytes.split_first_chunk::<RECORD_HEADER>() else {
            return self.take_head(start, 0, bytes, visit);
        };
        let total = le32(head, 0);
        let body = total.wrapping_sub(RECORD_HEADER as u32) as usize;
        if !self.accepts(start, total, visit) {
            return bytes.len();
        }
        let header = Header::parse(head);
        if body <= rest.len() {
            // The common case: the record lies in one piece inside the page.
            let payload = &rest[..body];
            let kept: &[u8] = if is_looked_at(header.rmid, header.info) { payload } else { &[] };
            self.complete(start, total as usize, head, crc32c::crc32c(payload), kept, visit);
            return total as usize;
        }
        self.head = *head;
        self.enter_body(start, header);
        RECORD_HEADER
    }

    /// Whether a record of length `total` may begin at `start`.
    fn accepts(&mut self, start: Lsn, total: u32, visit: &mut impl FnMut(Item<'_>)) -> bool {
        if (RECORD_HEADER as u32..=MAX_RECORD).contains(&total) {
            return true;
        }
        if total == 0 {
            visit(Item::End { at: start });
        } else {
            visit(Item::Anomaly(Anomaly::Length { at: start, found: total }));
        }
        self.lose();
        false
    }

    fn take_head(
        &mut self,
        start: Lsn,
        filled: usize,
        bytes: &[u8],
        visit: &mut impl FnMut(Item<'_>),
    ) -> usize {
        // The length stands in one page, for records are aligned: judge it as soon as it is there.
        let until = if filled < 4 { 4 } else { RECORD_HEADER };
        let n = bytes.len().min(until - filled);
        self.head[filled..filled + n].copy_from_slice(&bytes[..n]);
        let filled = filled + n;
        self.state = State::Head { start, filled };
        if filled == 4 && !self.accepts(start, self.head_total(), visit) {
            return bytes.len();
        }
        if filled == RECORD_HEADER {
            let header = Header::parse(&self.head);
            if header.total_len as usize == RECORD_HEADER {
                let head = self.head;
                self.complete(start, n, &head, 0, &[], visit);
            } else {
                self.enter_body(start, header);
            }
        }
        n
    }

    fn enter_body(&mut self, start: Lsn, header: Header) {
        self.kept.clear();
        self.kept.shrink_to(KEPT_IDLE);
        self.state = State::Body {
            start,
            header,
            left: header.total_len - RECORD_HEADER as u32,
            crc: 0,
            keep: is_looked_at(header.rmid, header.info),
        };
    }

    fn take_body(&mut self, bytes: &[u8], visit: &mut impl FnMut(Item<'_>)) -> usize {
        let State::Body { start, header, left, crc, keep } = self.state else { return bytes.len() };
        let n = bytes.len().min(left as usize);
        let crc = crc32c::crc32c_append(crc, &bytes[..n]);
        if keep {
            let room = (KEPT - self.kept.len()).min(n);
            self.kept.extend_from_slice(&bytes[..room]);
        }
        let left = left - n as u32;
        self.state = State::Body { start, header, left, crc, keep };
        if left == 0 {
            let (head, kept) = (self.head, std::mem::take(&mut self.kept));
            self.complete(start, n, &head, crc, &kept, visit);
            self.kept = kept;
        }
        n
    }

    /// A record's last `used` bytes are here.
    fn complete(
        &mut self,
        start: Lsn,
        used: usize,
        head: &[u8; RECORD_HEADER],
        body_crc: u32,
        kept: &[u8],
        visit: &mut impl FnMut(Item<'_>),
    ) {
        let header = Header::parse(head);
        let last = self.position.0.wrapping_add(used as u64);
        let pad = last.wrapping_neg() % ALIGNMENT;
        let mut end = Lsn(last.wrapping_add(pad));
        self.state = if pad == 0 { State::Boundary } else { State::Align { left: pad } };
        if let Some(expected) = self.previous
            && expected != header.prev
        {
            let found = header.prev;
            visit(Item::Anomaly(Anomaly::Previous { at: start, expected, found }));
        }
        // xlogreader.c, `ValidXLogRecord`: the payload first, then the header up to the checksum.
        let expected = crc32c::crc32c_append(body_crc, &head[..20]);
        let crc_ok = expected == header.crc;
        self.previous = Some(start);
        if !crc_ok {
            visit(Item::Anomaly(Anomaly::Checksum { at: start, expected, found: header.crc }));
            // Its length may be wrong as well: only the next page tells where a record begins.
            self.lose();
        } else if is_switch(header.rmid, header.info) && self.size.offset_in(end) != 0 {
            end = Lsn(self.size.floor(end).0.wrapping_add(self.size.bytes()));
            self.state = State::SegmentRest;
        }
        let magic = self.page.map_or(0, |p| p.magic);
        let body = header.total_len as usize - RECORD_HEADER;
        let looked_at = is_looked_at(header.rmid, header.info);
        let main = if looked_at { main_data(kept, body, magic) } else { None };
        let (main_data, cut) = main.unwrap_or((&[], looked_at && kept.len() < body));
        let Header { xid, prev, rmid, info, total_len, .. } = header;
        visit(Item::Record(Record {
            start,
            end,
            xid,
            prev,
            rmid,
            info,
            total_len,
            crc_ok,
            magic,
            main_data,
            cut,
        }));
    }
}

#[cfg(test)]
mod tests;
