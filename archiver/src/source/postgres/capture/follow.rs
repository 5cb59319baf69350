//! Is this our cluster, and does its log continue ours? What must hold before a byte is streamed.

use bytes::Bytes;
use proto::archive::ledger::Event;
use proto::position::ByteCount;
use proto::postgres::history::History;
use proto::postgres::lsn::{Lsn, SegmentId, Timeline};

use super::belongs::Branching;
use super::{Capture, CaptureError, CaptureSetup, HistoryFile};
use crate::ring::{EpochChange, Item};
use crate::source::postgres::end::previous_hash;
use crate::source::postgres::session::VERSION_OPTION_LIST;
use crate::source::postgres::sql::{SqlSession, WalStatus};
use crate::source::postgres::{Class, ConnectOptions, Error, Session, SlotName};

impl Capture {
    /// Checks identity and timeline of the server, and that our slot is there.
    pub(super) async fn prepare(&mut self, session: &mut Session) -> Result<(), CaptureError> {
        let found = session.identify().await?;
        check_cluster(&self.setup, session, found.system_id)?;
        if found.timeline < self.timeline {
            let (endpoint, newest) = (session.server().endpoint.clone(), self.timeline);
            return Err(Error::LeftBehind { endpoint, found: found.timeline, newest }.into());
        }
        // Before anything is made: a slot at a copy that is refused would hold its log for ever.
        if found.timeline > self.timeline {
            self.check_branch(session, found.timeline).await?;
        }
        ensure_slot(&self.setup.slot, session).await?;
        self.learn_limit(session).await;
        if self.timeline > Timeline(1) {
            // The same number with another history is another cluster's timeline: the ship stage
            // compares the bytes.
            let own = fetch_history(session, self.timeline).await?;
            self.push_history(&own)?;
        }
        if found.timeline > self.timeline {
            self.follow_branch_below(session, found.timeline).await?;
        }
        Ok(())
    }

    /// A branch below the segment that is open: the server has no byte of our timeline from there
    /// on, and refuses to stream it (walsender.c, `StartReplication`).
    async fn follow_branch_below(
        &mut self,
        session: &mut Session,
        server: Timeline,
    ) -> Result<(), CaptureError> {
        let history = fetch_history(session, server).await?.history;
        let size = self.setup.identity.segment_bytes;
        let Some(at) = history.left_at(self.timeline) else { return Ok(()) };
        if at >= size.floor(self.received) {
            return Ok(());
        }
        let mut later = history.entries.iter().map(|branch| branch.parent).chain([server]);
        let next = later.find(|timeline| *timeline > self.timeline);
        self.change_timeline(session, next.unwrap_or(server), at).await
    }

    /// Waits until the store holds the log up to `from`: what follows names the segment before it.
    async fn await_stored(&self, from: Lsn) {
        let wanted = from.at(self.timeline);
        while !self.stop.is_cancelled()
            && self.setup.state.stored().is_none_or(|stored| stored < wanted)
        {
            self.pause(std::time::Duration::from_millis(100)).await;
        }
    }

    /// A newer timeline must branch off ours, by a promotion, near what we have.
    async fn check_branch(
        &self,
        session: &mut Session,
        server: Timeline,
    ) -> Result<(), CaptureError> {
        self.branching().allows(&fetch_history(session, server).await?.history)
    }

    const fn branching(&self) -> Branching {
        Branching { archive: self.timeline, reached: self.received, accept: self.setup.accept }
    }

    /// The stream said that our timeline ended at `at` and that `next` goes on there.
    pub(super) async fn change_timeline(
        &mut self,
        session: &mut Session,
        next: Timeline,
        at: Lsn,
    ) -> Result<(), CaptureError> {
        let file = fetch_history(session, next).await?;
        self.branching().allows(&file.history)?;
        let size = self.setup.identity.segment_bytes;
        let from = size.floor(at);
        tracing::info!(from = %self.timeline, to = %next, %at, "the server was promoted: following");
        let previous = if from == size.floor(self.received) {
            None
        } else {
            // Branched below the open segment: what stands before the branch is in the store.
            self.await_stored(from).await;
            let id = SegmentId::containing(self.timeline, from, size);
            let hash =
                previous_hash(&*self.setup.store, self.setup.lineage, &self.setup.identity, id);
            Some(hash.await?)
        };
        let reason = file.history.branch().map(|branch| branch.reason.clone()).unwrap_or_default();
        self.push_history(&file)?;
        let change = EpochChange { at: at.into(), next: next.into(), from: from.into(), previous };
        self.ring.push(Item::Epoch(change))?;
        let event = Event::Branch { from: at.at(self.timeline), at: from.at(next), reason };
        record(&self.setup, event);
        self.timeline = next;
        self.setup.options.newest.know(next);
        self.received = from;
        Ok(())
    }

    fn push_history(&self, file: &HistoryFile) -> Result<(), CaptureError> {
        let key = self.setup.lineage.history(file.history.timeline);
        self.ring.push(Item::Object { key, bytes: file.raw.clone() })?;
        Ok(())
    }
}

