//! The server that is restored into: commands, and what of a restore is kept there while it runs.
//!
//! Enters: a client. Leaves: answers. Progress stands in `__pitr.progress`, in the same `applyOps`
//! as what it tells of: a target that was killed at any moment holds exactly what its progress says.

use bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, rawdoc};
use futures_util::{FutureExt, TryStreamExt};
use mongodb::Client;

use proto::mongodb::OplogTs;
use proto::mongodb::scope::PROGRESS_DATABASE;

use super::error::{ReplayError, code, code_of};
use super::operation::{Operation, command_in, operation};
use super::patience::is_lost;

const PROGRESS: &str = "__pitr.progress";
const REPLAYED: &str = "replayed";

/// How far what is applied has to be safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirm {
    /// Applied. (The server's default waits for the journal with every command: ten times slower.)
    Applied,
    /// By the majority of the set, in their journals.
    Majority,
}

/// How far the replay has come: everything before entry `at`, and so many operations of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reached {
    pub(super) at: OplogTs,
    pub(super) operations: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Target {
    client: Client,
}

impl Reached {
    /// Everything up to entry `at`, this one included.
    pub(super) const fn whole(at: OplogTs) -> Self {
        Self { at, operations: u64::MAX }
    }

    pub(super) fn to_apply(self) -> RawDocumentBuf {
        let operations = i64::try_from(self.operations).unwrap_or(i64::MAX);
        let at = bson::Timestamp::from(self.at);
        keep(rawdoc! { "_id": REPLAYED, "at": at, "operations": operations })
    }

    fn read(document: &Document) -> Option<Self> {
        let at = document.get_timestamp("at").ok()?.into();
        let operations = document.get_i64("operations").ok()?;
        let operations = if operations == i64::MAX { u64::MAX } else { operations.cast_unsigned() };
        Some(Self { at, operations })
    }
}

/// An operation that puts a document into the progress, in the place of an older one.
pub(super) fn keep(document: RawDocumentBuf) -> RawDocumentBuf {
    operation("i", PROGRESS, &document, None)
}

