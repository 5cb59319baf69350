//! Makes the indexes of oplog segments from their raw bytes.
//!
//! In: one segment, in pieces of any size, with the ends of their frames. Out: its index. Segments
//! hold whole entries, so none needs to know of another. An entry that cannot be read is counted as
//! an anomaly; where documents do not follow each other any more, nothing behind is indexed. Nothing
//! is stored here.

use std::collections::BTreeMap;

use bson::RawDocument;

use super::{
    BLOCK_MIN, Block, Counts, Ends, Extent, Head, MARKS_MAX, Mark, MarkKind, SegmentIndex, join,
};
use crate::archive::layout::OPLOG_EPOCH;
use crate::mongodb::{Documents, Entry, EntryError, Event, Kind, Note, OplogTs};
use crate::position::Offset;
use crate::segment::Engine;
use crate::timestamp::Timestamp;

/// Reads one segment.
#[derive(Debug, Default)]
pub struct OplogIndexer {
    /// Position of the segment's first byte.
    start: Offset,
    raw_len: u64,
    /// The beginning of an entry whose end has not come yet.
    torn: Vec<u8>,
    broken: bool,
    last: Option<Extent>,
    blocks: Vec<Block>,
    block: Block,
    counts: Counts,
    marks: Vec<Mark>,
    marks_left_out: u64,
    unknown: BTreeMap<u8, u64>,
    anomalies: u64,
}

impl OplogIndexer {
    /// Begins at a segment's first byte.
    pub fn new(start: Offset) -> Self {
        Self { start, ..Self::default() }
    }

    /// The index of one segment whose raw bytes are at hand.
    pub fn build(
        number: u64,
        start: Offset,
        raw: &[u8],
        frames: impl IntoIterator<Item = u32>,
    ) -> SegmentIndex {
        let mut indexer = Self::new(start);
        let mut rest = raw;
        for length in frames {
            let (frame, tail) = rest.split_at(rest.len().min(length as usize));
            indexer.feed(frame);
            indexer.end_frame();
            rest = tail;
        }
        indexer.feed(rest);
        indexer.finish(number)
    }

    /// Takes the next raw bytes of the segment.
    pub fn feed(&mut self, raw: &[u8]) {
        let mut held = std::mem::take(&mut self.torn);
        let begin = Offset(self.start.0 + self.raw_len - held.len() as u64);
        self.raw_len += raw.len() as u64;
        self.block.raw_len += u32::try_from(raw.len()).expect("a frame is far smaller");
        if self.broken {
            return;
        }
        let rest = if held.is_empty() { raw } else { complete(&mut held, raw) };
        self.torn = self.walk(begin, &held).to_vec();
        if self.torn.is_empty() && !self.broken {
            let begin = Offset(begin.0 + held.len() as u64);
            self.torn = self.walk(begin, rest).to_vec();
        }
    }

    /// A frame ends at the byte fed last.
    pub fn end_frame(&mut self) {
        if u64::from(self.block.raw_len) >= BLOCK_MIN {
            self.end_block();
        }
    }

    /// The segment ends at the byte fed last.
    pub fn finish(mut self, number: u64) -> SegmentIndex {
        self.end_block();
        SegmentIndex {
            engine: Engine::Mongodb,
            epoch: OPLOG_EPOCH,
            number,
            start: self.start,
            raw_len: self.raw_len,
            head: Head::Clean,
            last: self.last,
            blocks: self.blocks,
            counts: self.counts,
            marks: self.marks,
            marks_left_out: self.marks_left_out,
            unknown: self.unknown,
            anomalies: self.anomalies + u64::from(!self.torn.is_empty()),
        }
    }

