//! What a restore will do, decided before anything is fetched.
//!
//! Enters: an archive and a wanted moment. Leaves: a [`Plan`], which `pitr plan` prints and
//! `pitr restore` executes and keeps beside the restored folder. It freezes the end of the
//! archive: a sidecar that goes on writing changes nothing of what is restored. Nothing is written
//! here, so a crash leaves nothing.

mod answer;
mod damaged;
mod error;
mod make;
mod settings;
mod shared;
mod summary;
pub mod mongodb;

pub use answer::Answer;
pub use error::PlanError;
pub use make::{Wanted, make};
pub use shared::{FetchBytes, Head, PLAN_FORMAT};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog::Commit;
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize, Timeline};
use proto::segment::Hash;
use proto::timestamp::Timestamp;

/// Everything a restore needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    #[serde(flatten)]
    pub head: Head,
    pub base: PlannedBase,
    pub target: PlannedTarget,
    /// Where the archive ended when the plan was made; nothing beyond it is ever served.
    pub end: FrozenEnd,
    /// From the segment of the base's start to the one in which the target's record ends, in order.
    pub segments: Vec<PlannedSegment>,
    /// Timelines whose history files recovery is given; every other one does not exist for it.
    pub histories: Vec<Timeline>,
    pub fetch: FetchBytes,
    /// Bytes that the target folder needs: the base unpacked, and the log of two checkpoints.
    pub disk_bytes: u64,
    /// What a hot standby must at least have (`max_connections` and its kind), raised to the
    /// highest that the base and the log up to the target ask for.
    pub settings: BTreeMap<String, u64>,
    /// What the operator should know before starting; empty when there is nothing.
    pub warnings: Vec<String>,
}

/// The copy that replay begins with. Its `complete.json` says the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedBase {
    pub id: String,
    pub timeline: Timeline,
    pub start: Lsn,
    pub stop: Lsn,
    pub stop_timeline: Timeline,
    /// The database's clock when the copy ended.
    pub finished: Timestamp,
    pub version_num: u32,
    /// Bytes in the store, and unpacked.
    pub stored_bytes: u64,
    pub raw_bytes: u64,
    /// The source had pages with a wrong checksum.
    pub damaged: bool,
}

/// The moment: as asked, and as the one position that recovery stops at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTarget {
    /// As it was asked for: `--at 2026-11-20T14:20:00Z`.
    pub asked: String,
    /// `recovery_target_lsn`: always the start of a record that is in the plan's segments.
    pub lsn: Lsn,
    /// `recovery_target_inclusive`: whether the record at `lsn` is still replayed.
    pub inclusive: bool,
    /// `recovery_target_timeline`: always numeric.
    pub timeline: Timeline,
    /// The end of the last record that is replayed, when it is known.
    pub record_end: Option<Lsn>,
    /// The commit before the target, and the one behind it.
    pub last_kept: Option<Commit>,
    pub first_left_out: Option<Commit>,
}

/// The end of the archive when the plan was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenEnd {
    pub timeline: Timeline,
    /// The first byte that is not served.
    pub lsn: Lsn,
    /// Everything committed up to this moment of the server's clock stands before `lsn`.
    pub proven: Option<Timestamp>,
}

/// One WAL file that recovery is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSegment {
    /// The name that PostgreSQL asks for: `000000010000000A00000042`.
    pub name: String,
    #[serde(flatten)]
    pub source: Source,
    /// Bytes in the store.
    pub bytes: u64,
}

/// Where a segment's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Source {
    /// A full segment.
    Sealed,
    /// A timeline's last, unfilled segment: zeros follow its raw bytes.
    Partial,
    /// The open segment: exactly its first `raw_bytes`, with this hash, then zeros; whether they
    /// come from tails, merged tails or a segment sealed since then makes no difference.
    Tails { raw_bytes: u64, hash: Hash, last_seq: u64, objects: u64 },
}

impl Plan {
    /// The WAL segment size of the cluster.
    pub fn segment_size(&self) -> SegmentSize {
        self.head
            .identity
            .postgres()
            .map_or(SegmentSize::DEFAULT, |postgres| postgres.segment_bytes)
    }

    /// The planned segments with their parsed names, in order.
    pub fn segment_ids(&self) -> impl Iterator<Item = (SegmentId, &PlannedSegment)> {
        let size = self.segment_size();
        self.segments
            .iter()
            .filter_map(move |segment| Some((SegmentId::parse(&segment.name, size).ok()?, segment)))
    }

    /// Pretty JSON with a final newline.
    pub fn encode(&self) -> Vec<u8> {
        proto::archive::to_json(self)
    }

    /// # Errors
    /// When the bytes are no plan.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests;
