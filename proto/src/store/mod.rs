//! Where an archive lies: objects under keys, created once and never overwritten.
//!
//! Enters: a key and a re-openable body. Leaves: [`Put::Created`] once the object is durable, or
//! [`Put::Exists`] when the key is taken (by whatever: the caller compares). After a crash at any
//! line an object is whole or absent, never short.

pub mod url;
pub mod folder;
pub mod s3;
pub mod retry;
pub mod probe;
pub mod fault;
pub mod conformance;

mod error;

pub use error::{Class, StoreError};

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;

/// A key relative to the archive's root: `lineage/1/log/…`. Never empty, no leading slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// # Panics
    /// When the key is empty, absolute, or has an empty, `.` or `..` part: keys are built by us.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self::parse(&text).unwrap_or_else(|| panic!("bad key {text:?}"))
    }

    /// `None` for what can be no key of ours, such as the `folder/` objects that consoles make.
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |part: &str| !part.is_empty() && part != "." && part != "..";
        text.split('/').all(legal).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last slash.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is written: readable again from its first byte, so that a retry never sends a rest.
#[derive(Debug, Clone)]
pub enum Body {
    Bytes(Bytes),
    /// A finished, fsynced file of exactly `len` bytes. A folder store on the same file system
    /// takes it by a hard link; the caller must never write to it again.
    File {
        path: PathBuf,
        len: u64,
    },
}

impl Body {
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is durable, and it is ours.
    Created,
    /// The key was taken before; nothing was written. It may be our own earlier attempt whose
    /// answer was lost: the caller reads and compares.
    Exists,
}

/// Which bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    All,
    /// From `offset`, at most `len` bytes.
    At {
        offset: u64,
        len: u64,
    },
    /// The last `len` bytes, or the whole object when it is shorter.
    Last(u64),
}

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub key: Key,
    pub bytes: u64,
}

/// Some objects, in the order of their keys' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<Object>,
    /// Whether more follow after the last one.
    pub more: bool,
}

/// The most objects that one page holds.
pub const LIST_PAGE_MAX: usize = 1000;

/// Whether a store may be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    /// Nothing is ever created, swept or removed; a put is refused.
    ReadOnly,
}

/// An object store. Every call makes one attempt, over a network with a deadline of its own;
/// retrying is the caller's, by [`StoreError::class`].
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Creates the object if its key is free; whatever stands under the key is durable when this
    /// returns [`Put::Created`] or [`Put::Exists`].
    async fn put(&self, key: &Key, body: &Body) -> Result<Put, StoreError>;

    /// The bytes of an object, checked against the store's own checksum when read whole.
    /// [`Class::Absent`] when there is none; a range that begins at or beyond the end is empty.
    async fn get(&self, key: &Key, range: Range) -> Result<Bytes, StoreError>;

    /// The size of an object, or `None` when there is none.
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError>;

    /// Objects whose key begins with `prefix` and sorts after `after`, at any depth, one page.
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError>;

    /// The names directly below `folder` (`a/b/`: empty for the root, else with its slash) that have
    /// something below them in turn; in the order of their keys. One request a thousand names. A
    /// store may name a folder a little longer than its last object lives.
    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError>;

    /// Removes an object; no error when it is absent.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// Whether the store refuses bytes that do not have the checksum sent with them, tried on an
    /// object that it should not take; `None` where no network lies between.
    async fn refuses_wrong_checksum(&self, _key: &Key) -> Result<Option<bool>, StoreError> {
        Ok(None)
    }

    /// The archive's address as people write it, without secrets.
    fn address(&self) -> String;
}

/// Every object below `prefix`, page by page.
///
/// # Errors
/// Whatever a page's request fails with.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Object>, StoreError> {
    list_after(store, prefix, None).await
}

/// Every object below `prefix` whose key sorts after `after`.
///
/// # Errors
/// Whatever a page's request fails with.
pub async fn list_after(
    store: &dyn Store,
    prefix: &str,
    after: Option<&str>,
) -> Result<Vec<Object>, StoreError> {
    let mut found: Vec<Object> = Vec::new();
    let mut after = after.map(str::to_owned);
    loop {
        let page = store.list(prefix, after.as_deref()).await?;
        let more = page.more && !page.objects.is_empty();
        found.extend(page.objects);
        if !more {
            return Ok(found);
        }
        after = found.last().map(|object| object.key.as_str().to_owned());
    }
}
