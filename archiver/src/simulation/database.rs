//! A database that writes a log of its own making, is promoted now and then, and lets go of what was
//! acknowledged: what is asked for again after that is lost.
//!
//! Enters: acknowledgements. Leaves: how much of its log is written, and who may stream it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proto::position::{Epoch, Offset, Position};
use proto::postgres::lsn::{Lsn, SegmentSize};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::time::Instant;

use super::fate::Fate;
use super::seen::{RECONNECTS, Seen};
use super::store::MemoryStore;
use super::written::Written;
use crate::ship::AckFrom;

pub(super) const SEGMENT: u64 = 1 << 20;
/// The log begins with the second segment, as initdb's does.
pub(super) const BEGIN: u64 = SEGMENT;
/// So much of the log is written in good weather.
const KEPT: u64 = SEGMENT / 2;
/// `wal_sender_timeout`: after that the server takes a connection for gone.
const SENDER_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn size() -> SegmentSize {
    SegmentSize::try_from(SEGMENT).expect("a size that PostgreSQL has")
}

/// So many bytes of log: half of each page random, so that it compresses as a log does.
pub(super) fn bytes(seed: u64, len: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bytes = vec![0; usize::try_from(len).expect("small")];
    for page in bytes.chunks_mut(8192) {
        let half = page.len() / 2;
        rng.fill_bytes(&mut page[..half]);
    }
    bytes
}

#[derive(Debug)]
struct State {
    epoch: Epoch,
    /// The end of what is written.
    written: u64,
    acknowledged: u64,
    /// Whose connection holds the slot, and when it was last heard of.
    streamer: Option<(Arc<Fate>, Instant)>,
    rng: StdRng,
    seen: Seen,
}

/// The server: it outlives every machine that follows it.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) log: Arc<Written>,
    store: Arc<MemoryStore>,
    pub(super) ack: AckFrom,
    /// Whether one connection alone may stream, as from one slot of one server.
    exclusive: bool,
    state: Mutex<State>,
}

impl Database {
    pub(super) fn new(
        log: Arc<Written>,
        store: Arc<MemoryStore>,
        ack: AckFrom,
        seed: u64,
    ) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let exclusive = rng.random_bool(0.5);
        let begin = log.begin;
        let state = State {
            epoch: Epoch(1),
            written: begin,
            acknowledged: begin,
            streamer: None,
            rng,
            seen: Seen::default(),
        };
        Arc::new(Self { log, store, ack, exclusive, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    pub(super) fn seen(&self) -> Seen {
        self.state().seen.clone()
    }

    pub(super) fn note(&self, what: &'static str) {
        self.state().seen.count(what, 1);
    }

    pub(super) fn random<T>(&self, choose: impl FnOnce(&mut StdRng) -> T) -> T {
        choose(&mut self.state().rng)
    }

    /// The epoch that it writes.
    pub(super) fn epoch(&self) -> Epoch {
        self.state().epoch
    }

    /// The end of what is written.
    pub(super) fn written(&self) -> Position {
        let state = self.state();
        Position::new(state.epoch, Offset(state.written))
    }

    /// The end of everything that it will ever write.
    pub(super) fn end(&self) -> Position {
        self.log.end(self.epoch())
    }

    /// How much it has not written yet.
    pub(super) fn rest(&self) -> u64 {
        self.end().offset.since(self.written().offset).0
    }

    /// The same, but for what is kept for good weather.
    pub(super) fn write_some(&self, bytes: u64) {
        self.write(bytes.min(self.rest().saturating_sub(KEPT)));
    }

    /// Up to `bytes` more are written.
    pub(super) fn write(&self, bytes: u64) {
        let mut state = self.state();
        let end = self.log.end(state.epoch).offset.0;
        state.written = end.min(state.written + bytes);
    }

    /// Takes an acknowledgement; `cap` is how far one of an older epoch counts.
    pub(super) fn acknowledge(&self, position: Position, cap: u64) {
        if self.ack == AckFrom::Store {
            let held = self.store.holds(position);
            assert!(held, "{position:?} was acknowledged, and the store does not hold it");
        }
        let mut state = self.state();
        let at = position.offset.0;
        let at = if position.epoch == state.epoch { at } else { at.min(cap) };
        assert!(at <= state.written, "{at} was acknowledged and never written");
        state.acknowledged = state.acknowledged.max(at);
    }

    /// Whether this machine's connection may stream now.
    pub(super) fn admits(&self, fate: &Arc<Fate>) -> bool {
        let mut state = self.state();
        let other = state.streamer.as_ref().filter(|(other, heard)| {
            !Arc::ptr_eq(other, fate) && !other.is_dead() && heard.elapsed() < SENDER_TIMEOUT
        });
        if self.exclusive && other.is_some() {
            return false;
        }
        state.streamer = Some((fate.clone(), Instant::now()));
        true
    }

    /// Whether the slot is in use; `None` where nobody can say.
    pub(super) fn is_streamed(&self) -> Option<bool> {
        let state = self.state();
        let active = state
            .streamer
            .as_ref()
            .is_some_and(|(fate, heard)| !fate.is_dead() && heard.elapsed() < SENDER_TIMEOUT);
        self.exclusive.then_some(active)
    }

    /// The start of a stream; `None` when the log there is gone.
    pub(super) fn connect(&self, received: Position) -> Option<u64> {
        let from = self.log.floor(received.offset.0);
        let mut state = self.state();
        let kept = self.log.floor(state.acknowledged);
        let own = received.epoch == state.epoch;
        let end = if own { state.written } else { self.log.end(received.epoch).offset.0 };
        assert!(received.offset.0 <= end, "{received:?} is held and was never written");
        state.seen.count(RECONNECTS, 1);
        (from >= kept).then_some(from)
    }
}

/// Where the log of the lineage begins.
pub(super) const fn first() -> Lsn {
    Lsn(BEGIN)
}
