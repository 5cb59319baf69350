//! A log made by hand: every record is 16 bytes long, every piece 256.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proto::archive::index::Ends;
use proto::postgres::transaction::{End, Transaction};

use super::*;
use crate::catalog::CatalogError;

pub(super) const RECORD: u64 = 16;
pub(super) const PIECE: u64 = 256;
/// The moment that the hand-made clocks count from.
pub(super) const EPOCH: i64 = 1_795_000_000_000_000;

pub(super) fn at(seconds: f64) -> Timestamp {
    Timestamp(EPOCH + (seconds * 1e6).round() as i64)
}

/// A log of records, of which some are events; the others mean nothing.
#[derive(Debug, Clone)]
pub(super) struct HandMade {
    pub(super) pieces: Vec<SegmentSummary>,
    pub(super) events: Vec<Event>,
    pub(super) end: Option<Span>,
    pub(super) watermark: Option<Timestamp>,
    pub(super) gaps: Vec<Gap>,
    pub(super) bases: Vec<BaseSummary>,
    /// The pieces that were read, each time that one was.
    pub(super) read: Arc<Mutex<Vec<u64>>>,
}

#[async_trait]
impl LogView for HandMade {
    fn timeline(&self) -> Timeline {
        Timeline(1)
    }

    fn segments(&self) -> &[SegmentSummary] {
        &self.pieces
    }

    async fn events(&self, piece: &SegmentSummary) -> Result<Vec<Event>, CatalogError> {
        let inside = |e: &&Event| e.end > piece.from && e.end <= piece.until;
        self.read.lock().expect("no holder panics").push(piece.number);
        Ok(self.events.iter().filter(inside).cloned().collect())
    }

    async fn record_from(&self, lsn: Lsn) -> Result<Option<Span>, CatalogError> {
        let start = Lsn(lsn.0.next_multiple_of(RECORD));
        let record = Span { start, end: Lsn(start.0 + RECORD) };
        Ok(self.end.filter(|end| record.end <= end.end).map(|_| record))
    }

    fn end(&self) -> Option<Span> {
        self.end
    }

    fn watermark(&self) -> Option<Timestamp> {
        self.watermark
    }

    fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    fn bases(&self) -> &[BaseSummary] {
        &self.bases
    }
}

pub(super) fn meaning(end: End, time: f64, xid: u32) -> Meaning {
    Meaning::Transaction(Transaction {
        end,
        time: at(time),
        xid: Some(xid),
        subtransactions: 0,
        dropped_relations: 0,
        has_invalidations: false,
        gid: None,
    })
}

/// A log of `records` records whose base ends with the first four, at second 0.
pub(super) fn quiet(records: u64) -> HandMade {
    let until = records * RECORD;
    let pieces = (0..until.div_ceil(PIECE)).map(|number| SegmentSummary {
        timeline: Timeline(1),
        number,
        from: Lsn(number * PIECE),
        until: Lsn(((number + 1) * PIECE).min(until)),
        ends: None,
        restore_points: None,
        anomalies: 0,
    });
    HandMade {
        pieces: pieces.collect(),
        events: Vec::new(),
        end: Some(record(records - 1)),
        watermark: None,
        gaps: Vec::new(),
        bases: vec![base("first", 1, 4, -10.0, 0.0)],
        read: Arc::default(),
    }
}

pub(super) fn record(number: u64) -> Span {
    Span { start: Lsn(number * RECORD), end: Lsn((number + 1) * RECORD) }
}

pub(super) fn base(id: &str, start: u64, stop: u64, started: f64, finished: f64) -> BaseSummary {
    let (start, stop) = (record(start).start, record(stop).start);
    BaseSummary { id: id.to_owned(), start, stop, started: at(started), finished: at(finished) }
}

impl HandMade {
    pub(super) fn event(mut self, number: u64, meaning: Meaning) -> Self {
        let Span { start, end } = record(number);
        self.events.push(Event { start, end, meaning });
        self.events.sort_by_key(|event| event.start);
        self
    }

    pub(super) fn commit(self, number: u64, time: f64) -> Self {
        let xid = u32::try_from(number).expect("small") + 700;
        self.event(number, meaning(End::Commit, time, xid))
    }

    pub(super) fn point(self, number: u64, name: &str) -> Self {
        let name = name.to_owned();
        self.event(number, Meaning::RestorePoint { time: at(0.0), name })
    }

    pub(super) fn watermark(mut self, time: f64) -> Self {
        self.watermark = Some(at(time));
        self
    }

    /// The pieces from `from` to before `to` are lost.
    pub(super) fn lose(mut self, from: u64, to: u64) -> Self {
        let (from, to) = (Lsn(from * PIECE), Lsn(to * PIECE));
        self.pieces.retain(|piece| piece.from < from || piece.from >= to);
        self.events.retain(|event| event.end <= from || event.end > to);
        self.gaps.push(Gap { from, to, reason: "slot lost".to_owned() });
        self
    }

    /// The same with an index for every piece.
    pub(super) fn indexed(&self) -> Self {
        let mut indexed = self.clone();
        for piece in &mut indexed.pieces {
            let mut ends = Ends::default();
            let mut points = Vec::new();
            for e in self.events.iter().filter(|e| e.end > piece.from && e.end <= piece.until) {
                match &e.meaning {
                    Meaning::Transaction(t) => {
                        let commit = t.end.is_commit();
                        let xid = t.xid.map(u64::from);
                        ends.add(&Ends {
                            commits: u32::from(commit),
                            aborts: u32::from(!commit),
                            times: commit.then_some((t.time, t.time)),
                            transactions: xid.map(|x| (x, x)),
                        });
                    }
                    Meaning::RestorePoint { name, .. } => points.push(name.clone()),
                    _ => {}
                }
            }
            piece.ends = Some(ends);
            piece.restore_points = Some(points);
        }
        indexed
    }
}
