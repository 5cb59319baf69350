//! The index of one sealed segment: when what was committed in it, and its marks.
//!
//! In: the segment's raw bytes, read by its engine's indexer. Out: a small object beside the
//! segment, `index/<epoch>/<segment>.v1`, and many of them together in a roll-up. Both are derived:
//! losing one loses nothing, a broken one is refused by its checksum and made again from the log.
//! A record belongs to the segment, and to the block of it, in which it ends.

mod codec;
mod postgres;
mod mongodb;
mod roll_up;

pub use codec::IndexError;
pub use mongodb::OplogIndexer;
pub use postgres::Indexer;
pub use roll_up::RollUp;

use std::collections::BTreeMap;

use crate::position::{Epoch, Offset};
use crate::segment::Engine;
use crate::timestamp::Timestamp;

/// The version in the object's name and in its bytes.
pub const VERSION: u16 = 1;

/// At most so many buckets of commit counts; beyond that they become twice as wide.
pub const BUCKETS_MAX: usize = 1 << 17;
/// At most so many marks; the rest is only counted.
pub const MARKS_MAX: usize = 1 << 16;
/// A block is at least so long, for the index of a slow database's many small frames would
/// otherwise be as large as they are.
pub const BLOCK_MIN: u64 = 64 << 10;

/// The index of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    pub engine: Engine,
    pub epoch: Epoch,
    /// PostgreSQL: the segment number. MongoDB: the first timestamp.
    pub number: u64,
    /// Position of its first byte.
    pub start: Offset,
    pub raw_len: u64,
    pub head: Head,
    /// The last complete record.
    pub last: Option<Extent>,
    /// In order, without holes, from the first raw byte to the last.
    pub blocks: Vec<Block>,
    pub counts: Counts,
    pub marks: Vec<Mark>,
    /// Marks beyond [`MARKS_MAX`].
    pub marks_left_out: u64,
    /// Record types that no known version has, and how many there were of each.
    pub unknown: BTreeMap<u8, u64>,
    /// Records and pages that were not as they should be.
    pub anomalies: u64,
}

/// How the segment's first bytes belong to the log before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A record begins with the segment.
    Clean,
    /// The record that ends here first began at this earlier position.
    From(Offset),
    /// A record spans in, and where it began was not seen: what it says is not in this index.
    Unknown,
}

/// Where a record begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub start: Offset,
    pub end: Offset,
}

/// A run of frames and what ends in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Block {
    pub raw_len: u32,
    pub ends: Ends,
}

/// The ends of transactions in some stretch of log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    pub commits: u32,
    pub aborts: u32,
    /// Earliest and latest commit time. Not first and last: clocks step back.
    pub times: Option<(Timestamp, Timestamp)>,
    /// Lowest and highest transaction, aborted ones included, by plain comparison: after a
    /// wraparound the range is wide, and still holds all. MongoDB: timestamps of entries of any kind.
    pub transactions: Option<(u64, u64)>,
}

/// Commits in each bucket of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Width of a bucket in seconds: 1, doubled while there are too many.
    pub width: u32,
    /// Commits by bucket; bucket `n` begins `n × width` seconds after the Unix epoch.
    pub buckets: BTreeMap<i64, u32>,
}

/// An event worth finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub kind: MarkKind,
    pub extent: Extent,
    pub time: Option<Timestamp>,
    pub transaction: Option<u64>,
    /// Restore point: its name. MongoDB's drops and changes of a catalog: command and namespace, with
    /// a space between. Failover: new and old epoch, `u32` each. Settings: six `u32` in the
    /// order of `xl_parameter_change`.
    pub payload: Vec<u8>,
}

/// What a mark stands for; as a number in the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarkKind {
    RestorePoint,
    Drop,
    Truncate,
    Delete,
    Ddl,
    Failover,
    Settings,
    /// Of a newer program: kept as it is.
    Other(u16),
}

/// What a roll-up and a search know of a segment without opening its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub epoch: Epoch,
    pub number: u64,
    pub start: Offset,
    pub raw_len: u64,
    pub head: Head,
    pub last: Option<Extent>,
    pub ends: Ends,
    pub anomalies: u64,
    pub marks: Vec<Mark>,
}

impl SegmentIndex {
    /// Everything of the segment taken together.
    pub fn ends(&self) -> Ends {
        let mut all = Ends::default();
        for block in &self.blocks {
            all.add(&block.ends);
        }
        all
    }

    pub fn summary(&self) -> Summary {
        Summary {
            epoch: self.epoch,
            number: self.number,
            start: self.start,
            raw_len: self.raw_len,
            head: self.head,
            last: self.last,
            ends: self.ends(),
            anomalies: self.anomalies,
            marks: self.marks.clone(),
        }
    }

    /// The raw ranges (offset and length in the segment) of the blocks that `wanted` accepts.
    pub fn ranges(&self, wanted: impl Fn(&Ends) -> bool) -> Vec<(u64, u64)> {
        let mut at = 0;
        let mut found = Vec::new();
        for block in &self.blocks {
            let length = u64::from(block.raw_len);
            if wanted(&block.ends) {
                found.push((at, length));
            }
            at += length;
        }
        found
    }
}

impl Ends {
    pub fn add(&mut self, other: &Self) {
        self.commits = self.commits.saturating_add(other.commits);
        self.aborts = self.aborts.saturating_add(other.aborts);
        self.times = join(self.times, other.times);
        self.transactions = join(self.transactions, other.transactions);
    }

    fn note(&mut self, commit: Option<Timestamp>, transaction: Option<u64>) {
        match commit {
            Some(time) => {
                self.commits = self.commits.saturating_add(1);
                self.times = join(self.times, Some((time, time)));
            }
            None => self.aborts = self.aborts.saturating_add(1),
        }
        self.transactions = join(self.transactions, transaction.map(|t| (t, t)));
    }
}

fn join<T: Ord + Copy>(a: Option<(T, T)>, b: Option<(T, T)>) -> Option<(T, T)> {
    match (a, b) {
        (Some((low, high)), Some((l, h))) => Some((low.min(l), high.max(h))),
        (one, other) => one.or(other),
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self { width: 1, buckets: BTreeMap::new() }
    }
}

impl Counts {
    fn note(&mut self, time: Timestamp) {
        *self.buckets.entry(self.bucket_of(time)).or_default() += 1;
        while self.buckets.len() > BUCKETS_MAX {
            self.width = self.width.saturating_mul(2);
            for (bucket, count) in std::mem::take(&mut self.buckets) {
                *self.buckets.entry(bucket.div_euclid(2)).or_default() += count;
            }
        }
    }

    fn bucket_of(&self, time: Timestamp) -> i64 {
        time.0.div_euclid(1_000_000).div_euclid(i64::from(self.width))
    }

    /// Where bucket `n` begins.
    pub fn start_of(&self, bucket: i64) -> Timestamp {
        Timestamp(bucket.saturating_mul(i64::from(self.width)).saturating_mul(1_000_000))
    }
}

impl MarkKind {
    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::RestorePoint => 1,
            Self::Drop => 2,
            Self::Truncate => 3,
            Self::Delete => 4,
            Self::Ddl => 5,
            Self::Failover => 6,
            Self::Settings => 7,
            Self::Other(code) => code,
        }
    }

    pub(crate) const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::RestorePoint,
            2 => Self::Drop,
            3 => Self::Truncate,
            4 => Self::Delete,
            5 => Self::Ddl,
            6 => Self::Failover,
            7 => Self::Settings,
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
mod tests;
