//! The store as one machine sees it: as long as it lives and is awake.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proto::disk::Disk;
use proto::store::{Body, Class, Key, Page, Put, Range, Store, StoreError};

use super::disk::SimDisk;
use super::fate::{Fate, Step};
use super::store::{Doing, MemoryStore};

/// One machine's side of the store.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) store: Arc<MemoryStore>,
    pub(super) disk: SimDisk,
    pub(super) fate: Arc<Fate>,
}

impl Client {
    /// Waits for ever once the machine is dead.
    async fn step(&self, doing: &str, key: &str) -> Step {
        self.fate.awake().await;
        let step = self.fate.step(doing, key);
        if step == Step::Dead {
            std::future::pending::<()>().await;
        }
        step
    }

    /// An answer reaches who lives, once it is awake.
    async fn end<T>(&self, step: Step, done: T) -> T {
        if step == Step::DoneAndDead {
            std::future::pending::<()>().await;
        }
        self.fate.awake().await;
        done
    }

    fn read(&self, body: &Body) -> Result<Bytes, StoreError> {
        match body {
            Body::Bytes(bytes) => Ok(bytes.clone()),
            Body::File { path, len } => {
                let failed = |source| StoreError::Io {
                    address: self.address(),
                    action: "read",
                    key: path.display().to_string(),
                    source,
                };
                let bytes = self.disk.read(path).map_err(failed)?;
                assert_eq!(bytes.len() as u64, *len, "{} was still written to", path.display());
                Ok(bytes.into())
            }
        }
    }

    fn absent(&self, key: &Key) -> StoreError {
        StoreError::Absent { address: self.address(), key: key.clone() }
    }
}

#[async_trait]
impl Store for Client {
    async fn put(&self, key: &Key, body: &Body) -> Result<Put, StoreError> {
        let bytes = self.read(body)?;
        let step = self.step("put", key.as_str()).await;
        let done = match self.store.receive(key, &bytes) {
            Doing::Done(put) => Ok(put),
            Doing::Refused(error) => Err(error),
            Doing::Late(wait) => {
                let (store, late) = (self.store.clone(), key.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    store.put(&late, &bytes);
                });
                Err(StoreError::Unreachable {
                    address: self.address(),
                    action: "put",
                    key: key.to_string(),
                    detail: "no answer in time".to_owned(),
                    class: Class::Retry,
                })
            }
        };
        self.end(step, done).await
    }

    async fn get(&self, key: &Key, range: Range) -> Result<Bytes, StoreError> {
        let step = self.step("get", key.as_str()).await;
        let done = self.store.get(key).ok_or_else(|| self.absent(key)).map(|bytes| {
            let size = bytes.len();
            let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(size);
            bytes.slice(match range {
                Range::All => 0..size,
                Range::At { offset, len } => small(offset)..small(offset.saturating_add(len)),
                Range::Last(len) => size - small(len)..size,
            })
        });
        self.end(step, done).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let step = self.step("head", key.as_str()).await;
        let len = self.store.get(key).map(|bytes| bytes.len() as u64);
        self.end(step, Ok(len)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let step = self.step("list", prefix).await;
        let page = self.store.list(prefix, after);
        self.end(step, Ok(page)).await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let step = self.step("folders", folder).await;
        let found = self.store.folders(folder);
        self.end(step, Ok(found)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let step = self.step("delete", key.as_str()).await;
        self.store.remove(key);
        self.end(step, Ok(())).await
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::Lag;
    use super::super::written::Written;
    use super::*;

    fn client() -> (Arc<MemoryStore>, Arc<dyn Store>) {
        let fate = Arc::new(Fate::new(u64::MAX, 0));
        let store = MemoryStore::new(Written::new(0, 1, Vec::new()), 1);
        let disk = SimDisk::default().boot(fate.clone(), 1 << 30);
        (store.clone(), Arc::new(Client { store, disk, fate }))
    }

    async fn put(store: &dyn Store, key: &str, bytes: Vec<u8>) -> Result<Put, StoreError> {
        store.put(&Key::new(key), &Body::from(bytes)).await
    }

    #[tokio::test]
    async fn a_store_in_memory_does_what_every_store_must() {
        let (_, store) = client();
        for (at, text) in ["lineage/1/x", "lineage/1/y/z", "lineage/10/a", "b"].iter().enumerate() {
            assert_eq!(put(&*store, text, vec![7; at]).await.expect("put"), Put::Created);
        }
        assert_eq!(put(&*store, "b", vec![1]).await.expect("put"), Put::Exists);
        let all = proto::store::list_all(&*store, "lineage/1").await.expect("listed");
        assert_eq!(all.len(), 3);
        let after = store.list("lineage/1", Some("lineage/1/y/z")).await.expect("listed");
        assert_eq!(after.objects.len(), 1);
        assert_eq!(store.folders("lineage/").await.expect("folders"), ["1", "10"]);
        let last = store.get(&Key::new("b"), Range::Last(2)).await.expect("read");
        assert_eq!(last, [7, 7][..]);
        assert!(store.get(&Key::new("c"), Range::All).await.is_err_and(|e| e.is_absent()));
    }

    #[tokio::test]
    async fn a_body_that_is_spoilt_on_its_way_is_refused_and_leaves_nothing() {
        let (memory, store) = client();
        memory.spoil(1.0);
        for n in 0..50 {
            let refused = put(&*store, "a", vec![n; 100]).await.expect_err("refused");
            assert_eq!(refused.class(), Class::Retry);
        }
        memory.heal();
        assert_eq!(put(&*store, "a", vec![1; 100]).await.expect("put"), Put::Created);
    }

    #[tokio::test]
    async fn a_listing_that_lags_lacks_the_newest_keys_until_it_is_healed() {
        let (memory, store) = client();
        for key in ["a/1", "a/2", "b/1"] {
            put(&*store, key, vec![1]).await.expect("put");
        }
        memory.lag(Lag { newest: 2, holes: false });
        let listed = proto::store::list_all(&*store, "").await.expect("listed");
        assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a/1"]);
        assert_eq!(store.folders("").await.expect("folders"), ["a"]);
        assert_eq!(store.head(&Key::new("b/1")).await.expect("asked"), Some(1));
        memory.heal();
        assert_eq!(proto::store::list_all(&*store, "").await.expect("listed").len(), 3);
    }
}
