//! Where one segment of the log ends and the next begins: each engine's own rule.

use std::fmt;
use std::ops::Range;

use proto::archive::layout::{self, SegmentName};
use proto::mongodb::{DOCUMENT_MAX, Documents, OplogTs, Record, first_document};
use proto::position::{ByteCount, Epoch, Offset, Position};
use proto::postgres::lsn::{SegmentId, SegmentSize};
use proto::segment::Engine;

use crate::source::mongodb::capture::SEGMENT_BYTES;

/// One segment's place and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: SegmentName,
    pub number: u64,
    pub start: Offset,
    /// `None` where nobody knows it beforehand: the source says when the next one begins.
    pub end: Option<Offset>,
}

impl Slot {
    /// How many bytes it takes when it holds `raw_len` already.
    pub fn room(&self, raw_len: u64) -> u64 {
        self.end.map_or(u64::MAX, |end| end.since(self.start).0 - raw_len)
    }
}

pub trait Segmenter: Send + Sync + fmt::Debug {
    fn engine(&self) -> Engine;
    /// What a segment holds at most.
    fn largest(&self) -> ByteCount;
    /// The segment that holds the byte at `position`; `None` where its place does not tell, but
    /// the source does ([`crate::ring::Item::Begin`]).
    fn holding(&self, position: Position) -> Option<Slot>;
    /// Segment `number`, which begins at `start`.
    fn named(&self, epoch: Epoch, number: u64, start: Offset) -> Slot;
    /// The segment of that name; `None` when it is none of ours.
    fn parse(&self, name: &str) -> Option<SegmentName>;
    /// The last whole entry in a segment's bytes, for people, where positions are no words of theirs.
    fn last_entry(&self, _raw: &[u8]) -> Option<OplogTs> {
        None
    }
    /// The last whole record in a segment's first bytes, for an engine whose sources take up there.
    fn last_record(&self, _raw: &[u8]) -> Option<Range<usize>> {
        None
    }
}

/// PostgreSQL: fixed pieces of the server's `wal_segment_size`.
#[derive(Debug, Clone, Copy)]
pub struct WalSegments(pub SegmentSize);

impl WalSegments {
    /// The segment that holds the byte at `position`.
    pub fn slot(self, position: Position) -> Slot {
        let Self(size) = self;
        let id = SegmentId::containing(position.epoch.into(), position.offset.into(), size);
        Slot {
            name: SegmentName::postgres(id, size),
            number: id.number,
            start: id.start(size).into(),
            end: Some(id.end(size).into()),
        }
    }
}

impl Segmenter for WalSegments {
    fn engine(&self) -> Engine {
        Engine::Postgresql
    }

    fn largest(&self) -> ByteCount {
        ByteCount(self.0.bytes())
    }

    fn holding(&self, position: Position) -> Option<Slot> {
        Some(self.slot(position))
    }

    fn named(&self, epoch: Epoch, _number: u64, start: Offset) -> Slot {
        self.slot(Position::new(epoch, start))
    }

    fn parse(&self, name: &str) -> Option<SegmentName> {
        SegmentId::parse(name, self.0).ok().map(|id| SegmentName::postgres(id, self.0))
    }
}

/// MongoDB: whole entries, as many as the source takes for one segment; numbered by the first one's
/// timestamp.
#[derive(Debug, Clone, Copy)]
pub struct OplogSegments;

impl Segmenter for OplogSegments {
    fn engine(&self) -> Engine {
        Engine::Mongodb
    }

    fn largest(&self) -> ByteCount {
        // It ends with the entry that fills it.
        ByteCount(SEGMENT_BYTES + DOCUMENT_MAX as u64)
    }

    fn holding(&self, _position: Position) -> Option<Slot> {
        None
    }

    fn named(&self, _epoch: Epoch, number: u64, start: Offset) -> Slot {
        let name = SegmentName::mongodb(OplogTs(number));
        Slot { name, number, start, end: None }
    }

    fn parse(&self, name: &str) -> Option<SegmentName> {
        layout::mongodb_first(name).map(SegmentName::mongodb)
    }

    fn last_entry(&self, raw: &[u8]) -> Option<OplogTs> {
        let document = first_document(&raw[self.last_record(raw)?.start..]).ok()??;
        Record::place(document).ok().map(|(at, _)| at.ts)
    }

    fn last_record(&self, raw: &[u8]) -> Option<Range<usize>> {
        let whole = Documents::new(raw).map_while(Result::ok);
        whole.last().map(|(at, document)| at..at + document.as_bytes().len())
    }
}
