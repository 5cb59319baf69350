//! The ledger: append-only facts about a lineage, one object each, numbered without holes.
//!
//! Enters: an event. Leaves: `ledger/<seq8>.json`, created if absent: two writers never share a
//! number. What is not needed to restore is never read from here.

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::layout::{Lineage, sequence_of};
use crate::mongodb::OpTime;
use crate::position::Position;
use crate::store::{Body, Put, Range, Store, list_all};
use crate::timestamp::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub version: u32,
    pub seq: u64,
    /// By the writer's clock: for people only.
    pub time: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A sidecar begins to write; its writer epoch is this entry's number.
    Writer { host: String, program: String },
    /// A stretch of log is lost: nothing in `from..to` can be replayed across.
    Gap {
        from: Position,
        to: Position,
        reason: String,
        /// MongoDB: the last entry before the gap, and the first one behind it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oplog: Option<[OpTime; 2]>,
    },
    /// The log goes on in another epoch from `at` (PostgreSQL: a promotion).
    Branch { from: Position, at: Position, reason: String },
    /// What the store can do, as tried.
    Store { address: String, features: serde_json::Value },
    /// A base is complete.
    Base { id: String },
    /// A range is durable in the sidecar's spool only (`--ack spool`, or slot under pressure).
    Spooled { from: Position, to: Position },
    /// The source told of a page whose checksum is wrong.
    DamagedPage { base: String, file: String, detail: String },
    /// Of a newer program: kept, shown, not understood.
    #[serde(other)]
    Other,
}

/// Appends an event at the first free number and returns that number.
///
/// # Errors
/// When the store fails, or a hundred others were faster each time.
pub async fn append(
    store: &dyn Store,
    lineage: Lineage,
    time: Timestamp,
    event: Event,
) -> Result<u64, ArchiveError> {
    const RACES_MAX: u32 = 100;
    let mut seq = read(store, lineage).await?.last().map_or(1, |entry| entry.seq + 1);
    for _ in 0..RACES_MAX {
        let entry = Entry { version: 1, seq, time, event: event.clone() };
        let body = super::to_json(&entry);
        let key = lineage.ledger_entry(seq);
        match store.put(&key, &Body::from(body.clone())).await? {
            Put::Created => return Ok(seq),
            Put::Exists => {
                // Perhaps our own put, whose answer was lost.
                if store.get(&key, Range::All).await? == body {
                    return Ok(seq);
                }
                seq += 1;
            }
        }
    }
    Err(ArchiveError::LedgerRace { seq })
}

/// The whole ledger, in order.
///
/// # Errors
/// When the store fails or an entry is no JSON of ours.
pub async fn read(store: &dyn Store, lineage: Lineage) -> Result<Vec<Entry>, ArchiveError> {
    let mut entries = Vec::new();
    for object in list_all(store, &lineage.ledger()).await? {
        if sequence_of(object.key.name()).is_none() {
            continue;
        }
        let bytes = store.get(&object.key, Range::All).await?;
        entries.push(super::from_json::<Entry>(&object.key, &bytes)?);
    }
    entries.sort_by_key(|entry| entry.seq);
    Ok(entries)
}
