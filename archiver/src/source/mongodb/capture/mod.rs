//! Following a replica set for ever: find a member, prove that it continues where the log ends,
//! follow its oplog, find another one.
//!
//! Enters: where the log goes on. Leaves: the log, in the ring, without a hole that is not recorded.
//! Nothing is kept: after a crash the next run asks from what spool and store hold.

mod ahead;
pub(crate) mod packer;
mod events;
mod follow;
mod gap;
#[cfg(test)]
mod packer_tests;
mod window;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use proto::clock::Clock;
use proto::mongodb::event::Inexact;
use proto::mongodb::{OpTime, OplogTs, SourceMode};
use proto::position::{Epoch, Offset, Position};
use proto::store::retry::Backoff;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::changes::{self, Stream};
use super::tail::{self, From, Tail};
use super::{Class, ConnectOptions, Error, Member};
use crate::ring::RingSender;
use crate::ship::Right;
use crate::source::held;
use crate::watch::repeat::Repeat;
use crate::watch::state::State;
use packer::Packer;
pub use packer::{Last, OpenSegment, Reached, SEGMENT_BYTES};

/// An oplog has one epoch (docs/decisions/0010-positions-of-mongodb-are-byte-offsets.md).
pub const EPOCH: Epoch = Epoch(1);

/// Where a change stream begins of which nothing is held behind a gap: now.
pub(super) const BEHIND_A_GAP: OplogTs = OplogTs(0);

/// What ends the capture: only a contradiction, never a set that is away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    #[error("the archive belongs to replica set {expected}, and {member} is of {found}")]
    WrongSet { expected: String, found: String, member: String },
    #[error("the archive is of the set's {archived}, and --source-mode says {asked}")]
    OtherMode { archived: SourceMode, asked: SourceMode },
    /// While the set was away or we stood still.
    #[error("writer {by} has taken over; this is writer {own}")]
    Superseded { own: u64, by: u64 },
    #[error(transparent)]
    Source(#[from] Error),
    #[error(transparent)]
    Pipeline(#[from] crate::ring::Closed),
}

/// A stretch of the oplog that no member has any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The last entry before it.
    pub last: OpTime,
    /// The first entry behind it.
    pub first: OpTime,
    /// The range of offsets that stands for it.
    pub from: Position,
    pub to: Position,
    pub reason: String,
}

/// What the log does not have, and a new base brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    Gap(Gap),
    /// A collection of which a change stream does not show what it holds from this time on.
    Collection {
        at: OplogTs,
        name: String,
        reason: String,
    },
}

/// What a capture needs to know; it does not change while it runs.
#[derive(Clone)]
pub struct CaptureSetup {
    pub options: ConnectOptions,
    /// [`super::SetFacts::id`] of the set that the archive is of.
    pub set: String,
    pub clock: Arc<dyn Clock>,
    pub state: Arc<State>,
    /// Told of each loss, before anything behind it is archived: done when it is recorded, and a new
    /// base is wanted.
    pub on_loss: Arc<dyn Fn(Loss) -> BoxFuture<'static, ()> + Send + Sync>,
    /// By which a gap is told; `None` without an archive.
    pub right: Option<Right>,
}

/// Where the log goes on, as spool and store have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continue {
    /// The end of what is held.
    pub next: Offset,
    /// The newest entry that is held; `None` before the first one, and behind a gap.
    pub last: Option<Last>,
    /// The segment that is open.
    pub open: Option<OpenSegment>,
    /// Where to begin when there is no newest entry.
    pub first: OplogTs,
}

pub struct Capture {
    setup: CaptureSetup,
    ring: RingSender,
    stop: CancellationToken,
    packer: Packer,
    first: OplogTs,
    reached: watch::Sender<Option<Reached>>,
    /// The members, when the set was last seen.
    known: BTreeSet<String>,
    /// How often members that are away were waited for.
    asked: u32,
    repeat: Repeat,
    /// Whether a change stream is asked to split large events.
    splits: bool,
}

/// What one member sends.
enum Cursor {
    Oplog(Tail),
    Events(Stream),
}

enum Next {
    Stop,
    Again,
    Wait,
}

impl Cursor {
    const fn member(&self) -> &Member {
        match self {
            Self::Oplog(tail) => tail.member(),
            Self::Events(stream) => stream.member(),
        }
    }

    async fn next(&mut self) -> Result<tail::Batch, Error> {
        match self {
            Self::Oplog(tail) => tail.next().await,
            Self::Events(stream) => stream.next().await,
        }
    }
}

