//! A cluster's lineage: found by the system identifier, or begun where its slot holds the log from.
//!
//! Enters: a cluster and an archive. Leaves: a lineage that is the cluster's. What is refused leaves
//! neither object nor slot behind; a crash in between leaves at most a slot, which the next start
//! takes over.

use proto::archive::identity::{FORMAT_VERSION, Identity, PostgresIdentity};
use proto::archive::layout::Lineage;
use proto::postgres::lsn::Lsn;
use proto::segment::Engine;
use proto::store::Class;
use proto::store::probe::Features;

use super::capture::{Belongs, CaptureError, check_lineage, slot_position};
use super::{Postgres, Session, preflight};
use crate::begin::{self, Opened};
use crate::pipeline::{Ground, PipelineError};

/// Finds or creates the lineage of the cluster, and its slot.
///
/// # Errors
/// [`CaptureError::WrongCluster`] when the archive is another cluster's.
pub(super) async fn open(
    source: &Postgres,
    ground: &Ground,
    new_lineage: bool,
) -> Result<Opened, PipelineError> {
    let session = preflight::connect(&source.options).await?;
    match begin::newest(&*ground.store).await? {
        Some((lineage, identity))
            if !new_lineage
                || is_carried_out(source, ground, lineage, &identity, &session).await? =>
        {
            check_ours(&identity, &session)?;
            session.close().await;
            Ok(Opened { lineage, identity, fresh: false })
        }
        newest => create(source, ground, session, begin::next(newest.as_ref())).await,
    }
}

/// Whether `--new-lineage` has been carried out before, as in a unit that is started again: the
/// newest lineage is this server's own one, and its log continues there byte for byte.
async fn is_carried_out(
    source: &Postgres,
    ground: &Ground,
    lineage: Lineage,
    identity: &Identity,
    session: &Session,
) -> Result<bool, PipelineError> {
    let server = session.server();
    let major = |version: u32| version / 10_000;
    let same = identity.postgres().filter(|postgres| {
        check_ours(identity, session).is_ok()
            && postgres.segment_bytes == server.segment_size
            && major(postgres.version_num) == major(server.version)
    });
    let Some(postgres) = same else { return Ok(false) };
    let own = preflight::connect(&source.options).await?;
    let why = match check_lineage(&*ground.store, lineage, postgres, source.accept, own).await {
        Ok(Belongs::Proved) => {
            tracing::warn!(
                lineage = lineage.0,
                "--new-lineage has been carried out already: the newest lineage is this server's own one and goes on"
            );
            return Ok(true);
        }
        Ok(Belongs::Unknown) => "the server no longer has the bytes that it ends with".to_owned(),
        Ok(Belongs::Behind) => "the server is on an older timeline".to_owned(),
        Err(CaptureError::Source(error)) => return Err(error.into()),
        Err(CaptureError::Archive(error)) if error.class() != Class::Damaged => {
            return Err(error.into());
        }
        Err(error) => error.to_string(),
    };
    tracing::info!(newest = lineage.0, why, "the server does not continue the newest lineage");
    Ok(false)
}

/// # Errors
/// When the identity is that of another engine or cluster.
fn check_ours(identity: &Identity, session: &Session) -> Result<(), CaptureError> {
    let found = session.server().identity.system_id.to_string();
    let wrong = |expected: String, found: String| {
        let endpoint = session.server().endpoint.to_string();
        CaptureError::WrongCluster { expected, found, endpoint }
    };
    if identity.postgres().is_none() {
        let expected = format!("{} ({})", identity.cluster, identity.engine);
        return Err(wrong(expected, "a PostgreSQL cluster".to_owned()));
    }
    if found != identity.cluster {
        return Err(wrong(identity.cluster.clone(), found));
    }
    Ok(())
}

/// Begins a lineage. When that is refused, a slot that was made for it goes again: it would hold
/// the server's log for nobody.
async fn create(
    source: &Postgres,
    ground: &Ground,
    mut session: Session,
    lineage: Lineage,
) -> Result<Opened, PipelineError> {
    let found = slot_position(&source.options, &source.slot, &mut session).await?;
    if !found.created {
        preflight::slot_is_free(&source.options, &source.slot).await?;
    }
    let begun = create_in_store(ground, &session, lineage, found.restart).await;
    if begun.is_err() && found.created {
        match session.drop_slot(&source.slot).await {
            Ok(()) => tracing::info!(slot = %source.slot, "replication slot dropped again"),
            Err(error) => tracing::warn!(
                slot = %source.slot, %error,
                "the replication slot was made for nothing and could not be dropped: it holds the server's log, drop it"
            ),
        }
    }
    session.close().await;
    let (opened, features) = begun?;
    begin::record(ground, &opened, features).await?;
    Ok(opened)
}

/// Fails only before the identity exists.
async fn create_in_store(
    ground: &Ground,
    session: &Session,
    lineage: Lineage,
    restart: Option<Lsn>,
) -> Result<(Opened, Features), PipelineError> {
    let server = session.server();
    let identity = Identity {
        format: FORMAT_VERSION,
        engine: Engine::Postgresql,
        cluster: server.identity.system_id.to_string(),
        created: ground.clock.wall(),
        postgres: Some(PostgresIdentity {
            segment_bytes: server.segment_size,
            version_num: server.version,
            first: server.segment_size.floor(restart.unwrap_or(server.identity.flushed)),
            first_timeline: server.identity.timeline,
        }),
        mongodb: None,
    };
    let (opened, features) = begin::create(ground, lineage, identity).await?;
    check_ours(&opened.identity, session)?;
    Ok((opened, features))
}
