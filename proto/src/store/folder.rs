//! Objects as plain files below a root folder.
//!
//! Enters: keys and bodies. Leaves: durable files under exactly those names. A body is written to
//! `<root>/.tmp/`, fsynced, and given its name by a rename that never replaces; then the folder is
//! fsynced. After a crash at any line an object is whole or absent; what lies in `.tmp` is nobody's,
//! no listing shows it, and a later open that may write removes it once it is old.

mod walk;
mod write;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Access, Body, Key, Page, Put, Range, Store, StoreError};
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, SystemDisk};

/// Where unfinished files lie, below the root.
const TEMP: &str = ".tmp";
/// A temporary file older than this belongs to a writer that is gone. Removing one that is still
/// being written costs its writer a retry, never an object: the rename fails.
const TEMP_AGE_MAX_MICROS: i64 = 24 * 3600 * 1_000_000;

/// A store in a folder of this machine, or of a network file system mounted here.
#[derive(Debug, Clone)]
pub struct FolderStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    access: Access,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    temps: AtomicU64,
    /// Folders that this process has made durable in their parents, up to the root's parent. A
    /// folder that another process made just before it died may not be, so each is fsynced once.
    durable: Mutex<HashSet<PathBuf>>,
    /// Whether an object was ever seen: from then on an empty root is an unmounted one.
    seen: AtomicBool,
}

impl FolderStore {
    /// Opens a folder of this machine's file system. Nothing is created before the first put.
    ///
    /// # Errors
    /// When it is to be read only and is not there, or is not a folder.
    pub async fn open(root: impl Into<PathBuf>, access: Access) -> Result<Self, StoreError> {
        Self::open_on(root, access, Arc::new(SystemDisk), Arc::new(SystemClock::new())).await
    }

    /// Opens a folder of another [`Disk`].
    ///
    /// # Errors
    /// As [`FolderStore::open`].
    pub async fn open_on(
        root: impl Into<PathBuf>,
        access: Access,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let inner = Inner {
            root: root.into(),
            access,
            disk,
            clock,
            temps: AtomicU64::new(0),
            durable: Mutex::default(),
            seen: AtomicBool::new(false),
        };
        let store = Self { inner: Arc::new(inner) };
        store.blocking(Inner::check_root).await?;
        Ok(store)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is being shut down cancels blocking work.
                Err(_) => Err(StoreError::Unreachable {
                    address: self.address(),
                    action: "use",
                    key: String::new(),
                    detail: "the process is ending".to_owned(),
                    class: super::Class::Retry,
                }),
            },
        }
    }
}

#[async_trait]
impl Store for FolderStore {
    async fn put(&self, key: &Key, body: &Body) -> Result<Put, StoreError> {
        let (key, body) = (key.clone(), body.clone());
        self.blocking(move |inner| inner.put(&key, &body)).await
    }

