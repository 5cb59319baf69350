//! How full the spool is, and when the source must be held.

use std::sync::atomic::{AtomicU64, Ordering};

use proto::position::ByteCount;

/// Bytes on the spool's disk, shared by the stages.
#[derive(Debug)]
pub struct SpoolLevel {
    bytes: AtomicU64,
    max: u64,
}

impl SpoolLevel {
    pub const fn new(max: ByteCount) -> Self {
        Self { bytes: AtomicU64::new(0), max: max.0 }
    }

    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub fn remove(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before >= bytes, "more leaves the spool than came");
    }

    /// Sets what an earlier run left.
    pub fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Release);
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub const fn max(&self) -> u64 {
        self.max
    }

    /// The source is to be disconnected.
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.max
    }

    /// The source may connect again: below 80 % (DESIGN §2).
    pub fn has_room(&self) -> bool {
        self.bytes() < self.max / 5 * 4
    }
}
