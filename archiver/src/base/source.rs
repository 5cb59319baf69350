//! What a base is written from: a stream of events, and facts about the server.
//!
//! Enters: nothing. Leaves: the two traits that the writer asks, so that it knows no protocol.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;

use proto::archive::base::{DamagedPage, Tablespace};
use proto::postgres::lsn::{Lsn, SegmentSize, Timeline};
use proto::timestamp::Timestamp;

use super::error::SourceError;

/// How the server begins the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checkpoint {
    /// At once, at the cost of a burst of writes.
    #[default]
    Fast,
    /// Over `checkpoint_completion_target`: minutes, and no burst.
    Spread,
}

/// What is asked of BASE_BACKUP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub label: String,
    pub checkpoint: Checkpoint,
    /// kB/s; the server's own throttle.
    pub max_rate: Option<u32>,
}

/// A backup as it comes from the server, in this order; `Progress` anywhere behind `Start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// First, when the checkpoint is done.
    Start(Start),
    /// A tar stream begins: the data folder (`None`), or a tablespace.
    Archive { tablespace: Option<u32> },
    /// Bytes of that stream.
    Data(Bytes),
    /// Bytes of the server's manifest, behind the last stream.
    Manifest(Bytes),
    /// Uncompressed bytes that the server has sent, as it counts them.
    Progress(u64),
    /// The backup is whole; it is consistent from `stop` on.
    End { stop: Lsn, timeline: Timeline },
    /// Behind `End`: pages whose checksum was wrong when the server read them.
    Damaged(Vec<DamagedPage>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The redo point of the checkpoint that the backup begins with.
    pub start: Lsn,
    pub timeline: Timeline,
    pub tablespaces: Vec<Tablespace>,
    /// What the server expects to send.
    pub expected_bytes: Option<u64>,
}

/// What of a server stands in `complete.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub version_num: u32,
    pub system_identifier: String,
    pub segment_size: SegmentSize,
    pub checksums: bool,
    /// Settings that are not at their default.
    pub settings: BTreeMap<String, String>,
    /// Configuration that does not stand in the data folder, as far as it may be read.
    pub config_files: BTreeMap<String, String>,
}

/// A server that a base can be taken from.
#[async_trait]
pub trait Source: Send {
    async fn facts(&mut self) -> Result<Facts, SourceError>;

    /// The server's clock.
    async fn clock(&mut self) -> Result<Timestamp, SourceError>;

    async fn begin(&mut self, request: &Request) -> Result<Box<dyn Backup>, SourceError>;
}

/// A backup that runs. Dropping it ends it: the server takes back what it prepared.
#[async_trait]
pub trait Backup: Send {
    /// `None` behind the last event.
    async fn next(&mut self) -> Result<Option<Event>, SourceError>;
}
