//! A store that is asked again before a person is told that it failed: reading only.
//!
//! Enters: a read that may fail for a moment. Leaves: its answer, or the failure that lasted. A
//! put or delete is refused here: whoever restores never writes into an archive.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use proto::store::retry::Backoff;
use proto::store::{Body, Class, Key, Page, Put, Range, Store, StoreError};

/// Reads through another store, with patience.
#[derive(Debug)]
pub struct PatientStore {
    inner: Arc<dyn Store>,
    attempts: u32,
}

/// The attempts at one read.
struct Patience {
    backoff: Backoff,
    left: u32,
}

impl PatientStore {
    /// Asks at most `attempts` times in all, with exponential waits.
    pub fn new(inner: Arc<dyn Store>, attempts: u32) -> Self {
        Self { inner, attempts }
    }

    fn patience(&self) -> Patience {
        Patience { backoff: Backoff::new(), left: self.attempts.saturating_sub(1) }
    }

    fn refused(&self, action: &'static str, key: &Key) -> StoreError {
        let source = std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem);
        let (address, key) = (self.inner.address(), key.as_str().to_owned());
        StoreError::Io { address, action, key, source }
    }
}

impl Patience {
    /// Waits before another attempt; gives the error back when there is none left, or when asking
    /// again would not help.
    async fn after(&mut self, error: StoreError) -> Result<(), StoreError> {
        if error.class() != Class::Retry || self.left == 0 {
            return Err(error);
        }
        self.left -= 1;
        let wait = self.backoff.next_wait();
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(%error, wait_ms, "asking the store again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

// A closure that lends its arguments to a future is not `Send` for every lifetime, as far as the
// compiler can tell (rust-lang/rust#100013): the loop stands here once a method.
macro_rules! ask {
    ($self:ident, $call:expr) => {{
        let mut patience = $self.patience();
        loop {
            match $call.await {
                Ok(answer) => break Ok(answer),
                Err(error) => patience.after(error).await?,
            }
        }
    }};
}

#[async_trait]
impl Store for PatientStore {
    async fn put(&self, key: &Key, _body: &Body) -> Result<Put, StoreError> {
        Err(self.refused("put", key))
    }

    async fn get(&self, key: &Key, range: Range) -> Result<Bytes, StoreError> {
        ask!(self, self.inner.get(key, range))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        ask!(self, self.inner.head(key))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        ask!(self, self.inner.list(prefix, after))
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        ask!(self, self.inner.folders(folder))
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        Err(self.refused("delete", key))
    }

    fn address(&self) -> String {
        self.inner.address()
    }
}