impl Target {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) async fn run(
        &self,
        database: &str,
        what: &str,
        command: Document,
    ) -> Result<Document, ReplayError> {
        let database = self.client.database(database);
        let done = self.again(|| database.run_command(command.clone())).await;
        done.map_err(ReplayError::target(what))
    }

    /// Applies operations strictly: an update of a document that is not there is an error. All
    /// writes of documents take effect together, or none does.
    pub(super) async fn apply(
        &self,
        operations: &RawArrayBuf,
        confirm: Confirm,
    ) -> Result<(), mongodb::error::Error> {
        let concern = match confirm {
            Confirm::Applied => rawdoc! { "w": 1 },
            Confirm::Majority => rawdoc! { "w": "majority" },
        };
        let mut command = RawDocumentBuf::new();
        command.append(bson::raw::cstr!("applyOps"), operations);
        command.append(bson::raw::cstr!("alwaysUpsert"), false);
        command.append(bson::raw::cstr!("bypassDocumentValidation"), true);
        command.append(bson::raw::cstr!("writeConcern"), concern);
        self.client.database("admin").run_raw_command(command).await.map(drop)
    }

    /// Gives a command until the target has answered it. What was done already is done again.
    async fn again<T, A>(&self, give: impl Fn() -> A) -> Result<T, mongodb::error::Error>
    where
        A: IntoFuture<Output = Result<T, mongodb::error::Error>>,
    {
        loop {
            match give().await {
                Err(lost) if is_lost(&lost) && self.is_back(&lost).await => {}
                done => return done,
            }
        }
    }

    /// Applies operations that tell in the progress how far they go, once: when the answer is lost,
    /// the progress says whether they were applied.
    pub(super) async fn apply_once(
        &self,
        operations: &RawArrayBuf,
        confirm: Confirm,
        reached: Option<Reached>,
    ) -> Result<(), mongodb::error::Error> {
        loop {
            let lost = match self.apply(operations, confirm).await {
                Err(lost) if is_lost(&lost) && self.is_back(&lost).await => lost,
                done => return done,
            };
            let Some(reached) = reached else { continue };
            // Behind one of another connection that may still be at work: they exclude each other.
            let mut nothing = RawArrayBuf::new();
            nothing.push(keep(rawdoc! { "_id": "back" }));
            self.again(|| self.apply(&nothing, Confirm::Applied).boxed()).await?;
            match self.reached().await {
                Ok(Some(done)) if done >= reached => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(lost),
            }
        }
    }

    /// One of the documents with these values of `_id`, if there is any: its `_id` alone.
    pub(super) async fn any_of(
        &self,
        namespace: &str,
        ids: RawArrayBuf,
    ) -> Result<Option<RawDocumentBuf>, ReplayError> {
        let (database, name) = proto::mongodb::scope::split(namespace);
        let find = rawdoc! {
            "find": name,
            "filter": { "_id": { "$in": ids } },
            "projection": { "_id": 1 },
            "limit": 1,
            "singleBatch": true,
        };
        let what = || ReplayError::target(format!("looking for what is inserted into {namespace}"));
        let database = self.client.database(database);
        let answer = self.again(|| database.run_raw_command(find.clone())).await.map_err(what())?;
        let cursor = answer.get_document("cursor").ok();
        let found = cursor.and_then(|cursor| cursor.get_array("firstBatch").ok());
        let first = found.and_then(|found| found.first().cloned());
        Ok(first.and_then(|first| RawDocumentBuf::try_from(first.as_document()?).ok()))
    }

    /// Applies one operation that stands alone.
    pub(super) async fn apply_one(
        &self,
        operation: &RawDocument,
        what: &str,
    ) -> Result<(), ReplayError> {
        let mut operations = RawArrayBuf::new();
        operations.push(operation);
        let applied = self.again(|| self.apply(&operations, Confirm::Applied).boxed()).await;
        applied.map_err(|source| ReplayError::Target {
            what: format!("{what}: {}", Operation::show(operation)),
            source: Box::new(source),
        })
    }

    /// The document with this `_id`.
    pub(super) async fn document(
        &self,
        namespace: &str,
        key: &RawDocument,
    ) -> Result<Option<RawDocumentBuf>, ReplayError> {
        let (database, name) = proto::mongodb::scope::split(namespace);
        let Some(filter) = by_id(key) else { return Ok(None) };
        let collection = self.client.database(database).collection::<RawDocumentBuf>(name);
        let found = collection.find_one(filter).await;
        found.map_err(ReplayError::target(format!("reading a document of {namespace}")))
    }

    pub(super) async fn create(
        &self,
        database: &str,
        create: &RawDocument,
    ) -> Result<(), ReplayError> {
        self.apply_one(&command_in(database, create), "creating a collection").await
    }

    /// By the real command: in `applyOps` a target in the way is moved aside instead of dropped, and
    /// a missing source drops the target (tried on 6.0.5).
    pub(super) async fn rename(
        &self,
        from: &str,
        to: &str,
        options: (bool, bool),
        repeated: bool,
    ) -> Result<(), ReplayError> {
        let (drop, stay_temporary) = options;
        let mut command = doc! { "renameCollection": from, "to": to, "dropTarget": drop };
        if stay_temporary {
            command.insert("stayTemp", true);
        }
        let admin = self.client.database("admin");
        let mut renamed = admin.run_command(command.clone()).await;
        let mut repeated = repeated;
        while let Err(lost) = &renamed
            && is_lost(lost)
            && self.is_back(lost).await
        {
            repeated = true;
            renamed = admin.run_command(command.clone()).await;
        }
        match renamed {
            Err(error) if repeated && code_of(&error) == Some(code::NAMESPACE_NOT_FOUND) => Ok(()),
            done => {
                done.map(|_| ()).map_err(ReplayError::target(format!("renaming {from} to {to}")))
            }
        }
    }

    pub(super) async fn build_indexes(
        &self,
        namespace: &str,
        indexes: &[RawDocumentBuf],
    ) -> Result<(), ReplayError> {
        let (database, name) = proto::mongodb::scope::split(namespace);
        let mut specs = RawArrayBuf::new();
        for index in indexes {
            specs.push(index);
        }
        let mut command = rawdoc! { "createIndexes": name };
        command.append(bson::raw::cstr!("indexes"), specs);
        command.append(bson::raw::cstr!("writeConcern"), rawdoc! { "w": "majority" });
        let database = self.client.database(database);
        let built = self.again(|| database.run_raw_command(command.clone())).await;
        built.map(drop).map_err(ReplayError::target(format!("building indexes of {namespace}")))
    }

    /// Everything that the progress holds, by `_id`.
    pub(super) async fn progress(&self) -> Result<Vec<Document>, ReplayError> {
        let collection = self.client.database(PROGRESS_DATABASE).collection::<Document>("progress");
        let read = || async { collection.find(doc! {}).await?.try_collect().await }.boxed();
        self.again(read).await.map_err(ReplayError::target("reading progress"))
    }

    pub(super) async fn reached(&self) -> Result<Option<Reached>, ReplayError> {
        let progress = self.progress().await?;
        let is_it = |document: &&Document| document.get_str("_id").ok() == Some(REPLAYED);
        Ok(progress.iter().find(is_it).and_then(Reached::read))
    }

    pub(super) async fn set_reached(
        &self,
        reached: Reached,
        confirm: Confirm,
    ) -> Result<(), ReplayError> {
        let mut operations = RawArrayBuf::new();
        operations.push(reached.to_apply());
        let kept = self.again(|| self.apply(&operations, confirm).boxed()).await;
        kept.map_err(ReplayError::target("keeping the progress"))
    }
}

/// The filter for exactly this `_id`, whatever it is.
fn by_id(key: &RawDocument) -> Option<Document> {
    let id = bson::Bson::try_from(key.get("_id").ok()??).ok()?;
    Some(doc! { "_id": { "$eq": id } })
}
