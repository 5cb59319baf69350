//! The index of WAL segments as they are sealed, one continuing the other.

use proto::archive::index::{Indexer, VERSION};
use proto::postgres::lsn::{SegmentId, SegmentSize};

use crate::seal::SegmentIndexer;
use crate::spool::Slot;

#[derive(Debug)]
pub struct WalIndexer {
    size: SegmentSize,
    /// The segment that is being read, how far, and the indexer in it. It goes on across segments
    /// that follow each other, so that a record that spans two is understood.
    at: Option<(SegmentId, u64, Indexer)>,
}

impl WalIndexer {
    pub const fn new(size: SegmentSize) -> Self {
        Self { size, at: None }
    }
}

impl SegmentIndexer for WalIndexer {
    fn version(&self) -> u32 {
        u32::from(VERSION)
    }

    fn feed(&mut self, slot: &Slot, offset: u64, raw: &[u8]) {
        let id = SegmentId { timeline: slot.name.epoch.into(), number: slot.number };
        let (fed, mut indexer) = match self.at.take() {
            Some((at, fed, indexer)) if at == id => (fed, indexer),
            _ => (0, Indexer::new(id.number, self.size)),
        };
        if fed == offset {
            indexer.feed(raw);
            indexer.end_frame();
            self.at = Some((id, fed + raw.len() as u64, indexer));
        }
    }

    fn finish(&mut self, slot: &Slot, raw_len: u64) -> Option<Vec<u8>> {
        let id = SegmentId { timeline: slot.name.epoch.into(), number: slot.number };
        let (at, fed, mut indexer) = self.at.take()?;
        if at != id || fed != raw_len {
            return None;
        }
        let index = indexer.finish(id);
        self.at = Some((id.next(), 0, indexer));
        Some(index.encode())
    }
}
