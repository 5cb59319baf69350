//! Whose archive a lineage is: `identity.json`, created once and never changed.

use serde::{Deserialize, Serialize};

use crate::postgres::lsn::SegmentSize;
use crate::segment::Engine;
use crate::timestamp::Timestamp;

/// The archive format that this program writes.
pub const FORMAT_VERSION: u32 = 1;

/// The facts that tell one cluster from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    pub engine: Engine,
    /// PostgreSQL: the system identifier, in decimal. MongoDB: the replica set's id.
    pub cluster: String,
    /// When this lineage was begun, by the sidecar's clock: for people only.
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresIdentity>,
}

/// What of a PostgreSQL cluster never changes in one lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresIdentity {
    pub segment_bytes: SegmentSize,
    /// `server_version_num` when the lineage was begun: 150018. The major version never changes.
    pub version_num: u32,
    /// Where the log begins: nothing before it is in the archive.
    pub first: crate::postgres::lsn::Lsn,
    pub first_timeline: crate::postgres::lsn::Timeline,
}

impl Identity {
    /// The PostgreSQL part of a PostgreSQL lineage.
    pub fn postgres(&self) -> Option<&PostgresIdentity> {
        self.postgres.as_ref()
    }

    /// Pretty JSON, as it stands in the archive.
    pub fn encode(&self) -> Vec<u8> {
        super::to_json(self)
    }
}
