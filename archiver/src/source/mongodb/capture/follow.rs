//! One connection: from finding a member to the end of its cursor.

use std::time::Duration;

use proto::mongodb::OplogTs;
use proto::segment::Watermark;
use tokio::time::Instant;

use super::packer::PackError;
use super::{Capture, CaptureError, Next};
use crate::ring::Item;
use crate::source::mongodb::set::identity;
use crate::source::mongodb::tail::{Batch, From, Tail};
use crate::source::mongodb::{Error, Hello, Member, ReplicaSet, start};
use crate::watch::state::Phase;

/// A ring that stays full for so long is a disk that stands still: the source is held.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(3);
/// How often a member is asked how far the set is, and a proof of completeness goes along.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// Idle noops are handed on this often, with the proof of that minute.
const NOOPS_EVERY: Duration = Duration::from_secs(60);
/// Further behind than this, and the state says so.
const CATCHING_UP_SECONDS: u32 = 5;
/// How often a member is asked how far back its oplog goes.
const WINDOW_EVERY: Duration = Duration::from_secs(10);
/// While catching up with less than this in front of what the member removes, log may be lost.
const WINDOW_LOW_SECONDS: u32 = 600;
/// What clocks and commits of the set may lag behind each other.
const MARGIN_MS: u32 = 2_000;

/// When something was done last.
struct Pulse {
    marked: Instant,
    released: Instant,
    windowed: Instant,
}

