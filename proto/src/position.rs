//! Where something stands in a database's log: an epoch and an offset inside it.
//!
//! PostgreSQL: timeline + LSN. MongoDB: one epoch, and the bytes of oplog that were archived before;
//! the entries say where they stand in the replica set's own terms ([`crate::mongodb::OpTime`]).
//! Positions compare only inside one lineage (one unbroken life of a cluster).

use std::fmt;

use serde::{Deserialize, Serialize};

/// An unbroken stretch of a lineage's log between two branchings (PostgreSQL: a timeline).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

/// A byte offset inside an epoch's log (PostgreSQL: LSN; MongoDB: counted from a lineage's first
/// archived entry).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

/// One exact place in the log of a lineage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub epoch: Epoch,
    pub offset: Offset,
}

/// A number of bytes: never mixed up with a position.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl Position {
    pub const fn new(epoch: Epoch, offset: Offset) -> Self {
        Self { epoch, offset }
    }
}

impl Offset {
    /// The offset `count` bytes further on.
    #[must_use]
    pub const fn plus(self, count: ByteCount) -> Self {
        Self(self.0 + count.0)
    }

    /// Bytes from `earlier` to here; 0 when `earlier` lies ahead.
    pub const fn since(self, earlier: Self) -> ByteCount {
        ByteCount(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({})", self.0)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offset({:X}/{:08X})", self.0 >> 32, self.0 as u32)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:X}/{:08X}", self.epoch, self.offset.0 >> 32, self.offset.0 as u32)
    }
}

impl fmt::Display for ByteCount {
    /// Binary units with one decimal, as people read sizes: `512 B`, `1.5 MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

impl fmt::Debug for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}
