//! The events in the log: what ends, begins and is marked, at which position and when.
//!
//! In: contiguous bytes of the log. Out: an [`Event`] for each record that means something to a
//! search for a moment, and a summary of everything that passed. Nothing is stored. Errors do not
//! exist here: what does not fit is counted, and the first of it kept, in [`Seen`].

use std::collections::BTreeMap;

use super::lsn::{Lsn, SegmentSize};
use super::reader::{Item, RecordReader};
use super::record::{Anomaly, RM_LAST_KNOWN, Record};
use super::transaction::{Meaning, decode};

/// So many anomalies are kept; the rest is counted.
const ANOMALIES_KEPT: usize = 16;

/// One record that means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub start: Lsn,
    pub end: Lsn,
    pub meaning: Meaning,
}

/// Where a record begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: Lsn,
    pub end: Lsn,
}

/// What has passed since the scanner began or since it was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub records: u64,
    /// The last complete and sound record.
    pub last: Option<Span>,
    /// Resource managers that no known version has: extensions, or a newer server.
    pub unknown: BTreeMap<u8, u64>,
    /// The first record, where its beginning was not seen: where it ended.
    pub skipped: Option<Lsn>,
    pub anomalies: Vec<Anomaly>,
    pub anomaly_count: u64,
    /// Where the log ended, if it did and did not go on.
    pub ended: Option<Lsn>,
}

/// Reads a stretch of log for its events.
#[derive(Debug)]
pub struct Scanner {
    reader: RecordReader,
    seen: Seen,
}

impl Scanner {
    pub fn new(start: Lsn, size: SegmentSize) -> Self {
        Self { reader: RecordReader::new(start, size), seen: Seen::default() }
    }

    pub const fn reader(&self) -> &RecordReader {
        &self.reader
    }

    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The summary so far; a new one begins.
    pub fn take_seen(&mut self) -> Seen {
        std::mem::take(&mut self.seen)
    }

    /// Takes the next bytes and shows `visit` the events whose records end in them.
    pub fn feed(&mut self, bytes: &[u8], visit: &mut impl FnMut(Event)) {
        let seen = &mut self.seen;
        self.reader.feed(bytes, &mut |item| match item {
            Item::Record(record) => {
                if let Some(event) = seen.note(&record) {
                    visit(event);
                }
            }
            Item::Skipped { end } => {
                seen.skipped.get_or_insert(end);
            }
            Item::Overwritten { .. } => {}
            Item::End { at } => seen.ended = Some(at),
            Item::Anomaly(anomaly) => {
                seen.anomaly_count += 1;
                if seen.anomalies.len() < ANOMALIES_KEPT {
                    seen.anomalies.push(anomaly);
                }
            }
        });
    }
}

impl Seen {
    fn note(&mut self, record: &Record<'_>) -> Option<Event> {
        if !record.crc_ok {
            return None;
        }
        let Record { start, end, .. } = *record;
        self.records += 1;
        self.last = Some(Span { start, end });
        self.ended = None;
        if record.rmid > RM_LAST_KNOWN {
            *self.unknown.entry(record.rmid).or_default() += 1;
        }
        decode(record).map(|meaning| Event { start, end, meaning })
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
