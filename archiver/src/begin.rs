//! Before the first byte: is this our archive, and if there is none yet, begin it.
//!
//! Enters: a store, and what a source says of its database. Leaves: a lineage that is ours to write.
//! Everything that can be refused is refused before the identity exists; a crash in between leaves
//! at most canaries, which the next start takes over.

use proto::archive::identity::{Identity, MongoIdentity, PostgresIdentity};
use proto::archive::layout::{self, Lineage};
use proto::archive::ledger::{self, Event};
use proto::archive::{ArchiveError, ends, readme};
use proto::store::probe::{Features, probe};
use proto::store::{Body, Put, Store};

use crate::pipeline::{Ground, PipelineError};

/// A lineage that is ours to write, and what is known of it.
#[derive(Debug, Clone)]
pub struct Opened {
    pub lineage: Lineage,
    pub identity: Identity,
    /// Whether this run created it.
    pub fresh: bool,
}

impl Opened {
    /// The PostgreSQL part of the identity.
    ///
    /// # Panics
    /// When another engine opened it.
    pub fn postgres(&self) -> &PostgresIdentity {
        self.identity.postgres().expect("opened for a PostgreSQL cluster")
    }

    /// The MongoDB part of the identity.
    ///
    /// # Panics
    /// When another engine opened it.
    pub const fn mongodb(&self) -> &MongoIdentity {
        self.identity.mongodb().expect("opened for a MongoDB replica set")
    }
}

/// The newest lineage that became one.
///
/// # Errors
/// When the store fails, or a newer program wrote it.
pub async fn newest(store: &dyn Store) -> Result<Option<(Lineage, Identity)>, ArchiveError> {
    for lineage in ends::lineages(store).await?.into_iter().rev() {
        // One without an identity was begun and never became a lineage.
        if let Some(identity) = ends::identity(store, lineage).await? {
            return Ok(Some((lineage, identity)));
        }
    }
    Ok(None)
}

/// The lineage behind `newest`.
pub fn next(newest: Option<&(Lineage, Identity)>) -> Lineage {
    Lineage(newest.map_or(1, |(newest, _)| newest.0 + 1))
}

/// Begins a lineage. Fails only before its identity exists; when another sidecar was faster by a
/// moment, its identity counts.
///
/// # Errors
/// When the store fails, or lacks what an archive needs.
pub async fn create(
    ground: &Ground,
    lineage: Lineage,
    identity: Identity,
) -> Result<(Opened, Features), PipelineError> {
    let store = &*ground.store;
    let features = features(ground, lineage).await?;
    let readme = bytes::Bytes::from_static(readme::text().as_bytes());
    store.put(&layout::readme(), &Body::Bytes(readme)).await?;
    if store.put(&lineage.identity(), &Body::from(identity.encode())).await? == Put::Exists {
        let theirs = ends::identity(store, lineage).await?.unwrap_or(identity);
        return Ok((Opened { lineage, identity: theirs, fresh: false }, features));
    }
    Ok((Opened { lineage, identity, fresh: true }, features))
}

/// Tells of a lineage that this run created.
///
/// # Errors
/// When the store fails.
pub async fn record(
    ground: &Ground,
    opened: &Opened,
    features: Features,
) -> Result<(), PipelineError> {
    if opened.fresh {
        let features = serde_json::to_value(features).unwrap_or_default();
        let address = ground.store.address();
        let lineage = opened.lineage;
        tracing::info!(archive = %address, lineage = lineage.0, %features, "archive created");
        let event = Event::Store { address, features };
        ledger::append(&*ground.store, lineage, ground.clock.wall(), event).await?;
    }
    Ok(())
}

/// What the store does, tried before anything is promised.
async fn features(ground: &Ground, lineage: Lineage) -> Result<Features, PipelineError> {
    let features = probe(&ground.store, &lineage.root()).await?;
    let missing = features.missing();
    if missing.is_empty() {
        return Ok(features);
    }
    Err(PipelineError::Lacking { address: ground.store.address(), missing })
}
