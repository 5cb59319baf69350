//! What the database wrote, by epoch: what every piece in the store is held against.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use proto::position::{Epoch, Offset, Position};

/// One epoch's log from the lineage's first byte on, what it shares with its parents included.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) bytes: Arc<Vec<u8>>,
    /// The epoch that it branched from, and where.
    pub(super) branch: Option<(Epoch, u64)>,
}

/// Shared by the database, which writes it, and the store, which looks up what it is given.
#[derive(Debug)]
pub(super) struct Written {
    /// The offset of the first byte.
    pub(super) begin: u64,
    /// What a branch repeats from its beginning.
    segment: u64,
    lines: Mutex<BTreeMap<Epoch, Line>>,
}

impl Written {
    /// `segment` is the size of its segments, where they have one.
    pub(super) fn new(begin: u64, segment: u64, bytes: Vec<u8>) -> Arc<Self> {
        let line = Line { bytes: Arc::new(bytes), branch: None };
        let lines = Mutex::new(BTreeMap::from([(Epoch(1), line)]));
        Arc::new(Self { begin, segment, lines })
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<Epoch, Line>> {
        self.lines.lock().expect("no panic while held")
    }

    pub(super) fn line(&self, epoch: Epoch) -> Line {
        self.lines().get(&epoch).expect("an epoch that the database had").clone()
    }

    /// The bytes of `epoch` at `start`, if it wrote so many.
    pub(super) fn has(&self, epoch: Epoch, start: u64, raw: &[u8]) -> bool {
        let line = self.lines().get(&epoch).cloned();
        let from = start.checked_sub(self.begin).and_then(|from| usize::try_from(from).ok());
        let written = line
            .as_ref()
            .zip(from)
            .and_then(|(line, from)| line.bytes.get(from..from.checked_add(raw.len())?));
        written == Some(raw)
    }

    /// The start of the segment that holds a byte.
    pub(super) const fn floor(&self, offset: u64) -> u64 {
        offset / self.segment * self.segment
    }

    /// Which stretch of which epoch holds the log up to a position, the last one first.
    pub(super) fn path(&self, to: Position) -> Vec<(Epoch, u64, u64)> {
        let (mut epoch, mut end, mut path) = (to.epoch, to.offset.0, Vec::new());
        loop {
            let branch = self.line(epoch).branch;
            let from = branch.map_or(self.begin, |(_, at)| self.floor(at));
            path.push((epoch, from.min(end), end));
            let Some((parent, _)) = branch else { return path };
            (epoch, end) = (parent, from.min(end));
        }
    }

    pub(super) fn end(&self, epoch: Epoch) -> Position {
        let len = self.line(epoch).bytes.len() as u64;
        Position::new(epoch, Offset(self.begin + len))
    }
}

/// Stretches that are there, joined where they touch.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn add(&mut self, mut from: u64, mut to: u64) {
        while let Some((&at, &end)) = self.0.range(..=to).next_back()
            && end >= from
        {
            self.0.remove(&at);
            (from, to) = (from.min(at), to.max(end));
        }
        self.0.insert(from, to);
    }

    pub(super) fn holds(&self, from: u64, to: u64) -> bool {
        from >= to || self.0.range(..=from).next_back().is_some_and(|(_, end)| *end >= to)
    }
}