impl Capture {
    pub(super) async fn once(&mut self) -> Result<Next, CaptureError> {
        if self.setup.state.level.is_full() {
            return Ok(Next::Wait);
        }
        self.setup.state.enter(Phase::Connecting);
        let stop = self.stop.clone();
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(Next::Stop),
            opened = self.open() => opened?,
        };
        let Some((tail, first)) = opened else { return Ok(Next::Again) };
        let ended = self.follow(tail, first).await;
        // What arrived is made durable whatever the next connection brings.
        self.packer.release();
        self.hand_on()?;
        self.ring.push(Item::Flush)?;
        ended
    }

    /// A cursor that begins with the newest entry that is held, on the first member that has it.
    /// `None`: the log goes on behind a gap, with another cursor.
    async fn open(&mut self) -> Result<Option<(Tail, Batch)>, CaptureError> {
        let set = ReplicaSet::find_among(&self.setup.options, &self.known).await?;
        self.known = set.hosts();
        let mut tried = Vec::new();
        for (member, _) in set.members() {
            self.setup.state.beat();
            let found = identity(member).await;
            match found {
                Ok(found) if found != self.setup.set => {
                    let (expected, member) = (self.setup.set.clone(), member.name().to_owned());
                    return Err(CaptureError::WrongSet { expected, found, member });
                }
                Ok(_) => match Tail::open(member.clone(), self.from()).await {
                    Ok(opened) => return Ok(Some(opened)),
                    Err(error) => tried.push(error),
                },
                Err(error) => tried.push(error),
            }
        }
        self.none_has_it(&set, tried).await
    }

    /// Follows one cursor to its end.
    async fn follow(&mut self, mut tail: Tail, first: Batch) -> Result<Next, CaptureError> {
        let member = tail.member().clone();
        tracing::info!(member = member.name(), from = %shown(self.from()), "following the oplog");
        let begin = self.packer.last().map_or(self.packer.next(), |last| last.begin);
        self.ring.push(Item::Resume { from: begin })?;
        let now = Instant::now();
        let mut pulse =
            Pulse { marked: now - MARK_EVERY, released: now, windowed: now - WINDOW_EVERY };
        let mut proved = self.packer.last().is_none();
        let mut batch = first;
        loop {
            for entry in batch.entries(&member)? {
                let entry = entry?;
                let taken = if proved { self.packer.take(entry) } else { self.packer.again(entry) };
                proved = true;
                taken.map_err(|error| wrong(&member, error))?;
                if !self.deliver().await? {
                    return Ok(Next::Wait);
                }
            }
            self.packer.settle();
            self.hand_on()?;
            if let Some(next) = self.beat(&member, &mut pulse).await? {
                return Ok(next);
            }
            let stop = self.stop.clone();
            batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Next::Stop),
                batch = tail.next() => batch?,
            };
        }
    }

    /// Hands on what is complete, waiting for room. `false`: there is none, and the source is held.
    async fn deliver(&mut self) -> Result<bool, CaptureError> {
        if self.packer.is_settled() {
            return Ok(true);
        }
        self.hand_on()?;
        if self.setup.state.level.is_full() {
            return Ok(false);
        }
        if !self.ring.is_full() {
            return Ok(true);
        }
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => Ok(true),
            room = tokio::time::timeout(ROOM_WAIT_MAX, self.ring.room()) => Ok(room.is_ok()),
        }
    }

    /// Between two batches: says how far we are, and proves it.
    async fn beat(
        &mut self,
        member: &Member,
        pulse: &mut Pulse,
    ) -> Result<Option<Next>, CaptureError> {
        self.setup.state.beat();
        if self.stop.is_cancelled() {
            return Ok(Some(Next::Stop));
        }
        if self.setup.state.level.is_full() {
            return Ok(Some(Next::Wait));
        }
        let now = Instant::now();
        if now < pulse.marked + MARK_EVERY {
            return Ok(None);
        }
        pulse.marked = now;
        let stop = self.stop.clone();
        let hello = tokio::select! {
            () = stop.cancelled() => return Ok(Some(Next::Stop)),
            hello = member.hello() => hello?,
        };
        self.tell(&hello);
        if now >= pulse.windowed + WINDOW_EVERY {
            pulse.windowed = now;
            self.watch_window(member).await;
        }
        if now >= pulse.released + NOOPS_EVERY {
            pulse.released = now;
            self.packer.release();
            self.hand_on()?;
        }
        self.mark(&hello)?;
        Ok(None)
    }

    fn tell(&self, hello: &Hello) {
        let state = &self.setup.state;
        state.lag.heard(hello.local_time);
        state.received(self.position(), self.position());
        let seen = self.packer.last().map_or(0, |last| last.at.ts.seconds());
        let behind = hello.majority.ts.seconds().saturating_sub(seen);
        let phase = if behind > CATCHING_UP_SECONDS { Phase::CatchingUp } else { Phase::Streaming };
        state.enter(phase);
    }

    /// Nothing holds an oplog for us: how long the member keeps what comes next is the time that a
    /// sidecar may be away.
    async fn watch_window(&mut self, member: &Member) {
        let Some(last) = self.packer.last() else { return };
        // Only looked at: the stream itself finds out when something is gone.
        let Ok(oldest) = start::oldest(member).await else { return };
        let window = last.at.ts.seconds().saturating_sub(oldest.ts.seconds());
        metrics::gauge!("pitr_oplog_window_seconds").set(f64::from(window));
        let behind = self.setup.state.phase() == Phase::CatchingUp;
        if behind
            && window < WINDOW_LOW_SECONDS
            && let Some(kept_back) = self.repeat.tell("window".to_owned())
        {
            tracing::error!(
                member = member.name(),
                window_seconds = window,
                kept_back,
                "OPLOG WINDOW UNDER PRESSURE: catching up, and what comes next is soon removed from the oplog; make the oplog larger (replSetResizeOplog)"
            );
        }
    }

    /// Everything that the set had committed at some time of its own clock has been handed on. The
    /// newest entry's own time proves that for every member (an idle primary writes a noop every ten
    /// seconds). The present time proves it only where nobody else can be the primary: one that
    /// was cut off still says hello while another commits.
    fn mark(&self, hello: &Hello) -> Result<(), CaptureError> {
        let Some(reached) = self.packer.reached() else { return Ok(()) };
        let all = hello.last_write == hello.majority && hello.majority == reached.at;
        let clock =
            if all && hello.is_alone() { Some(hello.local_time) } else { self.packer.wall() };
        if let Some(clock) = clock {
            let mark = Watermark { clock, offset: reached.end, margin_ms: MARGIN_MS };
            self.ring.push(Item::Mark(mark))?;
        }
        Ok(())
    }

    pub(super) fn hand_on(&mut self) -> Result<(), CaptureError> {
        for item in self.packer.items() {
            self.ring.push(item)?;
        }
        let reached = self.packer.reached();
        self.reached.send_if_modified(|known| {
            let changed = *known != reached;
            *known = reached;
            changed
        });
        Ok(())
    }
}

fn wrong(member: &Member, error: PackError) -> Error {
    let member = member.name().to_owned();
    match error {
        PackError::Entry(source) => Error::NoEntry { member, source },
        PackError::OutOfOrder { last, found } => Error::OutOfOrder { member, last, found },
    }
}

fn shown(from: From) -> OplogTs {
    match from {
        From::Entry(at) => at.ts,
        From::AtLeast(ts) => ts,
    }
}
