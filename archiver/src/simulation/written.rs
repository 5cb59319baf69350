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
    /// Where records end, where a source hands on whole ones alone.
    ends: Vec<u64>,
}

impl Written {
    /// Bytes in segments of one size.
    pub(super) fn new(begin: u64, segment: u64, bytes: Vec<u8>) -> Arc<Self> {
        Self::of(begin, segment, bytes, Vec::new())
    }

    /// Whole records, which end there.
    pub(super) fn records(bytes: Vec<u8>, ends: Vec<u64>) -> Arc<Self> {
        Self::of(0, u64::MAX, bytes, ends)
    }

    fn of(begin: u64, segment: u64, bytes: Vec<u8>, ends: Vec<u64>) -> Arc<Self> {
        let line = Line { bytes: Arc::new(bytes), branch: None };
        let lines = Mutex::new(BTreeMap::from([(Epoch(1), line)]));
        Arc::new(Self { begin, segment, lines, ends })
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

    /// The end of the last whole record before.
    pub(super) fn whole(&self, offset: u64) -> u64 {
        if self.ends.is_empty() {
            return offset;
        }
        let at = self.ends.partition_point(|end| *end <= offset);
        at.checked_sub(1).map_or(0, |at| self.ends[at])
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

    /// The epoch that branched from this one, and where.
    pub(super) fn left_at(&self, epoch: Epoch) -> Option<(Epoch, u64)> {
        let lines = self.lines();
        let mut children = lines.iter().filter_map(|(child, line)| {
            line.branch.filter(|(parent, _)| *parent == epoch).map(|(_, at)| (*child, at))
        });
        children.next()
    }

    /// `epoch` ends at `ended`, for good; `next` goes on at `at` with other bytes.
    pub(super) fn branch(&self, epoch: Epoch, ended: u64, next: Epoch, at: u64, seed: u64) {
        let small = |offset: u64| usize::try_from(offset - self.begin).expect("small");
        let line = self.line(epoch);
        let mut bytes = line.bytes[..small(at)].to_vec();
        bytes.extend(super::database::bytes(seed, (line.bytes.len() - small(at)) as u64));
        let own = Line { bytes: Arc::new(line.bytes[..small(ended)].to_vec()), ..line };
        let branched = Line { bytes: Arc::new(bytes), branch: Some((epoch, at)) };
        self.lines().extend([(epoch, own), (next, branched)]);
    }

    /// The history file of an epoch, as PostgreSQL writes it.
    pub(super) fn history(&self, mut epoch: Epoch) -> String {
        let mut lines = Vec::new();
        while let Some((parent, at)) = self.line(epoch).branch {
            let at = proto::postgres::lsn::Lsn(at);
            lines.push(format!("{parent}\t{at}\tno recovery target specified\n"));
            epoch = parent;
        }
        lines.reverse();
        lines.concat()
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

    /// The end of what begins at or before `from` and goes on behind it.
    pub(super) fn end_of(&self, from: u64) -> u64 {
        self.0.range(..=from).next_back().map_or(from, |(_, end)| *end.max(&from))
    }

    pub(super) fn holds(&self, from: u64, to: u64) -> bool {
        from >= to || self.end_of(from) >= to
    }
}
