//! What a member of a replica set is asked besides its collections: positions, clock, versions.
//!
//! Enters: a client that stays with one member. Leaves: facts. Nothing is written anywhere.

use std::time::Duration;

use bson::{Document, RawDocument, RawDocumentBuf, doc, rawdoc};
use mongodb::Client;
use mongodb::action::Action;
use mongodb::options::SelectionCriteria;

use proto::mongodb::scope::is_restored;
use proto::mongodb::{OpTime, OplogTs};

use super::error::ReadError;
use crate::source::mongodb::Hello;

/// How long the majority may lag behind what the member has.
const MAJORITY_PATIENCE: Duration = Duration::from_secs(60);
const MAJORITY_EVERY: Duration = Duration::from_millis(50);

/// A member that is read from.
#[derive(Debug, Clone)]
pub(super) struct Server {
    client: Client,
    /// The URI's read preference: commands go where reads go.
    criteria: Option<SelectionCriteria>,
}

#[derive(Debug, Clone)]
pub(super) struct Versions {
    pub(super) server: String,
    pub(super) feature: String,
}

impl Server {
    pub(super) fn new(client: Client) -> Self {
        let criteria = client.selection_criteria().cloned();
        Self { client, criteria }
    }

    pub(super) async fn run(
        &self,
        database: &str,
        what: &'static str,
        command: Document,
    ) -> Result<Document, ReadError> {
        let database = self.client.database(database);
        let action = database.run_command(command);
        let action = action.optional(self.criteria.clone(), |a, c| a.selection_criteria(c));
        action.await.map_err(ReadError::ask(format!("{what} on {}", database.name())))
    }

    /// All documents of a command that answers with a cursor, as the server wrote them.
    pub(super) async fn documents(
        &self,
        database: &str,
        what: &str,
        command: Document,
    ) -> Result<Vec<RawDocumentBuf>, ReadError> {
        let mut batches = self.batches(database, what, command).await?;
        let mut found = Vec::new();
        while let Some(batch) = batches.next().await? {
            for document in batch.documents()? {
                found.push(document?.to_owned());
            }
        }
        Ok(found)
    }

    pub(super) async fn batches(
        &self,
        database: &str,
        what: &str,
        command: Document,
    ) -> Result<super::batches::Batches, ReadError> {
        let database = self.client.database(database);
        // The command's own size is of the first batch alone: all others would be of 16 MB.
        let documents = command.get_i64("batchSize").ok().and_then(|n| u32::try_from(n).ok());
        let action = database.run_cursor_command(command);
        let action = action.optional(self.criteria.clone(), |a, c| a.selection_criteria(c));
        let action = action.optional(documents, |a, documents| a.batch_size(documents));
        let what = format!("{what} on {}", database.name());
        let cursor = action.batch().await.map_err(ReadError::ask(what.clone()))?;
        Ok(super::batches::Batches::new(cursor, what))
    }

    pub(super) async fn hello(&self) -> Result<Hello, ReadError> {
        let answer = self.run("admin", "hello", doc! { "hello": 1 }).await?;
        let member = answer.get_str("me").unwrap_or("the server");
        Ok(Hello::read(member, &answer)?)
    }

    /// Waits until the majority has what this member has now, and returns how far that is. Every
    /// snapshot from then on holds what was seen before.
    pub(super) async fn majority_of_now(&self) -> Result<OplogTs, ReadError> {
        let wanted = self.hello().await?.last_write;
        let give_up = tokio::time::Instant::now() + MAJORITY_PATIENCE;
        while self.hello().await?.majority.ts < wanted.ts {
            if tokio::time::Instant::now() >= give_up {
                return Err(ReadError::NoMajority { waited: MAJORITY_PATIENCE });
            }
            tokio::time::sleep(MAJORITY_EVERY).await;
        }
        Ok(wanted.ts)
    }

    pub(super) async fn versions(&self) -> Result<Versions, ReadError> {
        let info = self.run("admin", "buildInfo", doc! { "buildInfo": 1 }).await?;
        let missing = |field| ReadError::Answer { what: "buildInfo", field };
        let server = info.get_str("version").map_err(|_| missing("version"))?.to_owned();
        let ask =
            doc! { "find": "system.version", "filter": { "_id": "featureCompatibilityVersion" } };
        let found = self.documents("admin", "reading system.version", ask).await;
        // Only for the record: who may not read it is told no version.
        let feature = found.ok().and_then(|found| {
            found.first().and_then(|version| version.get_str("version").ok().map(str::to_owned))
        });
        Ok(Versions { server, feature: feature.unwrap_or_default() })
    }

    /// Where the oldest transaction began that has written to the oplog and has not ended.
    pub(super) async fn oldest_transaction(&self) -> Result<Option<OpTime>, ReadError> {
        let command = doc! {
            "find": "transactions",
            "filter": { "state": { "$in": ["prepared", "inProgress"] } },
            "projection": { "startOpTime": 1 },
        };
        let found = self.documents("config", "reading transactions", command).await?;
        let starts =
            found.iter().filter_map(|open| raw_optime(open.get_document("startOpTime").ok()?));
        Ok(starts.min())
    }

    /// Bytes of all data, as far as the server says.
    pub(super) async fn expected_bytes(&self) -> Option<u64> {
        let listed = self.run("admin", "listDatabases", doc! { "listDatabases": 1 }).await.ok()?;
        let names = listed.get_array("databases").ok()?.iter().filter_map(|database| {
            database.as_document()?.get_str("name").ok().filter(|name| is_restored(name, ""))
        });
        let mut sum = 0;
        for database in names {
            let stats = self.run(database, "dbStats", doc! { "dbStats": 1 }).await.ok()?;
            sum += number(&stats, "dataSize")?;
        }
        Some(sum)
    }

    /// Documents and bytes of a collection; `None` where that may not be asked.
    pub(super) async fn size_of(&self, database: &str, name: &str) -> Option<(u64, u64)> {
        let stats = self.run(database, "collStats", doc! { "collStats": name }).await.ok()?;
        Some((number(&stats, "count")?, number(&stats, "size")?))
    }
}

/// A number of whatever type the server chose.
fn number(document: &Document, field: &str) -> Option<u64> {
    match document.get(field)? {
        bson::Bson::Int32(n) => u64::try_from(*n).ok(),
        bson::Bson::Int64(n) => u64::try_from(*n).ok(),
        bson::Bson::Double(n) => Some(*n as u64),
        _ => None,
    }
}

fn raw_optime(optime: &RawDocument) -> Option<OpTime> {
    Some(OplogTs::from(optime.get_timestamp("ts").ok()?).at(optime.get_i64("t").unwrap_or(-1)))
}

/// `{_id: …}` of a document.
pub(super) fn id_of(document: &RawDocument) -> Result<Option<RawDocumentBuf>, ReadError> {
    let Some(id) = document.get("_id")? else { return Ok(None) };
    let mut found = rawdoc! {};
    found.append(bson::raw::cstr!("_id"), id);
    Ok(Some(found))
}
