//! Asking one server, whatever its part in the set.

use std::time::Duration;

use ::mongodb::Client;
use ::mongodb::options::{CollectionOptions, SelectionCriteria};
use anyhow::{Context, Result};
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;

use super::Node;
use super::runtime::{self, blocking};

/// What a command may take.
pub(super) const LONG: Duration = Duration::from_secs(120);
/// What a server that runs may take to say how it is.
const SHORT: Duration = Duration::from_secs(5);

impl Node {
    /// A client of this server alone, as one who may do everything. It may be used on any runtime.
    pub fn client(&self) -> Result<Client> {
        let mut client = self.client.lock().expect("no panic under this lock");
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let new = runtime::client(&self.url())?;
        *client = Some(new.clone());
        Ok(new)
    }

    /// Runs one command as one who may do everything; its answer if it succeeded.
    pub fn run(&self, database: &str, command: Document) -> Result<Document> {
        ask(&self.client()?, database, command, LONG)
    }

    /// Runs one command as this user and password; `None`: as nobody.
    pub fn run_as(
        &self,
        user: Option<(&str, &str)>,
        database: &str,
        command: Document,
    ) -> Result<Document> {
        ask(&runtime::client(&self.url_of(user))?, database, command, LONG)
    }

    pub fn hello(&self) -> Result<Document> {
        ask(&self.client()?, "admin", doc! { "hello": 1 }, SHORT)
    }

    pub fn is_primary(&self) -> bool {
        self.hello().is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
    }

    pub fn is_secondary(&self) -> bool {
        self.hello().is_ok_and(|hello| hello.get_bool("secondary").unwrap_or(false))
    }

    /// Seeks no election for so many seconds; 0 ends that.
    pub fn freeze(&self, seconds: i32) -> Result<()> {
        self.run("admin", doc! { "replSetFreeze": seconds }).map(drop)
    }

    /// Gives up its place as the primary for so many seconds.
    pub fn step_down(&self, seconds: i32) -> Result<()> {
        let command =
            doc! { "replSetStepDown": seconds, "secondaryCatchUpPeriodSecs": seconds / 2 };
        self.run("admin", command).map(drop)
    }

    /// Its oplog from this timestamp on, entries as the server has them, in the order of the log.
    pub fn oplog(&self, from: Timestamp) -> Result<Vec<RawDocumentBuf>> {
        let client = self.client()?;
        blocking(async {
            let nearest = ::mongodb::options::ReadPreference::Nearest { options: None };
            let options = CollectionOptions::builder()
                .selection_criteria(SelectionCriteria::ReadPreference(nearest))
                .build();
            let oplog = client
                .database("local")
                .collection_with_options::<RawDocumentBuf>("oplog.rs", options);
            loop {
                let read = async {
                    oplog.find(doc! { "ts": { "$gte": from } }).await?.try_collect().await
                };
                match read.await {
                    // Its oldest entries went while they were read: what is left is read anew.
                    Err(error) if is_position_lost(&error) => {}
                    done => return done,
                }
            }
        })
        .with_context(|| format!("cannot read the oplog of {}", self.host()))
    }
}

/// CappedPositionLost of src/mongo/base/error_codes.yml.
fn is_position_lost(error: &::mongodb::error::Error) -> bool {
    use ::mongodb::error::ErrorKind;
    matches!(&*error.kind, ErrorKind::Command(command) if command.code == 136)
}

/// Asks once, and gives up after a while: a server that stands still never answers.
pub(super) fn ask(
    client: &Client,
    database: &str,
    command: Document,
    patience: Duration,
) -> Result<Document> {
    let shown = command.keys().next().cloned().unwrap_or_default();
    let database = client.database(database);
    blocking(async { tokio::time::timeout(patience, database.run_command(command)).await })
        .with_context(|| format!("{shown}: no answer"))?
        .with_context(|| format!("{shown} failed"))
}
