//! The index of oplog segments as they are sealed, and what the lag is measured by.

use proto::archive::index::{OplogIndexer, VERSION};
use proto::position::Offset;
use proto::timestamp::Timestamp;

use crate::seal::SegmentIndexer;
use crate::spool::Slot;
use crate::watch::lag::CommitTimes;

/// Makes the index of one segment after the other.
#[derive(Debug, Default)]
pub(super) struct SegmentsOfOplog {
    /// The segment that is being read, how far, and the indexer in it.
    at: Option<(u64, u64, OplogIndexer)>,
}

impl SegmentIndexer for SegmentsOfOplog {
    fn version(&self) -> u32 {
        u32::from(VERSION)
    }

    fn feed(&mut self, slot: &Slot, offset: u64, raw: &[u8]) {
        let (fed, mut indexer) = match self.at.take() {
            Some((number, fed, indexer)) if number == slot.number => (fed, indexer),
            _ => (0, OplogIndexer::new(slot.start)),
        };
        if fed == offset {
            indexer.feed(raw);
            indexer.end_frame();
            self.at = Some((slot.number, fed + raw.len() as u64, indexer));
        }
    }

    fn finish(&mut self, slot: &Slot, raw_len: u64) -> Option<Vec<u8>> {
        let (number, fed, indexer) = self.at.take()?;
        let whole = number == slot.number && fed == raw_len;
        whole.then(|| indexer.finish(number).encode())
    }
}

/// Each piece of log comes with the clock of its first entry: nothing needs to be decoded again.
#[derive(Debug, Clone, Copy)]
pub(super) struct WithThePieces;

impl CommitTimes for WithThePieces {
    fn first(&self, _start: Offset, _raw: &[u8]) -> Option<Timestamp> {
        None
    }
}
