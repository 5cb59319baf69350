//! One connection: from finding a member to the end of its cursor.

use std::time::Duration;

use bson::RawDocument;
use proto::mongodb::{Event, OplogTs};
use proto::segment::Watermark;
use tokio::time::Instant;

use super::ahead::Ahead;
use super::packer::PackError;
use super::window::WINDOW_EVERY;
use super::{BEHIND_A_GAP, Capture, CaptureError, Cursor, Loss, Next};
use crate::ring::Item;
use crate::source::mongodb::set::identity;
use crate::source::mongodb::tail::{Batch, From};
use crate::source::mongodb::{Error, Hello, Member, ReplicaSet};
use crate::watch::state::Phase;

/// A ring that stays full for so long is a disk that stands still: the source is held.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(3);
/// How often a member is asked how far the set is, and a proof of completeness goes along.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// Idle noops are handed on this often, with the proof of that minute.
const NOOPS_EVERY: Duration = Duration::from_secs(60);
/// So long after its last event a change stream's end is noted.
const QUIET: Duration = Duration::from_secs(2);
/// Further behind than this, and the state says so.
const CATCHING_UP_SECONDS: u32 = 5;
/// What clocks and commits of the set may lag behind each other.
const MARGIN_MS: u32 = 2_000;

/// When something was done last.
struct Pulse {
    marked: Instant,
    released: Instant,
    windowed: Instant,
    /// When the stream last sent an event.
    busy: Instant,
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
    async fn open(&mut self) -> Result<Option<(Cursor, Batch)>, CaptureError> {
        let set = ReplicaSet::find_among(&self.setup.options, &self.known).await?;
        self.known = set.hosts();
        let mut tried = Vec::new();
        for (member, hello) in set.members() {
            self.setup.state.beat();
            if let Err(error) = hello.check(member.name(), self.setup.options.mode) {
                tried.push(error);
                continue;
            }
            if self.first == BEHIND_A_GAP {
                self.first = hello.majority.ts;
            }
            let found = identity(member).await;
            match found {
                Ok(found) if found != self.setup.set => {
                    let (expected, member) = (self.setup.set.clone(), member.name().to_owned());
                    return Err(CaptureError::WrongSet { expected, found, member });
                }
                Ok(_) => match self.cursor(member).await {
                    Ok(opened) => return Ok(Some(opened)),
                    Err(error) => tried.push(error),
                },
                Err(error) => tried.push(error),
            }
        }
        self.none_has_it(&set, tried).await
    }

