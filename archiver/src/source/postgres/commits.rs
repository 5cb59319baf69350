//! The first commit time in a piece of WAL, for the lag while catching up.

use proto::position::Offset;
use proto::postgres::lsn::{Lsn, SegmentSize};
use proto::postgres::scan::Scanner;
use proto::postgres::transaction::Meaning;
use proto::timestamp::Timestamp;

use crate::watch::lag::{CommitReader, CommitTimes};

/// A WAL page (XLOG_BLCKSZ): a record reader may begin at any of them.
const PAGE: u64 = 8192;
/// Bytes looked at from the first page on; a commit stands in almost any of this size.
const LOOK: usize = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub struct WalCommits(pub SegmentSize);

impl CommitTimes for WalCommits {
    fn first(&self, start: Offset, raw: &[u8]) -> Option<Timestamp> {
        let page = start.0.next_multiple_of(PAGE);
        let skip = usize::try_from(page - start.0).ok()?;
        let piece = raw.get(skip..)?;
        let piece = &piece[..piece.len().min(LOOK)];
        let mut found = None;
        let mut scanner = Scanner::new(Lsn(page), self.0);
        scanner.feed(piece, &mut |event| {
            if let (None, Some(time)) = (found, commit_time(&event.meaning)) {
                found = Some(time);
            }
        });
        found
    }

    fn reader(&self, start: Offset) -> Box<dyn CommitReader + '_> {
        Box::new(Reader(Scanner::new(start.into(), self.0)))
    }
}

/// A segment from its first byte on, which begins a page.
struct Reader(Scanner);

impl CommitReader for Reader {
    fn feed(&mut self, raw: &[u8], after: Offset) -> Option<Timestamp> {
        let mut found = None;
        self.0.feed(raw, &mut |event| {
            if found.is_none() && event.end > Lsn::from(after) {
                found = commit_time(&event.meaning);
            }
        });
        found
    }
}

fn commit_time(meaning: &Meaning) -> Option<Timestamp> {
    match meaning {
        Meaning::Transaction(ended) if ended.end.is_commit() => Some(ended.time),
        _ => None,
    }
}
