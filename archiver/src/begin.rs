//! Before the first byte: is this our archive, and if there is none yet, begin it.
//!
//! Enters: a source and a store. Leaves: a lineage that is ours to write. Everything that can be
//! refused is refused before the identity exists, and leaves neither object nor slot behind; a
//! crash in between leaves at most a slot and canaries, which the next start takes over.

use proto::archive::identity::{FORMAT_VERSION, Identity, PostgresIdentity};
use proto::archive::layout::{self, Lineage};
use proto::archive::ledger::{self, Event};
use proto::archive::{ends, readme};
use proto::postgres::lsn::Lsn;
use proto::segment::Engine;
use proto::store::probe::{Features, probe};
use proto::store::{Body, Put};

use crate::pipeline::{Ground, PipelineError, Settings};
use crate::source::postgres::capture::{CaptureError, slot_position};
use crate::source::postgres::{Session, preflight};

/// A lineage that is ours to write, and what is known of it.
#[derive(Debug, Clone)]
pub struct Opened {
    pub lineage: Lineage,
    pub identity: Identity,
    pub postgres: PostgresIdentity,
    /// Whether this run created it.
    pub fresh: bool,
}

/// Finds or creates the lineage of the cluster that `settings.source` names, and its slot.
///
/// # Errors
/// [`CaptureError::WrongCluster`] when the archive is another cluster's.
pub async fn open(ground: &Ground, settings: &Settings) -> Result<Opened, PipelineError> {
    let store = &*ground.store;
    let session = preflight::connect(&settings.source).await?;
    let mut newest = None;
    for lineage in ends::lineages(store).await?.into_iter().rev() {
        // One without an identity was begun and never became a lineage.
        if let Some(identity) = ends::identity(store, lineage).await? {
            newest = Some((lineage, identity));
            break;
        }
    }
    match newest {
        Some((lineage, identity)) if !settings.new_lineage => {
            let postgres = ours(&identity, &session)?;
            session.close().await;
            Ok(Opened { lineage, identity, postgres, fresh: false })
        }
        newest => {
            let number = newest.map_or(1, |(newest, _)| newest.0 + 1);
            create(ground, settings, session, Lineage(number)).await
        }
    }
}

/// # Errors
/// When the identity is that of another engine or cluster.
fn ours(identity: &Identity, session: &Session) -> Result<PostgresIdentity, CaptureError> {
    let found = session.server().identity.system_id.to_string();
    let wrong = |expected: String, found: String| {
        let endpoint = session.server().endpoint.to_string();
        CaptureError::WrongCluster { expected, found, endpoint }
    };
    let Some(postgres) = identity.postgres() else {
        let expected = format!("{} ({})", identity.cluster, identity.engine);
        return Err(wrong(expected, "a PostgreSQL cluster".to_owned()));
    };
    if found != identity.cluster {
        return Err(wrong(identity.cluster.clone(), found));
    }
    Ok(postgres.clone())
}

/// Begins a lineage. When that is refused, a slot that was made for it goes again: it would hold
/// the server's log for nobody.
async fn create(
    ground: &Ground,
    settings: &Settings,
    mut session: Session,
    lineage: Lineage,
) -> Result<Opened, PipelineError> {
    let found = slot_position(&settings.source, &settings.slot, &mut session).await?;
    if !found.created {
        preflight::slot_is_free(&settings.source, &settings.slot).await?;
    }
    let begun = create_in_store(ground, &session, lineage, found.restart).await;
    if begun.is_err() && found.created {
        match session.drop_slot(&settings.slot).await {
            Ok(()) => tracing::info!(slot = %settings.slot, "replication slot dropped again"),
            Err(error) => tracing::warn!(
                slot = %settings.slot, %error,
                "the replication slot was made for nothing and could not be dropped: it holds the server's log, drop it"
            ),
        }
    }
    session.close().await;
    let (opened, features) = begun?;
    if opened.fresh {
        let features = serde_json::to_value(features).unwrap_or_default();
        let address = ground.store.address();
        tracing::info!(archive = %address, lineage = lineage.0, %features, "archive created");
        let event = Event::Store { address, features };
        ledger::append(&*ground.store, lineage, ground.clock.wall(), event).await?;
    }
    Ok(opened)
}

/// Fails only before the identity exists.
async fn create_in_store(
    ground: &Ground,
    session: &Session,
    lineage: Lineage,
    restart: Option<Lsn>,
) -> Result<(Opened, Features), PipelineError> {
    let store = &*ground.store;
    let features = features(ground, lineage).await?;
    let server = session.server();
    let postgres = PostgresIdentity {
        segment_bytes: server.segment_size,
        version_num: server.version,
        first: server.segment_size.floor(restart.unwrap_or(server.identity.flushed)),
        first_timeline: server.identity.timeline,
    };
    let identity = Identity {
        format: FORMAT_VERSION,
        engine: Engine::Postgresql,
        cluster: server.identity.system_id.to_string(),
        created: ground.clock.wall(),
        postgres: Some(postgres.clone()),
        mongodb: None,
    };
    let readme = bytes::Bytes::from_static(readme::text().as_bytes());
    store.put(&layout::readme(), &Body::Bytes(readme)).await?;
    if store.put(&lineage.identity(), &Body::from(identity.encode())).await? == Put::Exists {
        // Another sidecar was faster by a moment: its identity counts.
        let theirs = ends::identity(store, lineage).await?.unwrap_or(identity);
        let postgres = ours(&theirs, session)?;
        return Ok((Opened { lineage, identity: theirs, postgres, fresh: false }, features));
    }
    Ok((Opened { lineage, identity, postgres, fresh: true }, features))
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