    /// Follows one cursor to its end.
    async fn follow(&mut self, cursor: Cursor, first: Batch) -> Result<Next, CaptureError> {
        let mut cursor = Ahead::of(cursor);
        let member = cursor.member().clone();
        let (of_events, mode) = (self.is_of_events(), self.setup.options.mode);
        tracing::info!(member = member.name(), from = %shown(self.from()), "following the {mode}");
        // A change stream goes on behind what is held: the server proves that by the token.
        let again = self.packer.last().filter(|_| !of_events);
        let begin = again.map_or(self.packer.next(), |last| last.begin);
        self.ring.push(Item::Resume { from: begin })?;
        self.place();
        if of_events && self.packer.last().is_none() {
            self.packer.begin_stretch(self.first);
        }
        let now = Instant::now();
        let mut pulse = Pulse {
            marked: now - MARK_EVERY,
            released: now,
            windowed: now - WINDOW_EVERY,
            busy: now,
        };
        let mut proved = again.is_none();
        // The first answer may be empty before the member has looked.
        let (mut batch, mut looked) = (first, false);
        loop {
            let mut drained = looked;
            for entry in batch.entries(&member)? {
                let entry = entry?;
                let taken = match proved {
                    true if of_events => self.take_event(entry),
                    true => self.packer.take(entry).map(|()| None),
                    false => self.packer.again(entry).map(|()| None),
                };
                proved = true;
                let loss = taken.map_err(|error| wrong(&member, error))?;
                drained = false;
                if let Some(loss) = loss
                    && !self.record(loss).await
                {
                    return Ok(Next::Stop);
                }
                if !self.deliver().await? {
                    return Ok(Next::Wait);
                }
            }
            self.packer.heard(batch.resume_token(), drained);
            if looked && !drained {
                pulse.busy = Instant::now();
            }
            looked = true;
            self.packer.settle();
            self.hand_on()?;
            if let Some(next) = self.beat(&member, &mut pulse).await? {
                return Ok(next);
            }
            let stop = self.stop.clone();
            batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Next::Stop),
                batch = cursor.next() => batch?,
            };
        }
    }

    /// Packs an event; nothing of it is handed on before what it loses is recorded.
    fn take_event(&mut self, raw: &RawDocument) -> Result<Option<Loss>, PackError> {
        let Some(inexact) = self.packer.take_event(raw)? else { return Ok(None) };
        let event = Event::read(raw)?;
        self.tell_inexact(inexact, event.at);
        let reason = || "convertToCapped, which does not show its documents".to_owned();
        let loss = |name| Loss::Collection { at: event.at, name, reason: reason() };
        Ok(event.converts().map(loss))
    }

    /// Waits until the ledger has it, as long as that takes: an event that is archived is not sent
    /// again, and a kill before the record would leave its loss untold. `false`: it is to stop.
    async fn record(&self, loss: Loss) -> bool {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = (self.setup.on_loss)(loss) => true,
            () = stop.cancelled() => false,
        }
    }

    /// Says in the log how far a change stream is whole: soon behind its last event, and as often as
    /// an idle oplog's noops. It is never a part of a frame that holds something else: one that was
    /// written in part could not be written again.
    fn note(&mut self, pulse: &mut Pulse, now: Instant) -> Result<(), CaptureError> {
        let due = match self.packer.can_note() {
            Some(true) => now >= pulse.released + NOOPS_EVERY || self.is_awaited(),
            Some(false) => now >= pulse.busy + QUIET,
            None => false,
        };
        if due {
            pulse.released = now;
            self.packer.release();
            self.hand_on()?;
            self.ring.push(Item::Flush)?;
            self.packer.note_through();
            self.hand_on()?;
        }
        Ok(())
    }

    /// Whether a base waits for a moment that the stream has come to, and the log does not say so.
    fn is_awaited(&self) -> bool {
        let awaited = self.setup.state.awaited();
        let noted = self.packer.last().map_or(0, |last| last.at.ts.0);
        let reached = self.packer.reached().map_or(0, |reached| reached.at.ts.0);
        noted < awaited && awaited <= reached
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
            self.look_at_window(member, hello.majority.ts).await;
        }
        if self.is_of_events() {
            self.note(pulse, now)?;
        } else if now >= pulse.released + NOOPS_EVERY {
            pulse.released = now;
            self.packer.release();
            self.hand_on()?;
        }
        self.mark(&hello)?;
        Ok(None)
    }

    /// Keeps which entry the log has come to, for people.
    fn place(&self) {
        if let Some(last) = self.packer.last() {
            self.setup.state.entry_ends(self.packer.next(), last.at.ts);
        }
    }

    fn tell(&self, hello: &Hello) {
        let state = &self.setup.state;
        state.lag.heard(hello.local_time);
        self.place();
        state.received(self.position(), self.position());
        let seen = self.packer.reached().map_or(0, |reached| reached.at.ts.seconds());
        let behind = hello.majority.ts.seconds().saturating_sub(seen);
        state.streams(behind > CATCHING_UP_SECONDS);
    }

    /// Everything that the set had committed at some time of its own clock has been handed on. The
    /// newest entry's own time proves that for every member (an idle primary writes a noop every ten
    /// seconds). The present time proves it only where nobody else can be the primary: one that
    /// was cut off still says hello while another commits.
    fn mark(&self, hello: &Hello) -> Result<(), CaptureError> {
        let Some(reached) = self.packer.reached() else { return Ok(()) };
        let behind = hello.majority.ts <= reached.at.ts && self.is_of_events();
        let all = hello.last_write == hello.majority && (behind || hello.majority == reached.at);
        let clock = match self.is_of_events() {
            _ if all && hello.is_alone() => Some(hello.local_time),
            // Its seconds are its primary's clock, as the time of an entry is.
            true => Some(reached.at.ts.time()),
            false => self.packer.wall(),
        };
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
