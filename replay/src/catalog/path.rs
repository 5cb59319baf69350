//! The way through the log to one timeline, and where it is unbroken.
//!
//! Enters: the segments of each timeline and a history. Leaves: which object holds each segment on
//! the way, and the ranges without a hole. The segment that contains a branch point comes from the
//! child, as recovery asks for it (xlogrecovery.c, `XLogFileReadAnyTLI`), unless only the parent
//! has it. Nothing is asked of the store here.

use std::collections::{BTreeMap, BTreeSet};

use super::log::Stored;
use super::{Catalog, CatalogError, Gap};
use proto::postgres::history::{History, Stretch};
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize, Timeline};

/// The timelines on the way to one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPath {
    pub history: History,
    /// Oldest first.
    pub stretches: Vec<Stretch>,
    /// Segments that were found damaged, and how: they count as lost.
    pub holes: BTreeMap<u64, String>,
}

/// One segment on a path.
#[derive(Debug, Clone, Copy)]
pub struct Located<'a> {
    pub id: SegmentId,
    pub stored: &'a Stored,
    /// Raw bytes from the segment's first on that belong to the path.
    pub raw_bytes: u64,
}

/// An unbroken run of log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRange {
    pub from: Lsn,
    /// The first byte that is not in it.
    pub to: Lsn,
}

impl LogPath {
    pub fn new(history: History) -> Self {
        Self { stretches: history.path(), history, holes: BTreeMap::new() }
    }

    pub const fn timeline(&self) -> Timeline {
        self.history.timeline
    }

    /// The timelines that may hold segment `number`, newest first, and how many of its raw bytes
    /// are theirs.
    fn owners(&self, number: u64, size: SegmentSize) -> impl Iterator<Item = (Timeline, u64)> {
        let start = size.start_of(number);
        self.stretches.iter().rev().filter_map(move |stretch| {
            let begun = size.segment_of(stretch.from) <= number;
            let bytes = stretch.until.map_or(size.bytes(), |until| until.since(start).0);
            (begun && bytes > 0).then_some((stretch.timeline, bytes.min(size.bytes())))
        })
    }
}

impl LogRange {
    /// Whether a base between these positions can be replayed with what is in the range.
    pub fn holds(&self, start: Lsn, stop: Lsn) -> bool {
        self.from <= start && stop <= self.to
    }

    pub fn contains(&self, lsn: Lsn) -> bool {
        self.from <= lsn && lsn < self.to
    }
}

impl Catalog {
    /// The way to `timeline`.
    ///
    /// # Errors
    /// When the archive knows nothing of it.
    pub fn path_to(&self, timeline: Timeline) -> Result<LogPath, CatalogError> {
        let known = self.histories.contains_key(&timeline) || self.logs.contains_key(&timeline);
        if !known {
            return Err(CatalogError::NoTimeline { timeline });
        }
        Ok(LogPath::new(self.history(timeline)))
    }

    /// The way to the timeline that the cluster is on.
    pub fn path(&self) -> LogPath {
        LogPath::new(self.history(self.timeline()))
    }

    /// Where segment `number` of a path comes from.
    pub fn locate(&self, path: &LogPath, number: u64) -> Option<Located<'_>> {
        let size = self.segment_size();
        if path.holes.contains_key(&number) {
            return None;
        }
        let mut best: Option<Located<'_>> = None;
        for (timeline, own) in path.owners(number, size) {
            let stored = self.logs.get(&timeline).and_then(|log| log.segments.get(&number));
            let Some(stored) = stored else { continue };
            let raw_bytes = stored.raw_bytes(size).min(own);
            if best.is_none_or(|best| best.raw_bytes < raw_bytes) && raw_bytes > 0 {
                best = Some(Located { id: SegmentId { timeline, number }, stored, raw_bytes });
            }
        }
        best
    }

    /// Where the path's log is unbroken, oldest first.
    pub fn ranges(&self, path: &LogPath) -> Vec<LogRange> {
        let size = self.segment_size();
        let logs = path.stretches.iter().filter_map(|s| self.logs.get(&s.timeline));
        let numbers: BTreeSet<u64> = logs.flat_map(|log| log.segments.keys().copied()).collect();
        let mut ranges: Vec<LogRange> = Vec::new();
        for number in numbers {
            let Some(located) = self.locate(path, number) else { continue };
            let from = size.start_of(number);
            let to = Lsn(from.0 + located.raw_bytes);
            match ranges.last_mut() {
                Some(last) if last.to == from => last.to = to,
                _ => ranges.push(LogRange { from, to }),
            }
        }
        for gap in self.gaps_on(path) {
            ranges = ranges.iter().flat_map(|range| split(*range, &gap)).collect();
        }
        ranges
    }

    /// The ledger's gaps that lie on a path.
    pub fn gaps_on(&self, path: &LogPath) -> Vec<Gap> {
        let on = |gap: &Gap| path.history.contains(gap.from.epoch.into(), gap.from.offset.into());
        self.gaps().into_iter().filter(on).collect()
    }
}

/// What a gap leaves of a range.
fn split(range: LogRange, gap: &Gap) -> Vec<LogRange> {
    let (lost_from, lost_to): (Lsn, Lsn) = (gap.from.offset.into(), gap.to.offset.into());
    let before = LogRange { from: range.from, to: range.to.min(lost_from) };
    let after = LogRange { from: range.from.max(lost_to), to: range.to };
    if lost_to <= range.from || lost_from >= range.to {
        return vec![range];
    }
    [before, after].into_iter().filter(|range| range.from < range.to).collect()
}