impl Capture {
    pub fn new(
        setup: CaptureSetup,
        ring: RingSender,
        stop: CancellationToken,
        from: Continue,
    ) -> Self {
        let repeat = Repeat::new(setup.clock.clone());
        let packer = Packer::new(from.next, from.last, from.open);
        let reached = watch::Sender::new(packer.reached());
        Self {
            setup,
            ring,
            stop,
            packer,
            first: from.first,
            reached,
            known: BTreeSet::new(),
            asked: 0,
            repeat,
            splits: true,
        }
    }

    /// The same of a change stream; `last` is the last document that is held.
    ///
    /// # Errors
    /// When that is no event.
    pub fn of_events(mut self, last: Option<&bson::RawDocument>) -> Result<Self, CaptureError> {
        let held = self.packer.last().zip(last);
        let packer = std::mem::replace(&mut self.packer, Packer::new(Offset(0), None, None));
        self.packer = packer.of_events(held).map_err(|source| Error::Held { source })?;
        self.reached.send_replace(self.packer.reached());
        Ok(self)
    }

    /// Which entries have been handed on, and where their log ends.
    pub fn reached(&self) -> watch::Receiver<Option<Reached>> {
        self.reached.subscribe()
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// [`CaptureError`], when waiting would not help.
    pub async fn run(mut self) -> Result<(), CaptureError> {
        let mut backoff = Backoff::new();
        while !self.stop.is_cancelled() {
            let before = self.packer.next();
            let ended = self.once().await;
            if self.packer.next() != before {
                backoff.reset();
            }
            match ended {
                Ok(Next::Stop) => break,
                Ok(Next::Again) => {}
                Ok(Next::Wait) => self.wait_for_room().await,
                Err(CaptureError::Source(error)) if error.class() == Class::WrongSet => {
                    return Err(error.into());
                }
                Err(CaptureError::Source(error)) => self.away(&error, &mut backoff).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    const fn is_of_events(&self) -> bool {
        !self.setup.options.mode.is_oplog()
    }

    /// A cursor of this member that begins where the log goes on.
    async fn cursor(&mut self, member: &Member) -> Result<(Cursor, tail::Batch), Error> {
        if !self.is_of_events() {
            let opened = Tail::open(member.clone(), self.from()).await;
            return opened.map(|(tail, first)| (Cursor::Oplog(tail), first));
        }
        let begin = self.packer.stream_begin().unwrap_or(changes::Begin::At(self.first));
        let opened = Stream::open(member.clone(), &begin, &mut self.splits).await;
        opened.map(|(stream, first)| (Cursor::Events(stream), first))
    }

    /// Where a cursor is to begin.
    fn from(&self) -> From {
        self.packer.last().map_or(From::AtLeast(self.first), |last| From::Entry(last.at))
    }

    fn position(&self) -> Position {
        Position::new(EPOCH, self.packer.next())
    }

    /// Once a minute of each kind, with how many of them there were.
    fn tell_inexact(&mut self, inexact: Inexact, at: OplogTs) {
        metrics::counter!("pitr_inexact_events_total").increment(1);
        let (what, remedy) = match inexact {
            Inexact::Path => (
                "an update by a dotted path, which may be a name as well",
                "changeStreamPreAndPostImages on its collection, or MongoDB 6.1, makes it exact",
            ),
            Inexact::TimeSeries => ("a time-series collection", "it is left out"),
            Inexact::ConvertToCapped => (
                "convertToCapped, which does not show its documents",
                "the collection is left out of what is restored until a base follows: one is taken now, unless there is --no-base",
            ),
        };
        if let Some(kept_back) = self.repeat.tell(what.to_owned()) {
            tracing::warn!(%at, kept_back, "a change stream does not tell exactly: {what}; {remedy}");
        }
    }

    async fn away(&mut self, error: &Error, backoff: &mut Backoff) {
        self.setup.state.beat();
        let wait = backoff.next_wait().max(Duration::from_millis(200));
        let class = error.class();
        if let Some(kept_back) = self.repeat.tell(format!("{class:?}")) {
            let (error, again_in_ms) = (proto::cli::causes(error), wait.as_millis() as u64);
            tracing::warn!(error, ?class, again_in_ms, kept_back, "source away: trying again");
        }
        self.pause(wait).await;
    }

    async fn pause(&self, wait: Duration) {
        held::pause(&self.stop, wait).await;
    }
}
