//! The ledger: append-only facts about a lineage, one object each, numbered without holes.
//!
//! Enters: an event. Leaves: `ledger/<seq8>.json`, created if absent: two writers never share a
//! number. What is not needed to restore is never read from here. An entry that is damaged keeps
//! its number: it is read past, told, and never written over.

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::layout::{Lineage, sequence_of};
use crate::mongodb::{OpTime, OplogTs};
use crate::position::Position;
use crate::store::{Body, Class, Key, Put, Range, Store, StoreError, list_after, list_all};
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
    /// PostgreSQL: the slot was dropped to protect the server's disk; what was received ends at `at`.
    /// A gap follows if the server has removed log by the time a new slot is made.
    SlotReleased { at: Position, reason: String },
    /// The source runs another version than it did. MongoDB: also its feature compatibility version.
    Server {
        /// (An entry's own `version` is that of its format.)
        release: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fcv: Option<String>,
    },
    /// MongoDB: from `at` on the log does not carry this collection; a base that begins there or
    /// later holds it.
    NotCarried { at: OplogTs, collection: String, reason: String },
    /// The source told of a page whose checksum is wrong.
    DamagedPage { base: String, file: String, detail: String },
    /// Of a newer program: kept, shown, not understood.
    #[serde(other)]
    Other,
}

/// A lineage's ledger, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// In order.
    pub entries: Vec<Entry>,
    /// In order.
    pub damaged: Vec<Unreadable>,
}

/// An entry that is no JSON of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub seq: u64,
    pub key: Key,
    pub detail: String,
}

impl Ledger {
    /// The number of the entry that names the newest writer. One that cannot be read may have been
    /// a newer writer's: it counts as one.
    pub fn writer(&self) -> Option<u64> {
        let writers = self.entries.iter().filter(|e| matches!(e.event, Event::Writer { .. }));
        let damaged = self.damaged.iter().map(|entry| entry.seq);
        writers.map(|entry| entry.seq).chain(damaged).max()
    }
}

/// Appends an event behind the last entry, readable or not, and returns its number.
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
    let listed = list(store, lineage).await?;
    let mut seq = listed.last().map_or(1, |(seq, _)| seq + 1);
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

/// The whole ledger. Damaged entries are no error: the database goes on, and so does its log.
///
/// # Errors
/// When the store fails.
pub async fn read(store: &dyn Store, lineage: Lineage) -> Result<Ledger, ArchiveError> {
    const REQUESTS_AT_ONCE: usize = 8;
    let listed = list(store, lineage).await?;
    let reads = listed
        .into_iter()
        .map(|(seq, key)| async move { (seq, store.get(&key, Range::All).await, key) });
    let mut read = stream::iter(reads.collect::<Vec<_>>()).buffered(REQUESTS_AT_ONCE);
    let mut ledger = Ledger::default();
    while let Some((seq, bytes, key)) = read.next().await {
        let detail = match bytes {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(entry) => {
                    ledger.entries.push(entry);
                    continue;
                }
                Err(error) => error.to_string(),
            },
            Err(error) if matches!(error.class(), Class::Damaged | Class::Absent) => {
                error.to_string()
            }
            Err(error) => return Err(error.into()),
        };
        ledger.damaged.push(Unreadable { seq, key, detail });
    }
    Ok(ledger)
}

/// The numbers that are taken, in order.
async fn list(store: &dyn Store, lineage: Lineage) -> Result<Vec<(u64, Key)>, ArchiveError> {
    let objects = list_all(store, &lineage.ledger()).await?;
    let numbered = objects.into_iter().filter_map(|o| Some((sequence_of(o.key.name())?, o.key)));
    let mut found: Vec<_> = numbered.collect();
    found.sort();
    Ok(found)
}

/// The entries behind number `seq`, in order: one request as long as there are none.
///
/// # Errors
/// When the store fails.
pub async fn behind(
    store: &dyn Store,
    lineage: Lineage,
    seq: u64,
) -> Result<Vec<(u64, Key)>, StoreError> {
    let after = lineage.ledger_entry(seq);
    let objects = list_after(store, &lineage.ledger(), Some(after.as_str())).await?;
    let numbered = objects.into_iter().filter_map(|o| Some((sequence_of(o.key.name())?, o.key)));
    Ok(numbered.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Access, url};

    const LINEAGE: Lineage = Lineage(1);

    fn writer(host: &str) -> Event {
        Event::Writer { host: host.to_owned(), program: "pitrd".to_owned() }
    }

    #[tokio::test]
    async fn a_damaged_entry_is_read_past_named_and_never_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let address = folder.path().display().to_string();
        let store = url::open(&address, Access::ReadWrite).await.expect("a folder store");
        let append = |event| append(&*store, LINEAGE, Timestamp(0), event);
        assert_eq!(append(writer("a")).await.expect("appended"), 1);
        let harmed = Body::from(b"{ \"version\": 1, \"se".to_vec());
        store.put(&LINEAGE.ledger_entry(2), &harmed).await.expect("put");
        assert_eq!(append(Event::Base { id: "b".to_owned() }).await.expect("appended"), 3);
        let ledger = read(&*store, LINEAGE).await.expect("read");
        assert_eq!(ledger.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 3]);
        let [damaged] = &ledger.damaged[..] else { panic!("{:?}", ledger.damaged) };
        assert_eq!((damaged.seq, &damaged.key), (2, &LINEAGE.ledger_entry(2)));
        let kept = store.get(&LINEAGE.ledger_entry(2), Range::All).await.expect("there");
        assert_eq!(&kept[..], b"{ \"version\": 1, \"se");
        // It may have been a newer writer's.
        assert_eq!(ledger.writer(), Some(2));
        assert_eq!(append(writer("c")).await.expect("appended"), 4);
        assert_eq!(read(&*store, LINEAGE).await.expect("read").writer(), Some(4));
    }
}
