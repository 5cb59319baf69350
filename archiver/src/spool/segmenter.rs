//! Where one segment of the log ends and the next begins: each engine's own rule.

use std::fmt;

use proto::archive::layout::SegmentName;
use proto::position::{Offset, Position};
use proto::postgres::lsn::{SegmentId, SegmentSize};
use proto::segment::Engine;

/// One segment's place and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: SegmentName,
    pub number: u64,
    pub start: Offset,
    pub end: Offset,
}

pub trait Segmenter: Send + Sync + fmt::Debug {
    fn engine(&self) -> Engine;
    /// The segment that holds the byte at `position`.
    fn slot(&self, position: Position) -> Slot;
    /// The segment behind `slot` in the same epoch.
    fn after(&self, slot: &Slot) -> Slot {
        self.slot(Position::new(slot.name.epoch, slot.end))
    }
}

/// PostgreSQL: fixed pieces of the server's `wal_segment_size`.
#[derive(Debug, Clone, Copy)]
pub struct WalSegments(pub SegmentSize);

impl Segmenter for WalSegments {
    fn engine(&self) -> Engine {
        Engine::Postgresql
    }

    fn slot(&self, position: Position) -> Slot {
        let Self(size) = *self;
        let id = SegmentId::containing(position.epoch.into(), position.offset.into(), size);
        Slot {
            name: SegmentName::postgres(id, size),
            number: id.number,
            start: id.start(size).into(),
            end: id.end(size).into(),
        }
    }
}
