//! What a page's header means for the record that is being read.
//!
//! In: a complete header. Out: the reader's next state, and what does not fit. Nothing is stored.

use super::super::lsn::Lsn;
use super::super::page::{LONG_HEADER, PAGE_SIZE, PageHeader, le64};
use super::super::record::{ALIGNMENT, Anomaly};
use super::{Item, RecordReader, State};

impl RecordReader {
    /// A page's header is complete: what does it say of the record in progress?
    pub(super) fn open_page(&mut self, length: usize, visit: &mut impl FnMut(Item<'_>)) {
        let at = Lsn(self.position.0.wrapping_sub(length as u64));
        let bytes = &self.page_head[..length];
        if bytes.iter().all(|b| *b == 0) {
            return self.empty_page(at, visit);
        }
        let parsed = PageHeader::parse(bytes).filter(|p| p.address == at);
        let Some(page) = parsed else {
            // Old contents of a recycled segment look like this behind the end of the log.
            let found = Lsn(le64(bytes, 8));
            let unexpected = !matches!(self.state, State::Seek | State::SegmentRest);
            if unexpected || self.page.is_none() {
                visit(Item::Anomaly(Anomaly::PageAddress { at, found }));
            }
            self.lose();
            return;
        };
        if page.long.is_some() != (length == LONG_HEADER) {
            visit(Item::Anomaly(Anomaly::PageFlags { at, flags: page.flags }));
            return self.lose();
        }
        if let Some(long) = page.long
            && (u64::from(long.segment_size), u64::from(long.page_size))
                != (self.size.bytes(), PAGE_SIZE)
        {
            let (segment_size, page_size) = (long.segment_size, long.page_size);
            visit(Item::Anomaly(Anomaly::Sizes { at, segment_size, page_size }));
        }
        self.page = Some(page);
        self.continue_on(&page, at, visit);
    }

    fn empty_page(&mut self, at: Lsn, visit: &mut impl FnMut(Item<'_>)) {
        match self.state {
            State::Head { start, .. } | State::Body { start, .. } => {
                visit(Item::Anomaly(Anomaly::EmptyPage { record: start, at }));
            }
            State::Boundary | State::Skip { .. } | State::Align { .. } => visit(Item::End { at }),
            // Behind a switch all pages up to the end of the segment are empty.
            State::SegmentRest if !self.starts_segment(at) => return,
            State::Seek | State::SegmentRest => {}
        }
        self.lose();
    }

    fn continue_on(&mut self, page: &PageHeader, at: Lsn, visit: &mut impl FnMut(Item<'_>)) {
        let expected = match self.state {
            State::SegmentRest if !self.starts_segment(at) => return,
            State::Seek | State::Skip { .. } => return self.enter(page),
            State::Boundary | State::SegmentRest | State::Align { .. } => {
                if page.continues_record() {
                    let found = page.rest;
                    visit(Item::Anomaly(Anomaly::UnexpectedContinuation { at, found }));
                    self.lose();
                    return self.enter(page);
                }
                self.state = State::Boundary;
                return;
            }
            State::Head { start, filled } => {
                (start, self.head_total().saturating_sub(filled as u32))
            }
            State::Body { start, left, .. } => (start, left),
        };
        let (record, expected) = expected;
        if page.continues_record() && page.rest == expected {
            return;
        }
        if page.overwrites_record() && !page.continues_record() {
            // The next record names the one before the given up one, so `previous` still holds.
            visit(Item::Overwritten { record, at });
            self.state = State::Boundary;
            return;
        }
        let found = if page.continues_record() { page.rest } else { 0 };
        visit(Item::Anomaly(Anomaly::Continuation { record, at, expected, found }));
        self.lose();
        self.enter(page);
    }

    /// Begins at a page of which nothing is known but its header.
    fn enter(&mut self, page: &PageHeader) {
        self.state = if page.continues_record() && page.rest > 0 {
            State::Skip { left: u64::from(page.rest).next_multiple_of(ALIGNMENT) }
        } else {
            State::Boundary
        };
    }
}