    /// Notes the whole entries and returns what is left.
    fn walk<'a>(&mut self, begin: Offset, bytes: &'a [u8]) -> &'a [u8] {
        let mut documents = Documents::new(bytes);
        while let Some(found) = documents.next() {
            let Ok((at, document)) = found else {
                (self.broken, self.anomalies) = (true, self.anomalies + 1);
                return &[];
            };
            let start = Offset(begin.0 + at as u64);
            let end = Offset(begin.0 + documents.offset() as u64);
            let extent = Extent { start, end };
            if self.look(document, extent).is_err() {
                self.anomalies += 1;
            }
            self.last = Some(extent);
        }
        documents.rest()
    }

    fn look(&mut self, document: &RawDocument, extent: Extent) -> Result<(), EntryError> {
        if Event::is_one(document) {
            self.note_event(&Event::read(document)?, extent);
            return Ok(());
        }
        let glance = Entry::glance(document)?;
        match glance.op {
            // Nothing else of most entries is of interest.
            Some(op) if op.is_write() && glance.whole => self.commit(glance.at.ts, glance.wall),
            _ => self.note(&Entry::read(document)?, extent)?,
        }
        Ok(())
    }

    /// Something becomes visible at this time.
    fn commit(&mut self, ts: OplogTs, wall: Option<Timestamp>) {
        let time = time_of(ts, wall);
        self.block.ends.note(Some(time), Some(ts.0));
        self.counts.note(time);
    }

    fn note(&mut self, entry: &Entry<'_>, extent: Extent) -> Result<(), EntryError> {
        let ts = entry.at.ts;
        let kind = entry.kind()?;
        let ends = &mut self.block.ends;
        if entry.is_commit()? {
            self.commit(ts, entry.wall);
        } else if matches!(kind, Kind::AbortTransaction) {
            ends.note(None, Some(ts.0));
        } else {
            ends.transactions = join(ends.transactions, Some((ts.0, ts.0)));
        }
        if matches!(kind, Kind::Unknown) {
            let letter = entry.raw.get_str("op").ok().and_then(|op| op.bytes().next());
            *self.unknown.entry(letter.unwrap_or_default()).or_default() += 1;
        }
        if let Some((kind, payload)) = worth_finding(entry, kind) {
            let (time, transaction) = (Some(time_of(ts, entry.wall)), Some(ts.0));
            self.mark(Mark { kind, extent, time, transaction, payload });
        }
        Ok(())
    }

    fn note_event(&mut self, event: &Event<'_>, extent: Extent) {
        let ts = event.at;
        if event.is_note() {
            let ends = &mut self.block.ends;
            ends.transactions = join(ends.transactions, Some((ts.0, ts.0)));
            return;
        }
        self.commit(ts, event.wall);
        let kind = match event.kind {
            "insert" | "update" | "replace" | "delete" | "" => return,
            "drop" | "dropDatabase" => MarkKind::Drop,
            _ => MarkKind::Ddl,
        };
        let payload = format!("{} {}", event.kind, event.namespace()).into_bytes();
        let (time, transaction) = (Some(time_of(ts, event.wall)), Some(ts.0));
        self.mark(Mark { kind, extent, time, transaction, payload });
    }

    fn mark(&mut self, mark: Mark) {
        if self.marks.len() < MARKS_MAX {
            self.marks.push(mark);
        } else {
            self.marks_left_out += 1;
        }
    }

    fn end_block(&mut self) {
        let block = std::mem::take(&mut self.block);
        if block.raw_len > 0 {
            self.blocks.push(block);
        }
    }
}

/// Takes what the document lacks that `held` begins with from the front of `raw`; returns the rest. What
/// has a length that no document has is left to whoever walks it.
fn complete<'a>(held: &mut Vec<u8>, raw: &'a [u8]) -> &'a [u8] {
    let mut rest = raw;
    let mut fill = |held: &mut Vec<u8>, size: usize| {
        let (lacking, behind) = rest.split_at(rest.len().min(size.saturating_sub(held.len())));
        held.extend_from_slice(lacking);
        rest = behind;
    };
    fill(held, size_of::<i32>());
    let size = held.first_chunk::<4>().map_or(0, |length| i32::from_le_bytes(*length));
    fill(held, usize::try_from(size).unwrap_or(0));
    rest
}

/// The primary's own clock; the seconds of its timestamp, of an entry without one.
fn time_of(ts: OplogTs, wall: Option<Timestamp>) -> Timestamp {
    wall.unwrap_or_else(|| ts.time())
}

/// A name that was given to a moment; `command namespace` of what changes a catalog.
fn worth_finding(entry: &Entry<'_>, kind: Kind<'_>) -> Option<(MarkKind, Vec<u8>)> {
    match (kind, entry.note()) {
        (_, Some(Note::Named(name))) => Some((MarkKind::RestorePoint, name.as_bytes().to_vec())),
        (Kind::Command(name), _) => {
            let kind = match name {
                "drop" | "dropDatabase" => MarkKind::Drop,
                "emptycapped" => MarkKind::Truncate,
                _ => MarkKind::Ddl,
            };
            let database = entry.database();
            let namespace = match entry.o.get_str(name) {
                // A rename names both collections whole.
                Ok(whole) if name == "renameCollection" => whole.to_owned(),
                Ok(collection) => format!("{database}.{collection}"),
                Err(_) => database.to_owned(),
            };
            Some((kind, format!("{name} {namespace}").into_bytes()))
        }
        _ => None,
    }
}

impl Ends {
    /// Whether an entry at `ts` may end here.
    pub fn spans(&self, ts: u64) -> bool {
        self.transactions.is_some_and(|(low, high)| (low..=high).contains(&ts))
    }
}

#[cfg(test)]
mod tests {
    use bson::{DateTime, RawDocumentBuf, Timestamp as Ts, rawdoc};

    use super::*;

