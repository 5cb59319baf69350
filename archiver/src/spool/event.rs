//! What the spool tells the ship stage: each after its bytes are on disk.

use std::path::PathBuf;

use bytes::Bytes;
use proto::position::{Offset, Position};
use proto::segment::{Hash, SegmentHead, Watermark};

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
    /// What the source has proved, not beyond these bytes.
    pub mark: Option<Watermark>,
    /// Whether somebody waits for this flush (a shutdown, `--once`).
    pub urgent: bool,
}

impl OpenState {
    pub const fn end(&self) -> Offset {
        Offset(self.slot.start.0 + self.raw_len)
    }
}
