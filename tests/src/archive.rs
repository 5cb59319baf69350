//! An archive that programs write: where it is, and what they need to use it.

mod log;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use proto::archive::ends;
use proto::archive::ledger::{self, Event};
use proto::postgres::lsn::{Lsn, Timeline};
use proto::store::s3::S3Store;
use proto::store::{Access, Key, Object, Range, Store, list_all};

use crate::scratch::Folder;
use crate::seaweed::{BUCKET, Identity, Seaweed};
pub use log::{Log, Piece};

/// An archive as a program's `--archive` names it, and how to read it.
#[derive(Debug)]
pub struct Archive {
    url: String,
    environment: Vec<(String, String)>,
    place: Place,
    /// Goes with this value, if the archive is a folder of its own.
    _folder: Option<Folder>,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    S3(String),
}

impl Archive {
    /// In a folder of its own.
    pub fn in_folder() -> Result<Self> {
        let folder = Folder::new("archive")?;
        let path = folder.path().join("archive");
        let url = path.display().to_string();
        Ok(Self { url, environment: Vec::new(), place: Place::Folder(path), _folder: Some(folder) })
    }

    /// In a folder that somebody else keeps.
    pub fn at(path: &Path) -> Self {
        let url = path.display().to_string();
        let place = Place::Folder(path.to_path_buf());
        Self { url, environment: Vec::new(), place, _folder: None }
    }

    /// Below this prefix of a server's bucket.
    pub fn on_s3(seaweed: &Seaweed, prefix: &str) -> Self {
        let url = seaweed.url(BUCKET, prefix);
        let place = Place::S3(url.clone());
        Self { url, environment: seaweed.environment(), place, _folder: None }
    }

    /// The same, but programs reach it through this port.
    #[must_use]
    pub fn via(mut self, seaweed: &Seaweed, port: u16, prefix: &str) -> Self {
        self.url = seaweed.url_via(port, BUCKET, prefix);
        self
    }

    /// The same, but programs speak TLS and trust this authority alone.
    #[must_use]
    pub fn over_tls(mut self, authority: &Path) -> Self {
        let https = self.url.replacen("endpoint=http%3A", "endpoint=https%3A", 1);
        self.url = format!("{https}&ca-file={}", authority.display());
        self
    }

    /// The same, but programs find their credentials by these variables.
    #[must_use]
    pub fn known_by(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment = environment;
        self
    }

    /// What `--archive` is given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a program that uses it needs.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment.clone()
    }

    /// The store itself, opened for reading.
    pub async fn store(&self) -> Result<Arc<dyn Store>> {
        self.open(Access::ReadOnly).await
    }

    /// The store itself, as writers have it.
    pub async fn writable(&self) -> Result<Arc<dyn Store>> {
        self.open(Access::ReadWrite).await
    }

    async fn open(&self, access: Access) -> Result<Arc<dyn Store>> {
        match &self.place {
            Place::Folder(path) => {
                let url = path.display().to_string();
                Ok(proto::store::url::open(&url, access).await?)
            }
            Place::S3(url) => {
                let who = Identity::Admin;
                let (key, secret) = (who.access_key(), who.secret_key());
                let keys = Credentials::new(key, secret, None, None, "tests");
                let keys = SharedCredentialsProvider::new(keys);
                let url = url.parse()?;
                Ok(Arc::new(S3Store::open_as(&url, access, Some(keys)).await?))
            }
        }
    }

    /// Runs this on the store, from anywhere.
    pub fn ask<T: Send>(
        &self,
        work: impl AsyncFnOnce(&dyn Store) -> Result<T> + Send,
    ) -> Result<T> {
        std::thread::scope(|scope| {
            let run = || -> Result<T> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async { work(&*self.store().await?).await })
            };
            scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Everything under this prefix.
    pub fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.ask(async |store| Ok(list_all(store, prefix).await?))
    }

    /// The keys under this prefix.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.list(prefix)?.into_iter().map(|object| object.key.as_str().to_owned()).collect())
    }

    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let key = Key::parse(key).context("a key")?;
        self.ask(async |store| Ok(store.get(&key, Range::All).await?.to_vec()))
    }

    /// The last lineage's log, every object decoded and every hash checked. While a writer is
    /// busy, tails may go on growing: what was listed is read.
    pub fn log(&self) -> Result<Log> {
        self.ask(async |store| {
            let lineage = *ends::lineages(store).await?.last().context("no lineage")?;
            Log::read(store, lineage).await
        })
    }

    /// The highest position that the archive holds without a hole, on its newest timeline.
    pub fn end(&self) -> Result<(Timeline, Lsn)> {
        self.log()?.end()
    }

    /// The ledger's events.
    pub fn ledger(&self) -> Result<Vec<Event>> {
        self.ask(async |store| {
            let lineage = *ends::lineages(store).await?.last().context("no lineage")?;
            let entries = ledger::read(store, lineage).await?.entries;
            Ok(entries.into_iter().map(|entry| entry.event).collect())
        })
    }
}
