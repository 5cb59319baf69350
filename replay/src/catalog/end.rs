//! Where an unbroken run of log ends, in positions and in time, and which moments it spans.
//!
//! Enters: a range. Leaves: its last complete record, its last commit, and up to which moment of
//! the server's clock it is proven complete. Decodes the last segments only, as many as it takes
//! to find a commit, up to a limit: an idle database's proof is its watermark.

use serde::{Deserialize, Serialize};

use super::{Base, Catalog, CatalogError, LogPath, LogRange};
use proto::postgres::lsn::Lsn;
use proto::postgres::scan::{Scanner, Span};
use proto::postgres::transaction::Meaning;
use proto::segment::Watermark;
use proto::store::Class;
use proto::timestamp::Timestamp;

/// So many segments are decoded at most to find the last commit.
const DECODED_MAX: u64 = 16;

/// A commit in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub xid: Option<u32>,
    pub time: Timestamp,
    /// Where its record begins and ends.
    pub start: Lsn,
    pub end: Lsn,
}

/// The end of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// The first byte that is not in it.
    pub lsn: Lsn,
    pub last_record: Option<Span>,
    pub last_commit: Option<Commit>,
    pub watermark: Option<Watermark>,
}

/// Moments that can be restored: any from `from` to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub from: Timestamp,
    pub from_lsn: Lsn,
    pub to: Timestamp,
    pub to_lsn: Lsn,
    /// The oldest base in it.
    pub base: String,
}

impl LogEnd {
    /// Everything committed up to this moment of the server's clock is in the range.
    pub fn proven(&self) -> Option<Timestamp> {
        let commit = self.last_commit.map(|commit| commit.time);
        self.watermark.map(|mark| mark.proven()).max(commit)
    }
}

impl Catalog {
    /// What stands at the end of a range.
    ///
    /// # Errors
    /// When a segment that must be decoded is damaged, or the store fails.
    pub async fn end_of(&self, path: &LogPath, range: LogRange) -> Result<LogEnd, CatalogError> {
        let size = self.segment_size();
        let mut end = LogEnd {
            lsn: range.to,
            last_record: None,
            last_commit: None,
            watermark: self.watermark_in(path, range),
        };
        if range.to <= range.from {
            return Ok(end);
        }
        let (first, last) = (size.segment_of(range.from), size.segment_of(Lsn(range.to.0 - 1)));
        let mut count = 1;
        loop {
            let from = last.saturating_sub(count - 1).max(first);
            (end.last_record, end.last_commit) = self.scan(path, from, range.to).await?;
            let found = end.last_record.is_some() && end.last_commit.is_some();
            if found || from == first || count >= DECODED_MAX {
                return Ok(end);
            }
            count *= 2;
        }
    }

    /// The same where it must not fail because the last segments are damaged: then only its
    /// watermark is known.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn known_end_of(
        &self,
        path: &LogPath,
        range: LogRange,
    ) -> Result<LogEnd, CatalogError> {
        match self.end_of(path, range).await {
            Err(error) if matches!(error.class(), Class::Damaged | Class::Absent) => Ok(LogEnd {
                lsn: range.to,
                last_record: None,
                last_commit: None,
                watermark: self.watermark_in(path, range),
            }),
            other => other,
        }
    }

    async fn scan(
        &self,
        path: &LogPath,
        first: u64,
        to: Lsn,
    ) -> Result<(Option<Span>, Option<Commit>), CatalogError> {
        let size = self.segment_size();
        let mut scanner = Scanner::new(size.start_of(first), size);
        let mut last = None;
        for number in first..=size.segment_of(Lsn(to.0 - 1)) {
            let Some(located) = self.locate(path, number) else { break };
            let raw = self.raw(located.id).await?;
            let wanted = to.since(size.start_of(number)).0.min(located.raw_bytes);
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(raw.len());
            scanner.feed(&raw[..wanted], &mut |event| {
                if let Meaning::Transaction(transaction) = event.meaning
                    && transaction.end.is_commit()
                {
                    let (xid, time) = (transaction.xid, transaction.time);
                    last = Some(Commit { xid, time, start: event.start, end: event.end });
                }
            });
        }
        Ok((scanner.seen().last, last))
    }

    /// The latest proof of completeness that stands in a range of a path.
    pub fn watermark_in(&self, path: &LogPath, range: LogRange) -> Option<Watermark> {
        let on_path = path.stretches.iter().filter_map(|stretch| {
            let mark = self.logs.get(&stretch.timeline)?.watermark?;
            let at = Lsn::from(mark.offset);
            let held = range.from <= at && at <= range.to;
            (held && path.history.contains(stretch.timeline, at)).then_some(mark)
        });
        on_path.max_by_key(|mark| mark.clock)
    }

    /// Whether a base stands on a path.
    pub fn is_on(&self, path: &LogPath, base: &Base) -> bool {
        let postgres = base.complete.postgres();
        path.history.contains(postgres.timeline, postgres.start)
            && path.history.contains(postgres.stop_timeline, postgres.stop)
    }

    /// Whether a base stands on a path, and its log from its start to its stop in a range of it.
    pub fn is_usable(&self, path: &LogPath, range: LogRange, base: &Base) -> bool {
        let postgres = base.complete.postgres();
        self.is_on(path, base) && range.holds(postgres.start, postgres.stop)
    }

    /// The moments of a path that can be restored, oldest first. Damaged bases open no window.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn windows(&self, path: &LogPath) -> Result<Vec<Window>, CatalogError> {
        let mut windows = Vec::new();
        for range in self.ranges(path) {
            let mut bases = self.bases.iter().filter(|base| !base.is_damaged());
            // Sorted by where they end: the first is the oldest.
            let Some(base) = bases.find(|base| self.is_usable(path, range, base)) else { continue };
            let end = self.known_end_of(path, range).await?;
            let from = base.complete.finished;
            windows.push(Window {
                from,
                from_lsn: base.complete.postgres().stop,
                to: end.proven().map_or(from, |proven| proven.max(from)),
                to_lsn: end.lsn,
                base: base.id().to_owned(),
            });
        }
        Ok(windows)
    }
}
