//! An object store in memory that holds every piece of log against the database's history as it
//! comes, and knows how far that history is covered without a hole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use proto::disk::Disk;
use proto::segment::{Footer, TailHeader, read_sealed, read_tail};
use proto::store::{Body, Key, LIST_PAGE_MAX, Object, Page, Put, Range, Store, StoreError};

use super::disk::SimDisk;
use super::fate::{Fate, Step};

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    /// Pieces that stand behind a hole, by their start.
    pieces: BTreeMap<u64, u64>,
    covered: u64,
    fate: Option<Arc<Fate>>,
}

#[derive(Debug)]
pub(super) struct MemoryStore {
    state: Mutex<State>,
    disk: SimDisk,
    /// Whose log it is, and where it begins.
    history: Arc<Vec<u8>>,
    begin: u64,
}

impl MemoryStore {
    pub(super) fn new(disk: SimDisk, history: Arc<Vec<u8>>, begin: u64) -> Self {
        let state = State { covered: begin, ..State::default() };
        Self { state: Mutex::new(state), disk, history, begin }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    pub(super) fn boot(&self, fate: Arc<Fate>) {
        self.state().fate = Some(fate);
    }

    /// The offset before which the store holds every byte.
    pub(super) fn covered(&self) -> u64 {
        self.state().covered
    }

    /// Compares a piece of log with the history and counts it.
    fn take(&self, key: &Key, object: &[u8]) {
        let (start, raw) = match key.as_str() {
            key if key.contains("/log/") => {
                let (footer, raw): (Footer, _) = read_sealed(object).expect("a whole segment");
                (footer.head.start.0, raw)
            }
            key if key.contains("/tail/") => {
                let (header, raw): (TailHeader, _) = read_tail(object).expect("a whole tail");
                (header.head.start.0 + header.raw_start, raw)
            }
            _ => return,
        };
        let from = usize::try_from(start - self.begin).expect("small");
        let written = self.history.get(from..from + raw.len());
        assert!(written == Some(&raw[..]), "{key} is not what the database wrote at {start}");
        let mut state = self.state();
        let end = start + raw.len() as u64;
        let known = state.pieces.entry(start).or_default();
        *known = end.max(*known);
        while let Some((&at, &end)) = state.pieces.range(..=state.covered).next_back() {
            state.covered = state.covered.max(end);
            state.pieces.remove(&at);
        }
    }

    /// Waits for ever once the machine is dead.
    async fn step(&self, doing: &str, key: &str) -> Step {
        let fate = self.state().fate.clone().expect("booted");
        let step = fate.step(doing, key);
        if step == Step::Dead {
            std::future::pending::<()>().await;
        }
        step
    }

    async fn end<T>(&self, step: Step, done: T) -> T {
        if step == Step::DoneAndDead {
            std::future::pending::<()>().await;
        }
        done
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put(&self, key: &Key, body: &Body) -> Result<Put, StoreError> {
        let bytes = match body {
            Body::Bytes(bytes) => bytes.clone(),
            Body::File { path, len } => {
                let failed = |source| StoreError::Io {
                    address: self.address(),
                    action: "read",
                    key: path.display().to_string(),
                    source,
                };
                let bytes = self.disk.read(path).map_err(failed)?;
                assert_eq!(bytes.len() as u64, *len, "{} was still written to", path.display());
                bytes.into()
            }
        };
        let step = self.step("put", key.as_str()).await;
        let free = !self.state().objects.contains_key(key.as_str());
        if free {
            self.take(key, &bytes);
            self.state().objects.insert(key.as_str().to_owned(), bytes);
        }
        self.end(step, Ok(if free { Put::Created } else { Put::Exists })).await
    }

    async fn get(&self, key: &Key, range: Range) -> Result<Bytes, StoreError> {
        let step = self.step("get", key.as_str()).await;
        let found = self.state().objects.get(key.as_str()).cloned();
        let absent = || StoreError::Absent { address: self.address(), key: key.clone() };
        let bytes = found.ok_or_else(absent)?;
        let size = bytes.len();
        let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(size);
        let wanted = match range {
            Range::All => 0..size,
            Range::At { offset, len } => small(offset)..small(offset.saturating_add(len)),
            Range::Last(len) => size - small(len)..size,
        };
        self.end(step, Ok(bytes.slice(wanted))).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let step = self.step("head", key.as_str()).await;
        let len = self.state().objects.get(key.as_str()).map(|bytes| bytes.len() as u64);
        self.end(step, Ok(len)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let step = self.step("list", prefix).await;
        let page = {
            let state = self.state();
            let from = after.map_or_else(|| prefix.to_owned(), |after| format!("{after}\0"));
            let from = from.max(prefix.to_owned());
            let mut below =
                state.objects.range(from..).take_while(|(key, _)| key.starts_with(prefix));
            let object = |(key, bytes): (&String, &Bytes)| Object {
                key: Key::new(key.clone()),
                bytes: bytes.len() as u64,
            };
            let objects = below.by_ref().take(LIST_PAGE_MAX).map(object).collect();
            Page { objects, more: below.next().is_some() }
        };
        self.end(step, Ok(page)).await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let step = self.step("folders", folder).await;
        let mut found: Vec<String> = Vec::new();
        for key in self.state().objects.keys() {
            let below = key.strip_prefix(folder).and_then(|rest| rest.split_once('/'));
            if let Some((name, _)) = below
                && found.last().is_none_or(|last| last != name)
            {
                found.push(name.to_owned());
            }
        }
        self.end(step, Ok(found)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let step = self.step("delete", key.as_str()).await;
        self.state().objects.remove(key.as_str());
        self.end(step, Ok(())).await
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_in_memory_does_what_every_store_must() {
        let (disk, fate) = (SimDisk::default(), Arc::new(Fate::new(u64::MAX, 0)));
        disk.boot(fate.clone(), 1 << 30);
        let store = MemoryStore::new(disk, Arc::default(), 0);
        store.boot(fate);
        let store: Arc<dyn Store> = Arc::new(store);
        for (at, text) in ["lineage/1/x", "lineage/1/y/z", "lineage/10/a", "b"].iter().enumerate() {
            let put = store.put(&Key::new(*text), &Body::from(vec![7; at])).await;
            assert_eq!(put.expect("put"), Put::Created);
        }
        let taken = store.put(&Key::new("b"), &Body::from(vec![1])).await.expect("put");
        assert_eq!(taken, Put::Exists);
        let all = proto::store::list_all(&*store, "lineage/1").await.expect("listed");
        assert_eq!(all.len(), 3);
        let after = store.list("lineage/1", Some("lineage/1/y/z")).await.expect("listed");
        assert_eq!(after.objects.len(), 1);
        assert_eq!(store.folders("lineage/").await.expect("folders"), ["1", "10"]);
        let last = store.get(&Key::new("b"), Range::Last(2)).await.expect("read");
        assert_eq!(last, [7, 7][..]);
        assert!(store.get(&Key::new("c"), Range::All).await.is_err_and(|e| e.is_absent()));
    }
}
