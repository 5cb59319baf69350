//! Reading the small objects of an archive: identity, histories, ledger, bases.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Base, Catalog, CatalogError, Damage, PatientStore, log, read};
use proto::archive::identity::Identity;
use proto::archive::layout::Lineage;
use proto::archive::ledger::{self, Entry};
use proto::archive::{ArchiveError, base::Complete, ends, from_json};
use proto::postgres::history::History;
use proto::postgres::lsn::{SegmentSize, Timeline};
use proto::segment::Engine;
use proto::store::{Access, Range, Store, StoreError, list_all, url};

/// How many requests are under way at once.
pub(super) const REQUESTS_AT_ONCE: usize = 8;
/// A person waits: about ten seconds of asking again.
const PATIENCE: u32 = 8;

impl Catalog {
    /// Opens the archive at `address`, for reading only.
    ///
    /// # Errors
    /// When there is no archive there, or it cannot be read.
    pub async fn open(address: &str, lineage: Option<u32>) -> Result<Self, CatalogError> {
        Self::read(patient(address).await?, lineage).await
    }

    /// Reads the archive in `store`: the lineage named, or the highest that has an identity.
    ///
    /// # Errors
    /// When there is no archive there, or it cannot be read.
    pub async fn read(store: Arc<dyn Store>, lineage: Option<u32>) -> Result<Self, CatalogError> {
        let lineages = ends::lineages(&*store).await?;
        let (lineage, identity) = choose(&*store, &lineages, lineage).await?;
        check_readable(&*store, &identity)?;
        let mut damage = Vec::new();
        // The log goes last: what stands in it is at least as new as everything else.
        let histories = histories(&*store, lineage, &mut damage).await?;
        let ledger = ledger(&*store, lineage, &mut damage).await?;
        let (bases, unfinished) = bases(&*store, lineage, identity.engine, &mut damage).await?;
        let size = identity.postgres().map_or(SegmentSize::DEFAULT, |p| p.segment_bytes);
        let logs = log::read(&*store, lineage, size, &mut damage).await?;
        let cache = read::Cache::default();
        Ok(Self {
            store,
            lineages,
            lineage,
            identity,
            histories,
            ledger,
            bases,
            unfinished,
            logs,
            damage,
            cache,
            searched: super::search::Searched::default(),
        })
    }
}

/// The store of an archive, for reading only.
pub(super) async fn patient(address: &str) -> Result<Arc<dyn Store>, CatalogError> {
    let store = url::open(address, Access::ReadOnly).await.map_err(|error| match error {
        StoreError::NoRoot { address } => CatalogError::NoArchive { address },
        error => error.into(),
    })?;
    Ok(Arc::new(PatientStore::new(store, PATIENCE)))
}

pub(super) async fn choose(
    store: &dyn Store,
    lineages: &[Lineage],
    wanted: Option<u32>,
) -> Result<(Lineage, Identity), CatalogError> {
    let candidates: Vec<Lineage> = match wanted {
        Some(number) => vec![Lineage(number)],
        None => lineages.iter().rev().copied().collect(),
    };
    for lineage in candidates {
        let identity = ends::identity(store, lineage).await.map_err(|error| match error {
            ArchiveError::Newer { found, known, .. } => CatalogError::Format { found, known },
            error => error.into(),
        })?;
        if let Some(identity) = identity {
            return Ok((lineage, identity));
        }
    }
    let address = store.address();
    Err(match wanted {
        Some(lineage) if !lineages.is_empty() => {
            let found = lineages.iter().map(|lineage| lineage.0).collect();
            CatalogError::NoLineage { address, lineage, found }
        }
        _ => CatalogError::NoArchive { address },
    })
}

fn check_readable(store: &dyn Store, identity: &Identity) -> Result<(), CatalogError> {
    if identity.engine != Engine::Postgresql || identity.postgres().is_none() {
        let address = store.address();
        return Err(CatalogError::Engine { address, engine: identity.engine });
    }
    Ok(())
}

async fn histories(
    store: &dyn Store,
    lineage: Lineage,
    damage: &mut Vec<Damage>,
) -> Result<BTreeMap<Timeline, History>, CatalogError> {
    let mut found = BTreeMap::new();
    for object in list_all(store, &lineage.epochs()).await? {
        let Some(timeline) = History::parse_name(object.key.name()) else { continue };
        let raw = store.get(&object.key, Range::All).await?;
        match History::parse(timeline, raw) {
            Ok(history) => drop(found.insert(timeline, history)),
            Err(error) => {
                let (key, detail) = (object.key.to_string(), error.to_string());
                damage.push(Damage { key, detail });
            }
        }
    }
    Ok(found)
}

/// The ledger's entries that can be read: nothing that a restore needs stands in it alone.
pub(super) async fn ledger(
    store: &dyn Store,
    lineage: Lineage,
    damage: &mut Vec<Damage>,
) -> Result<Vec<Entry>, CatalogError> {
    let read = ledger::read(store, lineage).await?;
    let damaged = read.damaged.into_iter();
    damage.extend(damaged.map(|entry| Damage { key: entry.key.to_string(), detail: entry.detail }));
    Ok(read.entries)
}

pub(super) async fn bases(
    store: &dyn Store,
    lineage: Lineage,
    engine: Engine,
    damage: &mut Vec<Damage>,
) -> Result<(Vec<Base>, Vec<String>), CatalogError> {
    let ids = store.folders(&lineage.bases()).await?;
    let read: Vec<(String, Result<Option<Complete>, ArchiveError>)> = stream::iter(ids)
        .map(|id| async move {
            let key = lineage.base_complete(&id);
            let complete = match store.get(&key, Range::All).await {
                Ok(bytes) => from_json(&key, &bytes).map(Some),
                Err(error) if error.is_absent() => Ok(None),
                Err(error) => return Err(CatalogError::from(error)),
            };
            Ok((id, complete))
        })
        .buffered(REQUESTS_AT_ONCE)
        .try_collect()
        .await?;
    let (mut bases, mut unfinished) = (Vec::new(), Vec::new());
    for (id, complete) in read {
        let key = lineage.base_complete(&id).to_string();
        match complete {
            Ok(Some(complete)) if complete.id == id && complete.is_of(engine) => {
                bases.push(Base { complete });
            }
            Ok(Some(complete)) if complete.id == id => {
                damage.push(Damage { key, detail: format!("it is no base of {engine}") });
            }
            Ok(Some(complete)) => {
                let detail = format!("it is the completion of another base, {}", complete.id);
                damage.push(Damage { key, detail });
            }
            Ok(None) => unfinished.push(id),
            Err(error) => damage.push(Damage::of(key, &error.into())),
        }
    }
    bases.sort_by_key(|base| {
        let stop = base.complete.postgres.as_ref().map(|postgres| postgres.stop);
        (stop, base.complete.finished)
    });
    Ok((bases, unfinished))
}

/// An error with its causes on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
