//! What a replica set held at one exact timestamp: the record that a restore is compared with.
//!
//! Collections are read as of a timestamp (`readConcern: snapshot`), so that all of them belong to
//! it also under load. Capped collections cannot be read so and are left out, as are time series.

use std::path::Path;

use ::mongodb::Client;
use ::mongodb::options::{ReadPreference, SelectionCriteria};
use ::mongodb::results::CollectionType;
use anyhow::{Context, Result};
use bson::doc;
use futures_util::TryStreamExt;
use proto::mongodb::OplogTs;
use proto::mongodb::scope::is_restored;
use proto::timestamp::Timestamp;

use super::runtime::blocking;
use super::{Builder, Node, ReplicaSet};
use crate::hashes::Hashes;
use crate::user;

/// What the collections held, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub hashes: Hashes,
    /// Everything up to it is in, and nothing behind it.
    pub at: OplogTs,
    /// By the server's clock: where nobody writes for a while, as good as the timestamp.
    pub time: Timestamp,
}

impl ReplicaSet {
    /// The content of every collection together with the exact timestamp. Nobody waits for it.
    pub fn record(&self) -> Result<Moment> {
        // Once the majority has it, it can be read as of.
        let note = doc! {
            "appendOplogNote": 1, "data": { "msg": "moment" },
            "writeConcern": { "w": "majority" },
        };
        let primary = self.primary()?;
        let at = primary.run("admin", note)?.get_timestamp("operationTime")?;
        let noted = primary.oplog(at)?;
        let wall = noted.first().context("the note is in the oplog")?.get_datetime("wall")?;
        let time = Timestamp(wall.timestamp_millis() * 1000);
        let client = primary.client()?;
        let hashes = blocking(hashes(&client, Some(at)))?;
        Ok(Moment { hashes, at: at.into(), time })
    }
}

impl Node {
    /// A server of no set on data that is there, such as a restored folder. `.start()` runs it;
    /// nothing expires while it runs.
    pub fn open(data: &Path) -> Result<Self> {
        hand_over_all(data)?;
        Builder::new(1).parameter("ttlMonitorEnabled", "false").on(data)
    }

    /// The content of every collection now, one after the other.
    pub fn collection_hashes(&self) -> Result<Hashes> {
        let client = self.client()?;
        blocking(hashes(&client, None))
    }
}

/// A folder that somebody else has made may belong to somebody else.
fn hand_over_all(path: &Path) -> Result<()> {
    user::hand_over(path)?;
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            hand_over_all(&entry?.path())?;
        }
    }
    Ok(())
}

async fn hashes(client: &Client, at: Option<bson::Timestamp>) -> Result<Hashes> {
    let mut hashes = Hashes::new();
    for name in client.list_database_names().await? {
        if !is_restored(&name, "") {
            continue;
        }
        let database = client.database(&name);
        let mut found = database.list_collections().await?;
        while let Some(collection) = found.try_next().await? {
            let plain = collection.collection_type == CollectionType::Collection;
            let capped = collection.options.capped.unwrap_or(false);
            if !plain || capped || collection.name.starts_with("system.") {
                continue;
            }
            let hash = hash(client, &name, &collection.name, at).await;
            let namespace = format!("{name}.{}", collection.name);
            hashes.insert(namespace.clone(), hash.with_context(|| format!("reading {namespace}"))?);
        }
    }
    Ok(hashes)
}

/// In the order of `_id`: where the documents lie is no part of their content.
async fn hash(
    client: &Client,
    database: &str,
    collection: &str,
    at: Option<bson::Timestamp>,
) -> Result<String> {
    let mut find = doc! { "find": collection, "sort": { "_id": 1 } };
    if let Some(at) = at {
        find.insert("readConcern", doc! { "level": "snapshot", "atClusterTime": at });
    }
    let nearest = ReadPreference::Nearest { options: None };
    let cursor = client
        .database(database)
        .run_cursor_command(find)
        .selection_criteria(SelectionCriteria::ReadPreference(nearest))
        .batch()
        .await?;
    let mut cursor = std::pin::pin!(cursor);
    let (mut hasher, mut count) = (blake3::Hasher::new(), 0_u64);
    while let Some(batch) = cursor.try_next().await? {
        for document in batch.doc_slices()? {
            let document = document?;
            hasher.update(document.as_document().context("a document")?.as_bytes());
            count += 1;
        }
    }
    Ok(format!("{count}:{}", hasher.finalize().to_hex()))
}