pub(in crate::source::postgres) async fn fetch_history(
    session: &mut Session,
    timeline: Timeline,
) -> Result<HistoryFile, CaptureError> {
    let (_, raw): (String, Bytes) = session.timeline_history(timeline).await?;
    let history = History::parse(timeline, raw.clone())
        .map_err(|source| CaptureError::History { timeline, source })?;
    Ok(HistoryFile { history, raw })
}

/// # Errors
/// [`CaptureError::WrongCluster`] and [`CaptureError::SegmentSize`].
pub(crate) fn check_cluster(
    setup: &CaptureSetup,
    session: &Session,
    system_id: u64,
) -> Result<(), CaptureError> {
    let found = system_id.to_string();
    if found != setup.cluster {
        let endpoint = session.server().endpoint.to_string();
        let expected = setup.cluster.clone();
        return Err(CaptureError::WrongCluster { expected, found, endpoint });
    }
    let (ours, theirs) = (setup.identity.segment_bytes, session.server().segment_size);
    if ours != theirs {
        let (expected, found) = (ByteCount(ours.bytes()), ByteCount(theirs.bytes()));
        return Err(CaptureError::SegmentSize { expected, found });
    }
    Ok(())
}

/// Creates the slot if it is not there, and tells whether it did. On a server whose slot was dropped
/// the log may have a hole: starting the stream tells.
async fn ensure_slot(slot: &SlotName, session: &mut Session) -> Result<bool, Error> {
    match session.create_slot(slot).await {
        Ok(()) => {
            tracing::info!(%slot, "replication slot created");
            Ok(true)
        }
        Err(error) if error.class() == Class::SlotExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Drops our slot; one that is gone is no error.
pub(in crate::source::postgres) async fn drop_slot(
    slot: &SlotName,
    session: &mut Session,
) -> Result<(), Error> {
    match session.drop_slot(slot).await {
        Err(error) if error.class() == Class::NoSuchSlot => Ok(()),
        other => other,
    }
}

/// A slot that the server has invalidated (max_slot_wal_keep_size, idle_replication_slot_timeout)
/// holds nothing any more and cannot be used: a new one takes its place. Whether log is lost shows
/// when the stream begins.
///
/// # Errors
/// `refused` itself, when the slot is not lost.
pub(super) async fn renew_lost_slot(setup: &CaptureSetup, refused: Error) -> Result<(), Error> {
    let mut sql = SqlSession::connect(&setup.options).await?;
    let found = sql.slot(&setup.slot).await;
    sql.close().await;
    if found?.and_then(|slot| slot.status) != Some(WalStatus::Lost) {
        return Err(refused);
    }
    tracing::error!(slot = %setup.slot, %refused, "the server has invalidated the slot: renewed");
    let mut session = Session::connect(&setup.options).await?;
    drop_slot(&setup.slot, &mut session).await?;
    let renewed = ensure_slot(&setup.slot, &mut session).await;
    session.close().await;
    renewed.map(drop)
}

/// A slot as it was found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Where it holds the log from; `None` when it holds nothing, or the role may not ask.
    pub restart: Option<Lsn>,
    /// Whether it was made just now.
    pub created: bool,
}

/// Where the slot holds the log from, creating it if there is none.
///
/// # Errors
/// When the slot cannot be created or asked.
pub async fn slot_position(
    options: &ConnectOptions,
    slot: &SlotName,
    session: &mut Session,
) -> Result<Found, Error> {
    let created = ensure_slot(slot, session).await?;
    Ok(Found { restart: read_slot(options, slot, session).await?, created })
}

/// Where the slot holds the log from; `None` as in [`Found::restart`], and when there is no slot.
pub(super) async fn read_slot(
    options: &ConnectOptions,
    slot: &SlotName,
    session: &mut Session,
) -> Result<Option<Lsn>, Error> {
    if session.server().version >= VERSION_OPTION_LIST {
        return Ok(session.read_slot(slot).await?.and_then(|slot| slot.restart));
    }
    let found = match SqlSession::connect(options).await {
        Ok(mut sql) => {
            let found = sql.slot(slot).await;
            sql.close().await;
            found?
        }
        // PostgreSQL 14 tells only by SQL, and this role may do nothing but replicate.
        Err(error) if matches!(error.class(), Class::Config | Class::Permission) => None,
        Err(error) => return Err(error),
    };
    Ok(found.and_then(|slot| slot.restart))
}

/// Adds to the ledger beside the stream, waiting for a store that is away: nothing that restores
/// depends on it, since a hole shows in the segments themselves. Behind a gap a base is wanted: once
/// the ledger tells of it, or whoever looks would find none due.
pub(super) fn record(setup: &CaptureSetup, event: Event) {
    let (right, clock) = (setup.right.clone(), setup.clock.clone());
    let base_wanted = setup.base_wanted.clone();
    tokio::spawn(async move {
        let is_gap = matches!(event, Event::Gap { .. });
        right.record(&*clock, event).await;
        if is_gap {
            base_wanted.notify_one();
        }
    });
}