    fn entry(increment: u32, op: &str, ns: &str, o: RawDocumentBuf) -> Vec<u8> {
        let wall = DateTime::from_millis(1_795_150_757_000 + i64::from(increment));
        let ts = Ts { time: 1_795_150_757, increment };
        let whole = rawdoc! { "op": op, "ns": ns, "o": o, "ts": ts, "t": 1_i64, "wall": wall };
        whole.into_bytes()
    }

    fn log() -> Vec<u8> {
        [
            entry(1, "i", "shop.orders", rawdoc! { "_id": 1, "pad": "x".repeat(100_000) }),
            entry(2, "n", "", rawdoc! { "msg": "periodic noop" }),
            entry(3, "n", "", rawdoc! { "msg": "before the release", "by": "pitr" }),
            entry(4, "c", "shop.$cmd", rawdoc! { "drop": "orders" }),
            entry(5, "c", "admin.$cmd", rawdoc! { "applyOps": [], "prepare": true }),
            entry(6, "c", "admin.$cmd", rawdoc! { "abortTransaction": 1 }),
            entry(7, "km", "shop.orders", rawdoc! {}),
        ]
        .concat()
    }

    #[test]
    fn an_index_says_when_what_was_committed_and_what_is_worth_finding() {
        let (log, start) = (log(), Offset(1000));
        let index = OplogIndexer::build(1_795_150_757 << 32 | 1, start, &log, [70_000, 50_000]);
        assert_eq!(SegmentIndex::decode(&index.encode()).as_ref(), Ok(&index));
        let ends = index.ends();
        assert_eq!((ends.commits, ends.aborts, index.anomalies), (2, 1, 0));
        let time = |millis: i64| Timestamp((1_795_150_757_000 + millis) * 1000);
        assert_eq!(ends.times, Some((time(1), time(4))));
        let ts = |increment: u64| 1_795_150_757_u64 << 32 | increment;
        assert_eq!(ends.transactions, Some((ts(1), ts(7))));
        assert!(ends.spans(ts(3)) && !ends.spans(ts(8)));
        let marks: Vec<_> = index
            .marks
            .iter()
            .map(|mark| (mark.kind, String::from_utf8_lossy(&mark.payload).into_owned()))
            .collect();
        assert_eq!(
            marks,
            [
                (MarkKind::RestorePoint, "before the release".to_owned()),
                (MarkKind::Drop, "drop shop.orders".to_owned()),
            ]
        );
        assert_eq!(index.last.map(|last| last.end), Some(Offset(1000 + log.len() as u64)));
        assert_eq!(index.unknown, BTreeMap::from([(b'k', 1)]));
        // The insert ends in the second frame: only that one is opened for it.
        assert_eq!(index.ranges(|ends| ends.spans(ts(1))), [(70_000, log.len() as u64 - 70_000)]);
    }

    #[test]
    fn an_index_is_the_same_wherever_the_pieces_of_a_segment_are_cut() {
        let log = log();
        let whole = |pieces: &[usize]| {
            let mut indexer = OplogIndexer::new(Offset(7));
            let mut rest = log.as_slice();
            for length in pieces {
                let (piece, behind) = rest.split_at(*length);
                indexer.feed(piece);
                rest = behind;
            }
            indexer.feed(rest);
            indexer.finish(1)
        };
        let expected = whole(&[]);
        assert_eq!((expected.anomalies, expected.marks.len()), (0, 2));
        // Every place in the small entries, and some in the large one.
        let places = |cut: &usize| *cut < 200 || *cut > 100_000 || cut.is_multiple_of(997);
        for cut in (0..=log.len()).filter(places) {
            assert_eq!(whole(&[cut]), expected, "cut at {cut}");
            let next = (log.len() - cut).min(3);
            assert_eq!(whole(&[cut, next]), expected, "cut at {cut}, and {next} behind it");
        }
    }

    #[test]
    fn what_is_no_entry_is_counted_and_nothing_behind_it_is_made_up() {
        let mut broken = log();
        let whole = broken.len();
        broken.extend([1, 0, 0, 0, 9, 9]);
        broken.extend(log());
        let index = OplogIndexer::build(1, Offset(0), &broken, [broken.len() as u32]);
        assert_eq!(index.last.map(|last| last.end), Some(Offset(whole as u64)));
        assert_eq!(index.anomalies, 1);
        let torn = OplogIndexer::build(1, Offset(0), &log()[..1000], []);
        assert_eq!((torn.last, torn.anomalies), (None, 1));
        let foreign = rawdoc! { "_id": 1 }.into_bytes();
        assert_eq!(OplogIndexer::build(1, Offset(0), &foreign, []).anomalies, 1);
        let ts = Ts { time: 5, increment: 1 };
        let empty = rawdoc! { "op": "i", "ns": "shop.orders", "ts": ts }.into_bytes();
        let index = OplogIndexer::build(1, Offset(0), &empty, []);
        assert_eq!((index.anomalies, index.ends().commits), (1, 0));
    }
}
