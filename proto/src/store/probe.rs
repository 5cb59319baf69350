//! What a store really does, tried on canary objects.
//!
//! Enters: a store and a prefix for canaries. Leaves: [`Features`], to be recorded in the archive
//! and compared with what is needed. After a crash some tiny objects remain below the prefix.

use std::sync::Arc;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::{Body, Class, Key, Put, Range, Store, StoreError};

/// How many writers race for one key.
const RACERS: usize = 8;
/// How often a racer asks again that was told to.
const RACE_ATTEMPTS_MAX: u32 = 5;

/// What works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// A key is taken once: a second put changes nothing and says so, and of racing puts one wins.
    /// Without it nothing keeps two writers apart.
    pub create_if_absent: bool,
    /// Bytes whose checksum is wrong are refused; `None` where no network lies between.
    pub checksums: Option<bool>,
    /// Parts of an object can be read.
    pub ranges: bool,
    /// The last bytes of an object can be read without knowing its size.
    pub suffix_ranges: bool,
    /// Keys are listed in the order of their bytes, and a listing shows what was just put.
    pub listing: bool,
    /// Objects may be deleted with these credentials. Only `prune` needs it.
    pub delete: bool,
}

impl Features {
    /// What is missing, in words for people.
    pub fn missing(&self) -> Vec<&'static str> {
        [
            (!self.create_if_absent, "create-if-absent: two writers cannot be kept apart"),
            (self.checksums == Some(false), "checksums: bytes damaged on the way are not noticed"),
            (!self.ranges, "range reads"),
            (!self.suffix_ranges, "suffix range reads"),
            (!self.listing, "listings in key order that show every object"),
        ]
        .into_iter()
        .filter_map(|(lacking, what)| lacking.then_some(what))
        .collect()
    }
}

/// Tries everything on new objects below `prefix` (empty, or ending in a slash).
///
/// # Errors
/// When the store cannot be reached or written to: that is no missing feature.
pub async fn probe(store: &Arc<dyn Store>, prefix: &str) -> Result<Features, StoreError> {
    let canaries = Canaries {
        store: store.clone(),
        folder: format!("{prefix}{:016x}/", rand::random::<u64>()),
    };
    let found = canaries.features().await;
    let delete = canaries.remove().await?;
    Ok(Features { delete, ..found? })
}

struct Canaries {
    store: Arc<dyn Store>,
    folder: String,
}

const ONCE: &str = "once";
const RACE: &str = "race";
const CHECKSUM: &str = "checksum";
/// In key order; a store that keeps folders lists them otherwise.
const ORDERED: [&str; 3] = ["order-a", "order.b", "order/c"];

impl Canaries {
    fn key(&self, name: &str) -> Key {
        Key::new(format!("{}{name}", self.folder))
    }

    async fn features(&self) -> Result<Features, StoreError> {
        Ok(Features {
            create_if_absent: self.creates_once().await? && self.one_racer_wins().await?,
            checksums: self.store.refuses_wrong_checksum(&self.key(CHECKSUM)).await?,
            ranges: self.reads(Range::At { offset: 2, len: 3 }, "234").await?,
            suffix_ranges: self.reads(Range::Last(3), "789").await?,
            listing: self.lists().await?,
            delete: false,
        })
    }

    async fn creates_once(&self) -> Result<bool, StoreError> {
        let key = self.key(ONCE);
        let first = self.store.put(&key, &Body::Bytes("0123456789".into())).await?;
        let second = self.store.put(&key, &Body::Bytes("another".into())).await?;
        let kept = self.store.get(&key, Range::All).await?;
        Ok((first, second) == (Put::Created, Put::Exists) && kept == "0123456789")
    }

    async fn one_racer_wins(&self) -> Result<bool, StoreError> {
        let key = self.key(RACE);
        let race = join_all((0..RACERS).map(|racer| {
            let (store, key) = (self.store.clone(), key.clone());
            async move {
                let body = Body::from(vec![b'0' + u8::try_from(racer).unwrap_or_default()]);
                let mut attempts = 0;
                loop {
                    attempts += 1;
                    match store.put(&key, &body).await {
                        // A store may answer a race with "conflict, ask again".
                        Err(e) if e.class() == Class::Retry && attempts < RACE_ATTEMPTS_MAX => {}
                        done => return done,
                    }
                }
            }
        }))
        .await;
        let mut won = 0;
        for put in race {
            won += u32::from(put? == Put::Created);
        }
        Ok(won == 1)
    }

    async fn reads(&self, range: Range, expected: &str) -> Result<bool, StoreError> {
        match self.store.get(&self.key(ONCE), range).await {
            Ok(bytes) => Ok(bytes == expected.as_bytes()),
            Err(StoreError::Answer { class: Class::Config, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn lists(&self) -> Result<bool, StoreError> {
        for name in ORDERED {
            self.store.put(&self.key(name), &Body::Bytes("x".into())).await?;
        }
        let prefix = format!("{}order", self.folder);
        let page = self.store.list(&prefix, None).await?;
        let after = self.store.list(&prefix, Some(self.key(ORDERED[0]).as_str())).await?;
        let expected = ORDERED.map(|name| self.key(name));
        let keys: Vec<&Key> = page.objects.iter().map(|object| &object.key).collect();
        Ok(keys.iter().copied().eq(&expected) && after.objects.len() == ORDERED.len() - 1)
    }

    /// Whether what was created may be deleted again.
    async fn remove(&self) -> Result<bool, StoreError> {
        for name in [ONCE, RACE, CHECKSUM].into_iter().chain(ORDERED) {
            match self.store.delete(&self.key(name)).await {
                Ok(()) => {}
                Err(error) if error.class() == Class::Config => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(self.store.head(&self.key(ONCE)).await?.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::{Fault, FaultStore, Kind, Op, Rule};
    use super::super::folder::FolderStore;
    use super::super::{Access, list_all};
    use super::*;

    #[tokio::test]
    async fn a_folder_has_everything_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let folder = FolderStore::open(dir.path(), Access::ReadWrite).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(folder);
        let features = probe(&store, "probe/").await.unwrap();
        assert_eq!(features.missing(), Vec::<&str>::new());
        assert!(features.delete && features.checksums.is_none());
        assert_eq!(list_all(&*store, "").await.unwrap(), []);
        let json = serde_json::to_string(&features).unwrap();
        assert_eq!(serde_json::from_str::<Features>(&json).unwrap(), features);
    }

    #[tokio::test]
    async fn a_missing_feature_is_named_and_a_store_that_is_away_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let folder = FolderStore::open(dir.path(), Access::ReadWrite).await.unwrap();
        let (store, faults) = FaultStore::new(Arc::new(folder), 1);
        let store: Arc<dyn Store> = store;
        faults.script(Rule::once(Op::List, Fault::HideNewest(1)));
        let features = probe(&store, "probe/").await.unwrap();
        assert_eq!(features.missing().len(), 1);
        assert!(!features.listing);
        assert_eq!(faults.fired(Kind::HideNewest), 1);
        faults.set_away(true);
        assert_eq!(probe(&store, "probe/").await.unwrap_err().class(), Class::Retry);
    }
}
