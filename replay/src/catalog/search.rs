//! What a search had to read because no index told: remembered, and told to whoever waits.
//!
//! Enters: pieces that were decoded. Leaves: their summaries, so that none is decoded for its
//! summary twice while the catalog lives (a few dozen bytes a segment), and how much is done.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use proto::archive::index::Ends;
use proto::position::ByteCount;
use proto::postgres::lsn::{Lsn, Timeline};
use proto::postgres::scan::Event;

use super::Catalog;
use crate::find::{SegmentSummary, ends_of};

/// The open segment never has an index, and the one before it may not have it yet.
const USUAL: usize = 2;

/// How far a search has come that reads log for want of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Searching {
    /// Segments without an index, of so many in all.
    pub unindexed: usize,
    pub segments: usize,
    /// Of their bytes. A search need not come by all of them.
    pub done: ByteCount,
    pub total: ByteCount,
}

type Place = (Timeline, Lsn, Lsn);
type Listener = Box<dyn Fn(Searching) + Send + Sync>;

#[derive(Default)]
pub(super) struct Searched {
    known: Mutex<BTreeMap<Place, Ends>>,
    listener: Option<Listener>,
}

impl fmt::Debug for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Searched").finish_non_exhaustive()
    }
}

fn place(piece: &SegmentSummary) -> Place {
    (piece.timeline, piece.from, piece.until)
}

impl Searched {
    pub(super) fn ends(&self, piece: &SegmentSummary) -> Option<Ends> {
        self.known.lock().expect("no holder panics").get(&place(piece)).copied()
    }

    /// `piece` was decoded: one of `pieces`, of which `indexed` have an index.
    pub(super) fn decoded(
        &self,
        piece: &SegmentSummary,
        events: &[Event],
        pieces: &[SegmentSummary],
        indexed: impl Fn(&SegmentSummary) -> bool,
    ) {
        let mut known = self.known.lock().expect("no holder panics");
        let news = known.insert(place(piece), ends_of(events)).is_none();
        let Some(listener) = self.listener.as_ref().filter(|_| news && !indexed(piece)) else {
            return;
        };
        let missing: Vec<&SegmentSummary> = pieces.iter().filter(|piece| !indexed(piece)).collect();
        if missing.len() <= USUAL {
            return;
        }
        let bytes = |piece: &SegmentSummary| piece.until.since(piece.from).0;
        let done = missing.iter().filter(|piece| known.contains_key(&place(piece)));
        listener(Searching {
            unindexed: missing.len(),
            segments: pieces.len(),
            done: ByteCount(done.map(|piece| bytes(piece)).sum()),
            total: ByteCount(missing.iter().map(|piece| bytes(piece)).sum()),
        });
    }
}

impl Catalog {
    /// Has `listener` told, after each segment, how far a search has come that reads log for want
    /// of an index.
    pub fn on_search(&mut self, listener: impl Fn(Searching) + Send + Sync + 'static) {
        self.searched.listener = Some(Box::new(listener));
    }
}
