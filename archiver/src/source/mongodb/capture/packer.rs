//! From entries to ring items: pieces of about a megabyte, cut into segments.
//!
//! Enters: entries in the order of the log. Leaves: `Begin` before the first entry of each segment,
//! and `Data` of whole entries. Noops that only say that an idle server lives are kept back until
//! something else comes or [`Packer::release`] is called: an object a noop would be an object every
//! ten seconds for nothing.

use bson::RawDocument;
use bytes::{Bytes, BytesMut};
use proto::mongodb::{Entry, EntryError, Note, Op, OpTime, OplogTs};
use proto::position::Offset;
use proto::timestamp::Timestamp;

use super::events::{Events, may_cut};
use crate::ring::Item;
use crate::source::buffers::Buffers;

/// A piece of the ring is about so large, or one entry.
const PIECE: usize = 1 << 20;
/// Room for a piece and the entry that ends it: hardly one is larger, and a buffer grows for it.
const BUFFER: usize = PIECE + (64 << 10);
/// A segment that holds so much ends with the entry that it holds.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// The segment that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSegment {
    /// Its first entry.
    pub first: OplogTs,
    /// What it holds.
    pub raw: u64,
}

/// The newest entry, and the offset of its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    pub at: OpTime,
    pub begin: Offset,
}

/// How far the log was handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Every entry up to this one was handed on, or is a noop that says nothing.
    pub at: OpTime,
    pub end: Offset,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error("{found} behind {last}")]
    OutOfOrder { last: OpTime, found: OpTime },
}

#[derive(Debug)]
pub(crate) struct Packer {
    /// Where the next entry begins.
    next: Offset,
    last: Option<Last>,
    wall: Option<Timestamp>,
    open: Option<OpenSegment>,
    /// Entries that are not handed on yet; they end at `next`.
    piece: BytesMut,
    buffers: Buffers,
    /// The clock of the first of them that is no idle noop.
    piece_wall: Option<Timestamp>,
    items: Vec<Item>,
    /// Of a change stream.
    pub(super) events: Option<Events>,
}

impl Packer {
    pub(crate) fn new(next: Offset, last: Option<Last>, open: Option<OpenSegment>) -> Self {
        Self {
            next,
            last,
            wall: None,
            open,
            piece: BytesMut::new(),
            buffers: Buffers::of(BUFFER),
            piece_wall: None,
            items: Vec::new(),
            events: None,
        }
    }

    pub(super) const fn set_last(&mut self, last: Last) {
        self.last = Some(last);
    }

    pub(crate) const fn last(&self) -> Option<Last> {
        self.last
    }

    pub(crate) const fn next(&self) -> Offset {
        self.next
    }

    /// The primary's clock when it wrote the newest entry.
    pub(super) const fn wall(&self) -> Option<Timestamp> {
        self.wall
    }

    pub(crate) fn reached(&self) -> Option<Reached> {
        let held = if self.piece_wall.is_none() { self.piece.len() as u64 } else { 0 };
        let end = Offset(self.next.0 - held);
        let at = if self.events.is_some() { self.through() } else { self.last.map(|l| l.at) };
        at.map(|at| Reached { at, end })
    }

    /// A new cursor begins with the newest entry: it is handed on again, to be compared.
    ///
    /// # Errors
    /// When it is not that entry.
    pub(crate) fn again(&mut self, raw: &RawDocument) -> Result<(), PackError> {
        let (found, wall) = Entry::place(raw)?;
        let Some(last) = self.last else { return self.take(raw) };
        if found != last.at {
            return Err(PackError::OutOfOrder { last: last.at, found });
        }
        self.wall = wall.or(self.wall);
        let bytes = Bytes::copy_from_slice(raw.as_bytes());
        self.items.push(Item::Data { start: last.begin, bytes, clock: None });
        Ok(())
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// When it is none, or is not behind the newest one.
    pub(crate) fn take(&mut self, raw: &RawDocument) -> Result<(), PackError> {
        let glance = Entry::glance(raw)?;
        let at = glance.at;
        if let Some(last) = self.last
            && at.ts <= last.at.ts
        {
            return Err(PackError::OutOfOrder { last: last.at, found: at });
        }
        let noop = glance.op == Some(Op::Noop);
        let idle = noop && Entry::read(raw)?.note() == Some(Note::Periodic);
        self.append(at, glance.wall, idle, raw);
        Ok(())
    }

    /// Puts a document behind what there is. One that is `idle` has no commit in it.
    pub(super) fn append(
        &mut self,
        at: OpTime,
        wall: Option<Timestamp>,
        idle: bool,
        raw: &RawDocument,
    ) {
        self.cut(at.ts);
        if !idle {
            let wall = wall.unwrap_or_else(|| at.ts.time());
            self.piece_wall.get_or_insert(wall);
        }
        let bytes = raw.as_bytes();
        self.piece.extend_from_slice(bytes);
        self.last = Some(Last { at, begin: self.next });
        self.wall = wall.or(self.wall);
        self.next = Offset(self.next.0 + bytes.len() as u64);
        if let Some(open) = &mut self.open {
            open.raw += bytes.len() as u64;
        }
        if self.piece.len() >= PIECE {
            self.release();
        }
    }

    /// Begins a segment where this entry needs one.
    fn cut(&mut self, ts: OplogTs) {
        let goes_on =
            |open: &OpenSegment| open.raw < SEGMENT_BYTES && open.first.hour() == ts.hour();
        let ends = !self.open.as_ref().is_some_and(goes_on);
        if ends && may_cut(self.last, self.open, ts) {
            self.release();
            self.items.push(Item::Begin { number: ts.0 });
            self.open = Some(OpenSegment { first: ts, raw: 0 });
        }
    }

    /// Hands on what there is, idle noops too.
    pub(crate) fn release(&mut self) {
        if !self.piece.is_empty() {
            let start = Offset(self.next.0 - self.piece.len() as u64);
            let (bytes, clock) = (self.piece.split().freeze(), self.piece_wall.take());
            let next = self.buffers.take(0);
            self.buffers.give(std::mem::replace(&mut self.piece, next), bytes.len());
            self.items.push(Item::Data { start, bytes, clock });
        }
    }

    /// What is to be handed on at the end of a batch.
    pub(crate) fn settle(&mut self) {
        if self.piece_wall.is_some() {
            self.release();
        }
    }

    pub(super) const fn is_settled(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn items(&mut self) -> std::vec::Drain<'_, Item> {
        self.items.drain(..)
    }

    /// The log behind the newest entry is lost: what follows begins at another offset, so that the
    /// range of what is lost is never empty. Returns the range.
    pub(super) fn skip(&mut self) -> (Offset, Offset) {
        self.release();
        let from = self.next;
        self.next = Offset(from.0 + 1);
        (self.last, self.open) = (None, None);
        (from, self.next)
    }
}
