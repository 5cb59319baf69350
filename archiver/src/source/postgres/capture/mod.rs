//! Following a PostgreSQL cluster for ever: connect, continue where the ring's log ends, follow
//! promotions, connect again.
//!
//! Enters: where the log goes on. Leaves: the log, in the ring, without a hole. Nothing is kept:
//! after a crash the next run asks from what spool and store hold.

mod belongs;
mod follow;
mod guard;
mod same_bytes;
mod sink;
mod synchronous;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::archive::ArchiveError;
use proto::archive::identity::PostgresIdentity;
use proto::archive::layout::Lineage;
use proto::clock::Clock;
use proto::position::{ByteCount, Position};
use proto::postgres::lsn::{Lsn, Timeline};
use proto::store::Store;
use proto::store::retry::Backoff;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::drive::{self, Drive, Outcome};
use super::{Acknowledged, Class, ConnectOptions, Error, Session, SlotName, StreamOptions, end};
use crate::ring::{Item, RingSender};
use crate::ship::{Durable, Right};
use crate::source::held;
use crate::watch::repeat::Repeat;
use crate::watch::state::{Phase, State};
pub use belongs::{Belongs, check_lineage};
pub use follow::{Found, slot_position};
pub(in crate::source::postgres) use follow::{drop_slot, fetch_history};
pub use guard::OnSlotMax;
use sink::RingSink;

/// How far a promotion may lie below what is durable (DESIGN §5.7).
pub const REWIND_MAX: ByteCount = ByteCount(64 << 20);

/// Between two tries to reach a server that is away.
const AWAY_MAX: Duration = Duration::from_secs(5);
/// Between two looks at a server that is no primary: a promotion is followed within ten seconds
/// (DESIGN §5.6).
pub(crate) const ROLE_EVERY: Duration = Duration::from_secs(2);

/// What ends the capture: only a contradiction, never a server that is away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    #[error("the archive belongs to cluster {expected}, and {endpoint} is cluster {found}")]
    WrongCluster { expected: String, found: String, endpoint: String },
    #[error(
        "timeline {server} branched from timeline {archive} {}, not at a promotion near {durable}",
        at.map_or_else(|| "nowhere".to_owned(), |at| format!("at {at}"))
    )]
    TimelineForeign { archive: Timeline, server: Timeline, at: Option<Lsn>, durable: Lsn },
    #[error("timeline {timeline} is a restored copy's: its history says {reason:?}")]
    RestoredCopy { timeline: Timeline, reason: String },
    #[error("timeline {timeline} of the server has another history than the archive's")]
    OtherHistory { timeline: Timeline },
    /// A clone, or a server that was restored or rewound.
    #[error(
        "the log of {endpoint} differs from what is archived: on timeline {timeline}, up to {at}"
    )]
    OtherBytes { endpoint: String, timeline: Timeline, at: Lsn },
    /// No primary loses what it has flushed: a copy of an earlier time.
    #[error(
        "the log of {endpoint} ends at {ends}, and timeline {timeline} is archived up to {reached}: \
         it differs"
    )]
    ShortLog { endpoint: String, ends: Lsn, timeline: Timeline, reached: Lsn },
    #[error("WAL segments of {found:?}, and the archive holds segments of {expected:?}")]
    SegmentSize { expected: ByteCount, found: ByteCount },
    #[error("the history file of timeline {timeline} makes no sense")]
    History {
        timeline: Timeline,
        #[source]
        source: proto::postgres::history::HistoryError,
    },
    /// The server has let go of what comes next, and the store has it: another writer was there.
    #[error("the server has let go of the log behind {held}, and it is archived already")]
    Archived { held: Lsn },
    /// While the server was away or a standby.
    #[error("writer {by} has taken over; this is writer {own}")]
    Superseded { own: u64, by: u64 },
    #[error(transparent)]
    Source(#[from] Error),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Pipeline(#[from] crate::ring::Closed),
}

/// What a capture needs to know; it does not change while it runs.
#[derive(Debug, Clone)]
pub struct CaptureSetup {
    pub options: ConnectOptions,
    pub slot: SlotName,
    pub identity: PostgresIdentity,
    pub cluster: String,
    pub store: Arc<dyn Store>,
    pub lineage: Lineage,
    pub clock: Arc<dyn Clock>,
    pub state: Arc<State>,
    /// `--accept-timeline N`.
    pub accept: Option<Timeline>,
    pub synchronous: bool,
    /// `--slot-max`, if it is given.
    pub slot_max: Option<ByteCount>,
    pub on_slot_max: OnSlotMax,
    /// Told when the log has a gap: a new base is needed.
    pub base_wanted: Arc<tokio::sync::Notify>,
    pub right: Right,
}

pub struct Capture {
    setup: CaptureSetup,
    ring: RingSender,
    acknowledged: watch::Receiver<Option<Durable>>,
    stop: CancellationToken,
    timeline: Timeline,
    /// The end of what was handed to the ring.
    received: Lsn,
    /// What asynchronous commits may lag behind (DESIGN §5.9).
    margin: Duration,
    repeat: Repeat,
    /// Why there is no slot: what is lost since has this reason.
    released: Option<String>,
}

