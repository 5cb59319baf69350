//! Makes the indexes of PostgreSQL's segments from their raw bytes.
//!
//! In: one segment after the other, in pieces of any size, with the ends of their frames. Out: an
//! index for each. It goes on across segments, so that a record that spans two is understood; one
//! that begins cold says so in [`Head::Unknown`] when a record spans in. Nothing is stored here.

use super::{
    BLOCK_MIN, Block, Counts, Ends, Extent, Head, MARKS_MAX, Mark, MarkKind, SegmentIndex,
};
use crate::position::Offset;
use crate::postgres::lsn::{Lsn, SegmentId, SegmentSize};
use crate::postgres::scan::{Event, Scanner};
use crate::postgres::transaction::{Meaning, Parameters};
use crate::segment::Engine;

/// Reads segments that follow each other and indexes each.
#[derive(Debug)]
pub struct Indexer {
    scanner: Scanner,
    size: SegmentSize,
    head: Head,
    raw_len: u64,
    blocks: Vec<Block>,
    block: Block,
    counts: Counts,
    marks: Vec<Mark>,
    marks_left_out: u64,
}

impl Indexer {
    /// Begins at the start of segment `number`, knowing nothing of what stands before it.
    pub fn new(number: u64, size: SegmentSize) -> Self {
        let start = size.start_of(number);
        Self {
            scanner: Scanner::new(start, size),
            size,
            head: Head::Clean,
            raw_len: 0,
            blocks: Vec::new(),
            block: Block::default(),
            counts: Counts::default(),
            marks: Vec::new(),
            marks_left_out: 0,
        }
    }

    /// The index of one segment whose raw bytes are at hand. `before` is the end of the log that
    /// precedes it (whole pages; as much as there is, or nothing).
    pub fn build(
        id: SegmentId,
        size: SegmentSize,
        before: &[u8],
        raw: &[u8],
        frames: impl IntoIterator<Item = u32>,
    ) -> SegmentIndex {
        let mut indexer = Self::new(id.number, size);
        let start = Lsn(id.start(size).0.saturating_sub(before.len() as u64));
        let mut scanner = Scanner::new(start, size);
        scanner.feed(before, &mut |_| {});
        if !before.is_empty() {
            indexer.go_on(scanner);
        }
        let mut rest = raw;
        for length in frames {
            let (frame, tail) = rest.split_at(rest.len().min(length as usize));
            indexer.feed(frame);
            indexer.end_frame();
            rest = tail;
        }
        indexer.feed(rest);
        indexer.finish(id)
    }

    /// Takes the next raw bytes of the segment; never beyond its end.
    pub fn feed(&mut self, raw: &[u8]) {
        let room = self.size.bytes() - self.raw_len;
        debug_assert!(raw.len() as u64 <= room, "a segment holds no more than its size");
        let Self { scanner, block, counts, marks, marks_left_out, .. } = self;
        scanner.feed(raw, &mut |event| {
            note(&event, &mut block.ends, counts);
            if let Some(mark) = mark_of(&event) {
                if marks.len() < MARKS_MAX { marks.push(mark) } else { *marks_left_out += 1 }
            }
        });
        self.raw_len += raw.len() as u64;
        self.block.raw_len += u32::try_from(raw.len()).expect("a segment has at most 1 GiB");
    }

    /// A frame ends at the byte fed last.
    pub fn end_frame(&mut self) {
        if u64::from(self.block.raw_len) >= BLOCK_MIN {
            self.end_block();
        }
    }

    /// The segment ends at the byte fed last; the next one is begun.
    pub fn finish(&mut self, id: SegmentId) -> SegmentIndex {
        self.end_block();
        let seen = self.scanner.take_seen();
        let skipped = seen.skipped.is_some()
            || seen.records == 0 && self.raw_len > 0 && self.scanner.reader().is_skipping();
        let head = match self.head {
            Head::Clean if skipped => Head::Unknown,
            head => head,
        };
        let index = SegmentIndex {
            engine: Engine::Postgresql,
            epoch: id.timeline.into(),
            number: id.number,
            start: id.start(self.size).into(),
            raw_len: self.raw_len,
            head,
            last: seen.last.map(|last| extent(last.start, last.end)),
            blocks: std::mem::take(&mut self.blocks),
            counts: std::mem::take(&mut self.counts),
            marks: std::mem::take(&mut self.marks),
            marks_left_out: std::mem::take(&mut self.marks_left_out),
            unknown: seen.unknown,
            anomalies: seen.anomaly_count,
        };
        self.raw_len = 0;
        self.head = self.head_of_next();
        index
    }

    fn go_on(&mut self, mut scanner: Scanner) {
        scanner.take_seen();
        self.scanner = scanner;
        self.head = self.head_of_next();
    }

    fn head_of_next(&self) -> Head {
        match self.scanner.reader().open_record() {
            Some(start) => Head::From(start.into()),
            None => Head::Clean,
        }
    }

    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        if block.raw_len > 0 {
            self.blocks.push(block);
        }
    }
}

fn note(event: &Event, ends: &mut Ends, counts: &mut Counts) {
    if let Meaning::Transaction(transaction) = &event.meaning {
        let commit = transaction.end.is_commit().then_some(transaction.time);
        ends.note(commit, transaction.xid.map(u64::from));
        if let Some(time) = commit {
            counts.note(time);
        }
    }
}

fn mark_of(event: &Event) -> Option<Mark> {
    let (kind, time, payload) = match &event.meaning {
        Meaning::RestorePoint { time, name } => {
            (MarkKind::RestorePoint, Some(*time), name.as_bytes().to_vec())
        }
        Meaning::EndOfRecovery { time, timeline, previous } => {
            (MarkKind::Failover, Some(*time), words([timeline.0, previous.0]))
        }
        // A promotion may write this instead of an end of recovery.
        Meaning::Checkpoint(c) if c.timeline != c.previous_timeline => {
            (MarkKind::Failover, None, words([c.timeline.0, c.previous_timeline.0]))
        }
        Meaning::Parameters(p) => (MarkKind::Settings, None, settings(p)),
        _ => return None,
    };
    let extent = extent(event.start, event.end);
    Some(Mark { kind, extent, time, transaction: None, payload })
}

fn settings(p: &Parameters) -> Vec<u8> {
    words([
        p.max_connections,
        p.max_worker_processes,
        p.max_wal_senders,
        p.max_prepared_transactions,
        p.max_locks_per_transaction,
        p.wal_level,
    ])
}

fn words<const N: usize>(numbers: [u32; N]) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn extent(start: Lsn, end: Lsn) -> Extent {
    Extent { start: Offset::from(start), end: Offset::from(end) }
}
