//! Whose archive a lineage is: `identity.json`, created once and never changed.

use serde::{Deserialize, Serialize};

use crate::mongodb::{OpTime, SourceMode};
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
    /// PostgreSQL: the system identifier, in decimal. MongoDB: what tells the set from another.
    pub cluster: String,
    /// When this lineage was begun, by the sidecar's clock: for people only.
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mongodb: Option<MongoIdentity>,
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

/// What was found of a MongoDB replica set when the lineage was begun. Its `cluster` is the UUID of
/// `config.transactions` (docs/decisions/0011): set names are not unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MongoIdentity {
    /// `6.0.27`.
    pub version: String,
    /// The feature compatibility version: `6.0`.
    pub fcv: String,
    pub set_name: String,
    /// The first entry that is archived: nothing before it is in the archive.
    pub first: OpTime,
    /// What the log's documents are.
    #[serde(default, skip_serializing_if = "SourceMode::is_oplog")]
    pub source_mode: SourceMode,
}

impl Identity {
    /// The PostgreSQL part of a PostgreSQL lineage.
    pub fn postgres(&self) -> Option<&PostgresIdentity> {
        self.postgres.as_ref()
    }

    /// The MongoDB part of a MongoDB lineage.
    pub const fn mongodb(&self) -> Option<&MongoIdentity> {
        self.mongodb.as_ref()
    }

    /// Pretty JSON, as it stands in the archive.
    pub fn encode(&self) -> Vec<u8> {
        super::to_json(self)
    }
}