impl Capture {
    pub fn new(
        setup: CaptureSetup,
        ring: RingSender,
        acknowledged: watch::Receiver<Option<Durable>>,
        stop: CancellationToken,
        from: Position,
    ) -> Self {
        let repeat = Repeat::new(setup.clock.clone());
        setup.options.newest.know(from.epoch.into());
        Self {
            setup,
            ring,
            acknowledged,
            stop,
            timeline: from.epoch.into(),
            received: from.offset.into(),
            margin: Duration::from_secs(2),
            repeat,
            released: None,
        }
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// [`CaptureError`], when waiting would not help.
    pub async fn run(mut self) -> Result<(), CaptureError> {
        let mut backoff = Backoff::new();
        while !self.stop.is_cancelled() {
            let before = self.received;
            match self.once().await {
                Ok(Next::Stop) => break,
                Ok(Next::Again) => backoff.reset(),
                Ok(Next::Wait) => self.wait_for_room().await,
                Err(CaptureError::Source(error)) => {
                    if self.received != before {
                        backoff.reset();
                    }
                    self.away(&error, &mut backoff).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One connection, from connecting to its end.
    async fn once(&mut self) -> Result<Next, CaptureError> {
        if self.setup.state.level.is_full() {
            return Ok(Next::Wait);
        }
        // Beside a standby it goes on waiting while it asks again.
        let waited = self.setup.state.phase() == Phase::Waiting;
        if !waited {
            self.setup.state.enter(Phase::Connecting);
        }
        let stop = self.stop.clone();
        let connected = tokio::select! {
            () = stop.cancelled() => return Ok(Next::Stop),
            connected = Session::connect(&self.setup.options) => connected?,
        };
        let mut session = connected;
        if waited {
            // Beside what was a standby another one may have written meanwhile.
            self.still_writes().await?;
        }
        self.prepare(&mut session).await?;
        loop {
            session = match self.stream(session).await? {
                Streamed::Next(next) => return Ok(next),
                Streamed::Epoch(session) => *session,
            };
        }
    }

    /// Streams one timeline from the start of the segment that is open.
    async fn stream(&mut self, mut session: Session) -> Result<Streamed, CaptureError> {
        let size = self.setup.identity.segment_bytes;
        let from = size.floor(self.received);
        self.ring.push(Item::Resume { from: from.into() })?;
        let options = StreamOptions {
            clock: self.setup.clock.clone(),
            write_follows_flush: self.setup.synchronous,
        };
        self.margin = self.margin_of(&mut session).await;
        let own = &self.setup.options.application_name;
        let counted =
            !self.setup.synchronous && synchronous::counted_at_first(&mut session, own).await;
        let slot = Some(&self.setup.slot);
        let stream = match session.start_replication(slot, self.timeline, from, options).await {
            Err(error) if error.class() == Class::Prerequisite => {
                follow::renew_lost_slot(&self.setup, error).await?;
                return Ok(Streamed::Next(Next::Again));
            }
            Err(error) if error.class() == Class::WalRemoved => {
                return self.skip_what_is_lost(&error).await;
            }
            other => other?,
        };
        let acknowledged = self.acknowledgements(counted);
        let mut sink =
            RingSink::new(&self.ring, &self.setup, self.timeline, self.received, self.margin);
        let outcome =
            drive::run(stream, &mut sink, acknowledged, self.stop.clone(), Drive::default()).await;
        if sink.received() > self.received {
            // The log went on without a gap: nothing is lost that would need a reason.
            self.released = None;
        }
        self.received = sink.received();
        // What arrived is made durable whatever the next connection brings.
        self.ring.push(Item::Flush)?;
        match outcome {
            Ok(Outcome::Stopped) => Ok(Streamed::Next(Next::Stop)),
            Ok(Outcome::Held) => Ok(Streamed::Next(Next::Wait)),
            Ok(Outcome::Ended { next: Some((next, at)), session }) => {
                let mut session = session;
                self.change_timeline(&mut session, next, at).await?;
                Ok(Streamed::Epoch(session))
            }
            Ok(Outcome::Ended { next: None, .. } | Outcome::ServerStopped | Outcome::Yielded) => {
                self.pause(Duration::from_millis(500)).await;
                Ok(Streamed::Next(Next::Again))
            }
            Err(error) if error.class() == Class::WalRemoved => {
                self.skip_what_is_lost(&error).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What was confirmed, in the server's terms. A position of an older timeline counts up to the
    /// branch: both timelines share the log before it.
    fn acknowledgements(&self, counted: bool) -> watch::Receiver<Acknowledged> {
        let mut durable = self.acknowledged.clone();
        let mut declined = if self.setup.synchronous {
            watch::channel(false).1
        } else {
            synchronous::watch_setting(self.setup.options.clone(), counted, self.stop.clone())
        };
        let (timeline, cap) =
            (self.timeline, self.setup.identity.segment_bytes.floor(self.received));
        let of = move |durable: Option<Durable>| {
            durable.map_or(Acknowledged::NOTHING, |durable| {
                let own = Timeline::from(durable.position().epoch) == timeline;
                let whole = Acknowledged::from(durable);
                if own { whole } else { whole.at_most(cap) }
            })
        };
        let first = if counted { None } else { *durable.borrow_and_update() };
        let (sender, receiver) = watch::channel(of(first));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    changed = durable.changed() => if changed.is_err() { return },
                    // Once nobody watches the setting any more, it stays as it was.
                    Ok(()) = declined.changed() => {}
                }
                let decline = *declined.borrow_and_update();
                let latest = *durable.borrow_and_update();
                sender.send_replace(of(latest.filter(|_| !decline)));
            }
        });
        receiver
    }

    /// The server no longer has the log that comes next: the stretch up to what a new slot holds is
    /// lost. It is recorded, and a new base is wanted.
    async fn skip_what_is_lost(&mut self, error: &Error) -> Result<Streamed, CaptureError> {
        // What another one has brought up is no loss, and the slot may be its own by now.
        self.still_writes().await?;
        let mut session = Session::connect(&self.setup.options).await?;
        let found = session.identify().await?;
        let mut restart = self.slot_restart(&mut session).await?;
        if restart.is_some_and(|restart| restart <= self.received) {
            // It points at what is gone: a new one holds what there is.
            follow::drop_slot(&self.setup.slot, &mut session).await?;
            restart = self.slot_restart(&mut session).await?;
        }
        session.close().await;
        let size = self.setup.identity.segment_bytes;
        let restart = restart.unwrap_or(found.flushed);
        let from = size.floor(restart).max(size.floor(self.received));
        if from <= self.received {
            // The slot holds it after all: whoever removed the log may have been slow to tell.
            self.pause(Duration::from_secs(1)).await;
            return Ok(Streamed::Next(Next::Again));
        }
        let (held, setup) = (self.received.at(self.timeline), &self.setup);
        if end::is_stored_beyond(&*setup.store, setup.lineage, &setup.identity, held).await? {
            return Err(CaptureError::Archived { held: self.received });
        }
        let reason = format!("the server no longer has the log: {error}");
        let reason = match self.released.take() {
            Some(released) => format!("{released}; {reason}"),
            None => reason,
        };
        tracing::error!(from = %self.received, to = %from, %reason, "GAP: a stretch of log is lost");
        metrics::counter!("pitr_gaps_total").increment(1);
        let (done, skipped) = oneshot::channel();
        self.ring.push(Item::Skip { from: from.into(), done })?;
        if skipped.await.is_err() {
            return Err(crate::ring::Closed.into());
        }
        let event = proto::archive::ledger::Event::Gap {
            from: self.received.at(self.timeline),
            to: from.at(self.timeline),
            reason,
            oplog: None,
        };
        follow::record(&self.setup, event);
        self.received = from;
        Ok(Streamed::Next(Next::Again))
    }

    async fn slot_restart(&self, session: &mut Session) -> Result<Option<Lsn>, CaptureError> {
        let (options, slot) = (&self.setup.options, &self.setup.slot);
        Ok(follow::slot_position(options, slot, session).await?.restart)
    }

    /// # Errors
    /// [`CaptureError::Superseded`].
    async fn still_writes(&self) -> Result<(), CaptureError> {
        let own = self.setup.right.writer;
        match self.setup.right.taken_by().await {
            Some(by) => Err(CaptureError::Superseded { own, by }),
            None => Ok(()),
        }
    }

    async fn margin_of(&self, session: &mut Session) -> Duration {
        let delay = session.show("wal_writer_delay").await.ok();
        let delay = delay.and_then(|text| super::session::parse_duration(&text));
        (delay.unwrap_or(Duration::from_millis(200)) * 4).max(Duration::from_secs(2))
    }

    async fn away(&mut self, error: &Error, backoff: &mut Backoff) {
        let standby = error.is_standby();
        self.setup.state.enter(if standby { Phase::Waiting } else { Phase::Connecting });
        let most = if standby { ROLE_EVERY } else { AWAY_MAX };
        let wait = backoff.next_wait().clamp(Duration::from_millis(200), most);
        let (class, state) = (error.class(), error.sqlstate());
        if let Some(kept_back) = self.repeat.tell(format!("{class:?} {state:?}")) {
            let (error, again_in_ms) = (proto::cli::causes(error), wait.as_millis() as u64);
            tracing::warn!(error, ?class, again_in_ms, kept_back, "source away: trying again");
        }
        self.pause(wait).await;
    }

    async fn pause(&self, wait: Duration) {
        held::pause(&self.stop, wait).await;
    }
}

enum Next {
    Stop,
    Again,
    Wait,
}

enum Streamed {
    Next(Next),
    /// The timeline has ended; the same connection goes on with the next.
    Epoch(Box<Session>),
}

/// A timeline's history file, raw, as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct HistoryFile {
    pub history: proto::postgres::history::History,
    pub raw: Bytes,
}
