//! How full the spool is, and when the source must be held.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proto::disk::Disk;
use proto::position::ByteCount;

/// What must stay free on the spool's disk: what is still on its way when the source is held (a
/// full ring, frames in work), twice.
const RESERVE: u64 = 32 << 20;

/// Bytes on the spool's disk, shared by the stages.
#[derive(Debug)]
pub struct SpoolLevel {
    bytes: AtomicU64,
    max: AtomicU64,
    disk: Option<(Arc<dyn Disk>, PathBuf)>,
    /// What the disk had left when it was last asked; all ones: it was not.
    free: AtomicU64,
    /// Whether the disk itself has less left than the reserve, whoever took it.
    low: AtomicBool,
}

/// Why the source is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// `--spool-max` is reached.
    Spool { max: ByteCount },
    /// Its disk is nearly full.
    Disk { free: ByteCount },
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spool { max } => write!(f, "the spool holds --spool-max ({max})"),
            Self::Disk { free } => {
                write!(f, "the spool's disk is full ({free} left): make room there")
            }
        }
    }
}

impl SpoolLevel {
    pub const fn new(max: ByteCount) -> Self {
        let (bytes, max) = (AtomicU64::new(0), AtomicU64::new(max.0));
        let (free, low) = (AtomicU64::new(u64::MAX), AtomicBool::new(false));
        Self { bytes, max, disk: None, free, low }
    }

    /// One that also watches the disk below `dir`.
    pub fn on(disk: Arc<dyn Disk>, dir: &Path, max: ByteCount) -> Self {
        Self { disk: Some((disk, dir.to_owned())), ..Self::new(max) }
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

    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Acquire)
    }

    /// Raises the limit to what segments of this size need, and tells what it is then, if it was less:
    /// the open one leaves only once it is whole, and a source that is held for it never fills it.
    pub fn fit(&self, segment: ByteCount) -> Option<ByteCount> {
        let least = segment.0 / 2 * 3;
        (self.max.fetch_max(least, Ordering::AcqRel) < least).then_some(ByteCount(least))
    }

    /// Asks the disk how much is left. Blocks. A disk that cannot say is not taken for full.
    pub fn look(&self) -> Option<ByteCount> {
        let (disk, dir) = self.disk.as_ref()?;
        let free = disk.free(dir).ok()?;
        self.free.store(free, Ordering::Release);
        // Once held, more than the reserve must come free, or every frame would hold it anew.
        let limit = if self.low.load(Ordering::Acquire) { RESERVE * 5 / 4 } else { RESERVE };
        self.low.store(free < limit, Ordering::Release);
        Some(ByteCount(free))
    }

    /// What its disk had left for the spool when it was last asked.
    pub fn disk_room(&self) -> Option<ByteCount> {
        let free = self.free.load(Ordering::Acquire);
        (free != u64::MAX).then(|| ByteCount(free.saturating_sub(RESERVE)))
    }

    /// Why the source is to be disconnected, if it is.
    pub fn full(&self) -> Option<Full> {
        if self.low.load(Ordering::Acquire) {
            return Some(Full::Disk { free: self.look().unwrap_or_default() });
        }
        let max = ByteCount(self.max());
        (self.bytes() >= max.0).then_some(Full::Spool { max })
    }

    /// The source is to be disconnected.
    pub fn is_full(&self) -> bool {
        self.low.load(Ordering::Acquire) || self.bytes() >= self.max()
    }

    /// The source may connect again: below 80 % (DESIGN §2), and with room on the disk. Blocks.
    pub fn has_room(&self) -> bool {
        self.look();
        self.bytes() < self.max() / 5 * 4 && !self.low.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_never_less_than_a_segment_and_what_follows_it_need() {
        let level = SpoolLevel::new(ByteCount(64));
        assert_eq!(level.fit(ByteCount(40)), None, "it has room");
        assert_eq!(level.fit(ByteCount(64)), Some(ByteCount(96)));
        assert_eq!(level.max(), 96);
        level.add(64);
        assert!(level.has_room(), "a source that was held goes on beside a whole open segment");
    }
}
