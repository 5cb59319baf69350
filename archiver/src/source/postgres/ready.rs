//! A slot on each standby among our hosts, advanced to what is durable in the archive. When the
//! primary's machine is lost with its sidecar and its spool, the standby that is promoted still has
//! every byte that the archive lacks (DESIGN §5.6).
//!
//! Enters: an archive, and servers. Leaves: on each server in recovery that is the archive's own, our
//! physical slot, which never stands behind the last sealed segment for long and never in front of it.
//! The slot is the server's, so a crash costs nothing; a server that is promoted has it already.
//!
//! It moves by the standby status of a stream (walsender.c, `PhysicalConfirmReceivedLocation`), which
//! REPLICATION alone allows: `pg_replication_slot_advance` would want a database to connect to as well.

use std::time::Duration;

use metrics::gauge;
use proto::archive::ends;
use proto::archive::identity::{Identity, PostgresIdentity};
use proto::archive::layout::Lineage;
use proto::postgres::history::History;
use proto::postgres::lsn::{Lsn, Timeline};
use proto::store::Store;

use super::capture::{CaptureError, Found, drop_slot, fetch_history, slot_position};
use super::options::TargetSession;
use super::{Acknowledged, Class, ConnectOptions, Error, Postgres, Session, StreamOptions, end};
use crate::begin;
use crate::pipeline::{Ground, PipelineError};
use crate::ship::Durable;

/// How long a server may take to confirm a report.
const CONFIRM_MAX: Duration = Duration::from_secs(20);

/// One round over all hosts. Those that are no standby, or do not answer, are passed by.
///
/// # Errors
/// When the archive cannot be read, or a standby refuses the slot.
pub(super) async fn keep(source: &Postgres, ground: &Ground) -> Result<(), PipelineError> {
    let mut archive = None;
    let mut failed = None;
    for endpoint in &source.options.endpoints {
        let mut options = source.options.clone();
        options.endpoints = vec![endpoint.clone()];
        options.target = TargetSession::Standby;
        let Ok(session) = Session::connect(&options).await else { continue };
        if archive.is_none() {
            archive = Archived::find(&*ground.store).await?;
        }
        // Nothing is archived yet, so nothing is to be continued.
        let Some(archive) = &archive else {
            session.close().await;
            return Ok(());
        };
        let member = Member { source, options: &options, archive, store: &*ground.store };
        match member.keep(session).await {
            // Somebody else keeps it, or streams from it: another sidecar, or we, with --from-standby.
            Err(CaptureError::Source(error)) if error.class() == Class::SlotInUse => {}
            Err(error) => failed = Some(error),
            Ok(()) => {}
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// What the store holds, as far as slots are concerned.
struct Archived {
    lineage: Lineage,
    identity: Identity,
    /// Before it everything is stored.
    durable: Durable,
}

impl Archived {
    /// `None` while there is no log of a PostgreSQL cluster.
    async fn find(store: &dyn Store) -> Result<Option<Self>, PipelineError> {
        let Some((lineage, identity)) = begin::newest(store).await? else { return Ok(None) };
        let Some(postgres) = identity.postgres() else { return Ok(None) };
        let durable = end::stored(store, lineage, postgres).await?;
        Ok(durable.map(|durable| Self { lineage, identity, durable }))
    }
}

/// A server that may be a standby of the archived cluster.
struct Member<'a> {
    source: &'a Postgres,
    options: &'a ConnectOptions,
    archive: &'a Archived,
    store: &'a dyn Store,
}

impl Member<'_> {
    async fn keep(&self, mut session: Session) -> Result<(), CaptureError> {
        let Some(identity) = self.ours(&session) else {
            session.close().await;
            return Ok(());
        };
        let server = session.identify().await?;
        let Some(shared) = self.shared(&mut session, server.timeline).await? else {
            session.close().await;
            return Ok(());
        };
        let target = identity.segment_bytes.floor(shared.min(server.flushed));
        let slot = &self.source.slot;
        let mut found = slot_position(self.options, slot, &mut session).await?;
        if found.restart.is_none() && self.is_lost().await? {
            tracing::error!(%slot, "the standby has invalidated the slot: renewed");
            drop_slot(slot, &mut session).await?;
            found = slot_position(self.options, slot, &mut session).await?;
        }
        self.tell(&found, &session);
        if found.restart.is_some_and(|restart| restart >= target) {
            session.close().await;
            return Ok(());
        }
        let safe = Acknowledged::from(self.archive.durable).at_most(target);
        let moved = self.advance(session, server.timeline, target, safe).await;
        if moved.is_ok() {
            gauge!("pitr_standby_slot_position").set(target.0 as f64);
        }
        moved.map_err(CaptureError::from)
    }

    /// A clone has the same identifier and is no worse for a slot; another cluster gets none.
    fn ours(&self, session: &Session) -> Option<&PostgresIdentity> {
        let (server, identity) = (session.server(), &self.archive.identity);
        let same = server.identity.system_id.to_string() == identity.cluster;
        identity.postgres().filter(|own| same && own.segment_bytes == server.segment_size)
    }

    /// Up to where the archived log is the standby's own; `None` when it is on no way from or to the
    /// archive's timeline.
    async fn shared(
        &self,
        session: &mut Session,
        server: Timeline,
    ) -> Result<Option<Lsn>, CaptureError> {
        let durable = self.archive.durable.position();
        let (archived, reached) = (Timeline::from(durable.epoch), Lsn::from(durable.offset));
        let history: Option<History> = if server > archived {
            Some(fetch_history(session, server).await?.history)
        } else if server < archived {
            ends::history(self.store, self.archive.lineage, archived).await?
        } else {
            return Ok(Some(reached));
        };
        let left = history.and_then(|history| history.left_at(server.min(archived)));
        Ok(left.map(|left| left.min(reached)))
    }

    /// Whether the slot holds nothing any more. Who may not ask by SQL has a slot that is not lost,
    /// or starting the stream says so.
    async fn is_lost(&self) -> Result<bool, Error> {
        let sql = super::SqlSession::connect(self.options).await;
        let mut sql = match sql {
            Ok(sql) => sql,
            Err(error) if matches!(error.class(), Class::Config | Class::Permission) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let found = sql.slot(&self.source.slot).await;
        sql.close().await;
        Ok(found?.is_some_and(|slot| slot.status == Some(super::WalStatus::Lost)))
    }

    fn tell(&self, found: &Found, session: &Session) {
        if found.created {
            let (slot, server) = (&self.source.slot, &session.server().endpoint);
            tracing::info!(%slot, standby = %server, "a slot on the standby holds what the archive lacks");
        }
        if let Some(restart) = found.restart {
            gauge!("pitr_standby_slot_position").set(restart.0 as f64);
        }
    }

    /// Streams from where the slot shall stand, says so, and goes once the server has heard it. The
    /// slot is ours meanwhile, so nobody else moves it.
    async fn advance(
        &self,
        session: Session,
        timeline: Timeline,
        target: Lsn,
        safe: Acknowledged,
    ) -> Result<(), Error> {
        let options = StreamOptions { write_follows_flush: true, ..StreamOptions::default() };
        let slot = Some(&self.source.slot);
        let mut stream = session.start_replication(slot, timeline, target, options).await?;
        stream.report(safe);
        stream.ping();
        let confirmed = tokio::time::timeout(CONFIRM_MAX, stream.next()).await;
        stream.close().await;
        match confirmed {
            Ok(heard) => heard.map(drop),
            Err(_) => Err(Error::TimedOut { doing: "advancing a slot", after: CONFIRM_MAX }),
        }
    }
}
