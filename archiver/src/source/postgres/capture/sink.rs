//! From stream events to ring items, without waiting.

use std::time::Duration;

use proto::position::{Offset, Position};
use proto::postgres::lsn::{Lsn, Timeline};
use proto::segment::Watermark;
use proto::timestamp::Timestamp;
use tokio::time::Instant;

use super::CaptureSetup;
use crate::ring::{Item, RingSender};
use crate::source::postgres::drive::{Push, Sink};
use crate::source::postgres::stream::StreamEvent;

/// A ring that stays full for so long is a disk that stands still: the source is held.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(3);
/// While busy, a proof of completeness goes along this often.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// Further behind than this, and the state says so.
const CATCHING_UP: u64 = 16 << 20;

pub(super) struct RingSink<'a> {
    ring: &'a RingSender,
    setup: &'a CaptureSetup,
    timeline: Timeline,
    /// Where this stream began.
    first: Offset,
    received: Lsn,
    margin_ms: u32,
    marked: Option<Instant>,
}

impl<'a> RingSink<'a> {
    pub(super) fn new(
        ring: &'a RingSender,
        setup: &'a CaptureSetup,
        timeline: Timeline,
        received: Lsn,
        margin: Duration,
    ) -> Self {
        let margin_ms = u32::try_from(margin.as_millis()).unwrap_or(u32::MAX);
        let first = received.into();
        Self { ring, setup, timeline, first, received, margin_ms, marked: None }
    }

    /// The end of what the ring holds; bytes sent again after a reconnect do not count.
    pub(super) const fn received(&self) -> Lsn {
        self.received
    }

    fn mark(&mut self, clock: Timestamp, at: Lsn) -> Push {
        let now = Instant::now();
        if self.marked.is_some_and(|last| now < last + MARK_EVERY) {
            return Push::Taken;
        }
        self.marked = Some(now);
        let mark = Watermark { clock, offset: at.into(), margin_ms: self.margin_ms };
        self.hand_on(Item::Mark(mark))
    }

    fn hand_on(&self, item: Item) -> Push {
        // A pipeline that has stopped ends the connection as a full one does; the capture sees it.
        if self.ring.push(item).is_ok() { Push::Taken } else { Push::Full }
    }

    fn tell(&self, wal_end: Lsn, clock: Timestamp) {
        let state = &self.setup.state;
        state.beat();
        state.lag.heard(clock);
        state.received(self.received.at(self.timeline), wal_end.at(self.timeline));
        // Nothing is in the store yet: the slot begins where we did.
        let (stored, acknowledged) = (state.stored(), state.acknowledged());
        let place = |known: Option<Position>| known.map_or(self.first, |known| known.offset);
        state.slot.measure(wal_end.into(), place(stored), place(acknowledged));
        state.streams(wal_end.since(self.received).0 > CATCHING_UP);
    }
}

impl Sink for RingSink<'_> {
    fn push(&mut self, event: StreamEvent) -> Push {
        match event {
            StreamEvent::Data { start, bytes, wal_end, server_time } => {
                let end = Lsn(start.0 + bytes.len() as u64);
                let start = Offset::from(start);
                let pushed = self.hand_on(Item::Data { start, bytes, clock: Some(server_time) });
                if pushed == Push::Full {
                    return pushed;
                }
                self.received = self.received.max(end);
                self.tell(wal_end, server_time);
                if end >= wal_end { self.mark(server_time, end) } else { Push::Taken }
            }
            StreamEvent::Keepalive { wal_end, server_time, .. } => {
                self.tell(wal_end, server_time);
                if wal_end == self.received { self.mark(server_time, wal_end) } else { Push::Taken }
            }
            StreamEvent::ShutdownSuspected { .. } => self.hand_on(Item::Flush),
            StreamEvent::Ended { .. } | StreamEvent::ServerStopped => Push::Taken,
        }
    }

    async fn room(&mut self) -> bool {
        if self.setup.state.level.is_full() {
            return false;
        }
        if !self.ring.is_full() {
            return true;
        }
        tokio::time::timeout(ROOM_WAIT_MAX, self.ring.room()).await.is_ok()
    }
}
