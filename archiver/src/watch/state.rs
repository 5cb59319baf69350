//! What the sidecar is doing, in the words that logs, metrics and status lines use.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proto::clock::Clock;
use proto::mongodb::OplogTs;
use proto::position::{ByteCount, Offset, Position};
use proto::segment::Engine;
use proto::timestamp::Timestamp;

use super::forecast::{Left, Look};
use super::lag::{LagProbe, NoCommits};
use super::slot::Slot;
use super::window::Window;
use crate::ship::DurableWatch;
use crate::ship::health::Health;
use crate::spool::SpoolLevel;

/// DESIGN §5.5, §5.6: the states a sidecar can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Connecting,
    CatchingUp,
    Streaming,
    /// The store does not answer: the log goes into the spool.
    StoreAway,
    /// The store is so far behind that what the spool holds is acknowledged.
    SlotUnderPressure,
    /// MongoDB: what comes next is soon removed from the oplog.
    OplogWindowUnderPressure,
    /// The spool is full: disconnected, the slot alone holds the log.
    Held,
    /// The slot was dropped: the server's disk comes first.
    Released,
    /// Beside a standby, or behind another writer.
    Waiting,
    Fenced,
    Stopped,
}

impl Phase {
    /// Whether a server is followed, though nothing may come from it just now.
    pub const fn follows(self) -> bool {
        match self {
            Self::CatchingUp | Self::Streaming | Self::StoreAway | Self::SlotUnderPressure => true,
            Self::OplogWindowUnderPressure | Self::Held | Self::Released => true,
            Self::Starting | Self::Connecting => false,
            Self::Waiting | Self::Fenced | Self::Stopped => false,
        }
    }

    pub const ALL: [Self; 12] = [
        Self::Starting,
        Self::Connecting,
        Self::CatchingUp,
        Self::Streaming,
        Self::StoreAway,
        Self::SlotUnderPressure,
        Self::OplogWindowUnderPressure,
        Self::Held,
        Self::Released,
        Self::Waiting,
        Self::Fenced,
        Self::Stopped,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::CatchingUp => "catching-up",
            Self::Streaming => "streaming",
            Self::StoreAway => "store-away",
            Self::SlotUnderPressure => "slot-under-pressure",
            Self::OplogWindowUnderPressure => "oplog-window-under-pressure",
            Self::Held => "held",
            Self::Released => "released",
            Self::Waiting => "waiting",
            Self::Fenced => "fenced",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    received: Option<Position>,
    server_end: Option<Position>,
    durable: Option<DurableWatch>,
    base: Option<Timestamp>,
    base_failures: u64,
    left: Left,
}

/// What everybody may look at.
#[derive(Debug)]
pub struct State {
    pub engine: Engine,
    pub lag: Arc<LagProbe>,
    pub health: Arc<Health>,
    pub level: Arc<SpoolLevel>,
    pub slot: Slot,
    pub window: Window,
    beats: AtomicU64,
    awaited: AtomicU64,
    inner: Mutex<Inner>,
    /// Of a log that is counted in bytes: which entry ends at which byte, as far as it is known.
    entries: Mutex<VecDeque<(Offset, OplogTs)>>,
}

/// So many ends of entries are known; of more, every other one is forgotten.
const ENTRIES_MAX: usize = 4096;

impl State {
    pub fn new(
        engine: Engine,
        lag: Arc<LagProbe>,
        health: Arc<Health>,
        level: Arc<SpoolLevel>,
    ) -> Self {
        let inner = Inner {
            phase: Phase::Starting,
            received: None,
            server_end: None,
            durable: None,
            base: None,
            base_failures: 0,
            left: Left::default(),
        };
        let (beats, awaited) = (AtomicU64::new(0), AtomicU64::new(0));
        let (inner, entries) = (Mutex::new(inner), Mutex::default());
        let (slot, window) = (Slot::default(), Window::default());
        Self { engine, lag, health, level, slot, window, beats, awaited, inner, entries }
    }