    async fn get(&self, key: &Key, range: Range) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.blocking(move |inner| inner.get(&key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let key = key.clone();
        self.blocking(move |inner| inner.head(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking(move |inner| inner.list(&prefix, after.as_deref())).await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let folder = folder.to_owned();
        self.blocking(move |inner| inner.folders(&folder)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let key = key.clone();
        self.blocking(move |inner| inner.delete(&key)).await
    }

    fn address(&self) -> String {
        self.inner.address()
    }
}

impl Inner {
    fn address(&self) -> String {
        self.root.display().to_string()
    }

    fn failed(&self, action: &'static str, key: &str, source: io::Error) -> StoreError {
        StoreError::Io { address: self.address(), action, key: key.to_owned(), source }
    }

    fn refused(&self, detail: impl Into<String>) -> StoreError {
        StoreError::Address { address: self.address(), detail: detail.into() }
    }

    fn check_root(&self) -> Result<(), StoreError> {
        match self.disk.len(&self.root) {
            Ok(_) => return Err(self.refused("is a file, not a folder")),
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.access == Access::ReadOnly => {
                return Err(StoreError::NoRoot { address: self.address() });
            }
            Err(_) => {}
        }
        if self.access == Access::ReadWrite {
            self.sweep();
        }
        Ok(())
    }

    /// Removes what crashed writers left behind. Failing to is no reason not to open.
    fn sweep(&self) {
        let temp = self.root.join(TEMP);
        let oldest = self.clock.wall().0 - TEMP_AGE_MAX_MICROS;
        for entry in self.disk.list(&temp).unwrap_or_default() {
            let born =
                entry.name.split('-').next().and_then(|hex| i64::from_str_radix(hex, 16).ok());
            if !entry.is_dir && born.is_some_and(|born| born < oldest) {
                let _ = self.disk.remove(&temp.join(&entry.name));
            }
        }
    }

    fn path(&self, key: &Key) -> Result<PathBuf, StoreError> {
        if key.as_str() == TEMP || key.as_str().starts_with(".tmp/") {
            return Err(self.refused(format!("the key {key} is kept for unfinished files")));
        }
        Ok(self.root.join(key.as_str()))
    }

    fn put(&self, key: &Key, body: &Body) -> Result<Put, StoreError> {
        if self.access == Access::ReadOnly {
            return Err(self.refused(format!("opened for reading only: {key} cannot be written")));
        }
        let to = self.path(key)?;
        let folder = to.parent().unwrap_or(&self.root);
        let put = self
            .make_durable(folder)
            .and_then(|()| self.place(&to, body))
            .and_then(|put| {
                // Also when the name was taken: whoever took it may have died before its fsync,
                // and the caller counts an equal object as durable. Metadata goes through the
                // journal, which a failed write stops, so asking again cannot lie as it does
                // for a file's data.
                self.disk.sync_dir(folder)?;
                Ok(put)
            })
            .map_err(|e| {
                if e.kind() == io::ErrorKind::NotFound {
                    // Somebody removed a folder underneath us: the next attempt makes it anew.
                    self.durable.lock().expect("no panic while held").clear();
                }
                self.failed("put", key.as_str(), e)
            })?;
        self.seen.store(true, Ordering::Relaxed);
        Ok(put)
    }

    fn get(&self, key: &Key, range: Range) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let read = match range {
            Range::All => self.disk.read(&path),
            Range::At { offset, len } => self.read_at(&path, offset, len),
            Range::Last(len) => self
                .disk
                .len(&path)
                .and_then(|size| self.read_at(&path, size.saturating_sub(len), len)),
        };
        match read {
            Ok(bytes) => {
                self.seen.store(true, Ordering::Relaxed);
                Ok(bytes.into())
            }
            Err(e) if is_absent(&e) => {
                self.still_there("get", key.as_str())?;
                Err(StoreError::Absent { address: self.address(), key: key.clone() })
            }
            Err(e) => Err(self.failed("get", key.as_str(), e)),
        }
    }

    fn read_at(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        // A folder can be opened and even read in part: ask what it is first.
        self.disk.len(path)?;
        self.disk.read_at(path, offset, usize::try_from(len).unwrap_or(usize::MAX))
    }

    fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        match self.disk.len(&self.path(key)?) {
            Ok(len) => {
                self.seen.store(true, Ordering::Relaxed);
                Ok(Some(len))
            }
            Err(e) if is_absent(&e) => self.still_there("head", key.as_str()).map(|()| None),
            Err(e) => Err(self.failed("head", key.as_str(), e)),
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let found = walk::page(&*self.disk, &self.root, prefix, after, super::LIST_PAGE_MAX)
            .map_err(|e| self.failed("list", &format!("{prefix}*"), e))?;
        self.noted(found.objects.is_empty(), "list", prefix)?;
        Ok(found)
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let found = walk::folders(&*self.disk, &self.root, folder)
            .map_err(|e| self.failed("list", &format!("{folder}*"), e))?;
        self.noted(found.is_empty(), "list", folder)?;
        Ok(found)
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        if self.access == Access::ReadOnly {
            return Err(self.refused(format!("opened for reading only: {key} cannot be deleted")));
        }
        let path = self.path(key)?;
        let removed = match self.disk.remove(&path) {
            Ok(()) => self.disk.sync_dir(path.parent().unwrap_or(&self.root)),
            Err(e) if is_absent(&e) => Ok(()),
            Err(e) => Err(e),
        };
        removed.map_err(|e| self.failed("delete", key.as_str(), e))
    }

    fn noted(&self, empty: bool, action: &'static str, key: &str) -> Result<(), StoreError> {
        if empty {
            return self.still_there(action, key);
        }
        self.seen.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// "Nothing there" is only believed while the root is: a file system that was unmounted
    /// underneath us must not read as an archive that ends here.
    fn still_there(&self, action: &'static str, key: &str) -> Result<(), StoreError> {
        if !self.seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let entries = self.disk.list(&self.root).map_err(|e| self.failed(action, key, e))?;
        if entries.iter().any(|entry| entry.name != TEMP) {
            return Ok(());
        }
        Err(StoreError::Unreachable {
            address: self.address(),
            action,
            key: key.to_owned(),
            detail: "the folder was full of objects and is now empty or gone; was it unmounted?"
                .to_owned(),
            class: super::Class::Retry,
        })
    }
}

fn is_absent(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

#[cfg(test)]
mod tests;
