//! The index of WAL segments as they are sealed, one continuing the other.

use proto::archive::index::{Indexer, VERSION};
use proto::postgres::lsn::{SegmentId, SegmentSize};

use crate::seal::SegmentIndexer;
use crate::spool::Slot;

#[derive(Debug)]
pub struct WalIndexer {
    size: SegmentSize,
    /// The indexer as it stands behind `next - 1`, for segments that follow each other.
    running: Option<(SegmentId, Indexer)>,
}

impl WalIndexer {
    pub const fn new(size: SegmentSize) -> Self {
        Self { size, running: None }
    }
}

impl SegmentIndexer for WalIndexer {
    fn version(&self) -> u32 {
        u32::from(VERSION)
    }

    fn index(&mut self, slot: &Slot, raw: &[u8], frames: &[u32]) -> Vec<u8> {
        let id = SegmentId { timeline: slot.name.epoch.into(), number: slot.number };
        let mut indexer = match self.running.take() {
            Some((next, indexer)) if next == id => indexer,
            _ => Indexer::new(id.number, self.size),
        };
        let mut at = 0;
        for frame in frames {
            let end = raw.len().min(at + *frame as usize);
            indexer.feed(&raw[at..end]);
            indexer.end_frame();
            at = end;
        }
        let index = indexer.finish(id);
        self.running = Some((id.next(), indexer));
        index.encode()
    }
}