    /// Of a sidecar that streams nothing yet.
    pub fn idle(clock: Arc<dyn Clock>, health: Arc<Health>, level: Arc<SpoolLevel>) -> Self {
        let lag = Arc::new(LagProbe::new(clock, Arc::new(NoCommits)));
        // It has no position that would be shown as an engine shows it.
        Self::new(Engine::Postgresql, lag, health, level)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    /// A sign of life of the capture: something was heard or tried.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// A base waits for this moment, as the engine counts: an idle source shall say soon that it has
    /// come so far.
    pub fn await_moment(&self, moment: u64) {
        self.awaited.fetch_max(moment, Ordering::Relaxed);
    }

    pub fn awaited(&self) -> u64 {
        self.awaited.load(Ordering::Relaxed)
    }

    pub fn enter(&self, phase: Phase) {
        self.beat();
        let was = std::mem::replace(&mut self.lock().phase, phase);
        if was != phase {
            tracing::info!(state = %phase, was = %was, "state");
        }
    }

    /// It streams, `behind` by more than a little: the state is what matters most of that.
    pub fn streams(&self, behind: bool) {
        self.enter(match () {
            () if self.slot.is_pressed() => Phase::SlotUnderPressure,
            () if self.window.is_pressed() => Phase::OplogWindowUnderPressure,
            () if self.health.is_long_away() => Phase::StoreAway,
            () if behind => Phase::CatchingUp,
            () => Phase::Streaming,
        });
    }

    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub fn received(&self, position: Position, server_end: Position) {
        let mut inner = self.lock();
        inner.received = Some(position);
        inner.server_end = Some(server_end);
    }

    /// Entry `at` ends at this byte.
    pub fn entry_ends(&self, end: Offset, at: OplogTs) {
        let mut entries = self.entries.lock().expect("no holder panics");
        // A gap or another start may have gone back.
        while entries.back().is_some_and(|(known, _)| *known >= end) {
            entries.pop_back();
        }
        entries.push_back((end, at));
        if entries.len() > ENTRIES_MAX {
            let mut number = 0;
            entries.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// The last entry that is known to end at this position or before it.
    pub fn entry_at(&self, position: Position) -> Option<OplogTs> {
        let entries = self.entries.lock().expect("no holder panics");
        let behind = entries.partition_point(|(end, _)| *end <= position.offset);
        entries.get(behind.checked_sub(1)?).map(|(_, at)| *at)
    }

    pub fn watch(&self, durable: DurableWatch) {
        self.lock().durable = Some(durable);
    }

    /// What the store holds without a hole.
    pub fn stored(&self) -> Option<Position> {
        self.lock().durable.as_ref().and_then(|watch| *watch.stored.borrow())
    }

    /// What may be acknowledged.
    pub fn acknowledged(&self) -> Option<Position> {
        let inner = self.lock();
        let watch = inner.durable.as_ref()?;
        let durable = *watch.acknowledged.borrow();
        durable.map(crate::ship::Durable::position)
    }

    pub fn positions(&self) -> (Option<Position>, Option<Position>) {
        let inner = self.lock();
        (inner.received, inner.server_end)
    }

    /// The figures that a forecast is made of.
    pub fn look(&self) -> Look {
        let slot = self.slot.figures();
        let held = match self.phase() {
            Phase::Held | Phase::Released => true,
            Phase::OplogWindowUnderPressure => self.level.is_full(),
            _ => false,
        };
        Look {
            spool: ByteCount(self.level.bytes()),
            spool_max: ByteCount(self.level.max()),
            disk_room: self.level.disk_room(),
            slot: slot.held.zip(slot.max).filter(|_| !slot.released),
            end: slot.end.map(|end| end.0),
            held,
            window: self.window.seconds(),
        }
    }

    pub fn forecast(&self, left: Left) {
        self.lock().left = left;
    }

    /// The newest forecast.
    pub fn left(&self) -> Left {
        self.lock().left
    }

    pub fn based(&self, finished: Timestamp) {
        self.lock().base = Some(finished);
    }

    pub fn base_failed(&self) {
        self.lock().base_failures += 1;
    }

    pub fn base(&self) -> (Option<Timestamp>, u64) {
        let inner = self.lock();
        (inner.base, inner.base_failures)
    }

    /// `pitr_rpo_lag_seconds`; unknown before the database was heard.
    pub fn lag_seconds(&self) -> Option<f64> {
        self.lag.seconds(self.stored())
    }
}
