//! What the spool tells the ship stage: each after its bytes are on disk.

use std::path::PathBuf;

use bytes::Bytes;
use proto::position::{Offset, Position};
use proto::segment::{Hash, SegmentHead, Watermark};

use super::file::FrameRange;
use super::{SealedFile, Slot};

/// What the ship stage learns, in order.
#[derive(Debug)]
pub enum SpoolEvent {
    /// The open segment is on disk up to here.
    Flushed(OpenState),
    /// A segment is whole on disk.
    Sealed(SealedFile),
    /// The source is idle: everything up to the state's mark was flushed before.
    Idle(OpenState),
    /// Must be in the store before anything that follows is acknowledged.
    Object { key: proto::store::Key, bytes: Bytes },
    /// What follows does not continue what came before (a gap): begin the order anew.
    Skipped { from: Position },
}

/// The open segment as far as it is fsynced.
#[derive(Debug, Clone)]
pub struct OpenState {
    pub slot: Slot,
    pub head: SegmentHead,
    pub path: PathBuf,
    pub raw_len: u64,
    pub file_len: u64,
    pub hash: Hash,
    /// Ends of frames before this one, about [`STOP_EVERY`] apart.
    pub stops: Vec<FrameEnd>,
    /// What the source has proved, not beyond these bytes.
    pub mark: Option<Watermark>,
    /// Whether somebody waits for this flush (a shutdown, `--once`).
    pub urgent: bool,
}

/// The end of a frame in a spool file: where a tail can end, and reading can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEnd {
    pub raw_len: u64,
    pub file_len: u64,
    /// Hash of the raw bytes up to here.
    pub hash: Hash,
}

/// Bytes in the file between two ends that are kept.
pub const STOP_EVERY: u64 = 1 << 20;

impl OpenState {
    pub const fn end(&self) -> Offset {
        Offset(self.slot.start.0 + self.raw_len)
    }

    const fn last(&self) -> FrameEnd {
        FrameEnd { raw_len: self.raw_len, file_len: self.file_len, hash: self.hash }
    }

    /// How far a tail goes that begins at `raw_len` (at `file_len`, where that is known): as far
    /// as possible in at most `max` bytes, but to the next stop at the least.
    pub fn tail_end(&self, raw_len: u64, file_len: Option<u64>, max: u64) -> FrameEnd {
        let mut ahead = self.stops.iter().copied().filter(|stop| stop.raw_len > raw_len);
        let Some(next) = ahead.next() else { return self.last() };
        let from = file_len.unwrap_or(next.file_len);
        let fits = |stop: &FrameEnd| stop.file_len - from <= max;
        let further = ahead.chain([self.last()]).take_while(fits).last();
        further.unwrap_or(next)
    }

    /// The frames that hold the raw bytes from `start` to `end`, and where the first one begins.
    pub fn frames_around(&self, start: u64, end: u64) -> (FrameRange, u64) {
        let before = self.stops.iter().rev().find(|stop| stop.raw_len <= start);
        let (raw, offset) = before.map_or((0, 0), |stop| (stop.raw_len, stop.file_len));
        let behind = self.stops.iter().copied().find(|stop| stop.raw_len >= end);
        let len = behind.unwrap_or_else(|| self.last()).file_len - offset;
        (FrameRange { path: self.path.clone(), offset, len }, raw)
    }
}
