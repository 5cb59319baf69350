//! A database that writes a log of its own making, is promoted now and then, and lets go of what was
//! acknowledged: what is asked for again after that is lost.
//!
//! Enters: acknowledgements. Leaves: how much of its log is written, and who may stream it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proto::archive::identity::{FORMAT_VERSION, Identity, MongoIdentity, PostgresIdentity};
use proto::archive::layout::Lineage;
use proto::mongodb::SourceMode;
use proto::position::{Epoch, Offset, Position};
use proto::postgres::lsn::{Lsn, SegmentSize, Timeline};
use proto::segment::Engine;
use proto::timestamp::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::time::Instant;

use super::fate::Fate;
use super::seen::{CURSORS, PROMOTIONS, PROMOTIONS_BELOW, RECONNECTS, Seen};
use super::store::MemoryStore;
use super::written::Written;
use crate::pipeline::Opened;
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
    /// The same, with the record that is not whole yet.
    wanted: u64,
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
    pub(super) engine: Engine,
    store: Arc<MemoryStore>,
    pub(super) ack: AckFrom,
    /// Whether one connection alone may stream, as from one slot of one server.
    exclusive: bool,
    /// Whether standbys take over.
    promotes: bool,
    state: Mutex<State>,
}

impl Database {
    pub(super) fn new(
        engine: Engine,
        log: Arc<Written>,
        store: Arc<MemoryStore>,
        ack: AckFrom,
        seed: u64,
    ) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        // An oplog has one epoch, and whoever wants to reads it.
        let slots = engine == Engine::Postgresql;
        let (exclusive, promotes) = (rng.random_bool(0.5), rng.random_bool(0.4));
        let (exclusive, promotes) = (exclusive && slots, promotes && slots);
        let begin = log.begin;
        let state = State {
            epoch: Epoch(1),
            written: begin,
            wanted: begin,
            acknowledged: begin,
            streamer: None,
            rng,
            seen: Seen::default(),
        };
        Arc::new(Self { log, engine, store, ack, exclusive, promotes, state: Mutex::new(state) })
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
        state.wanted = end.min(state.wanted.saturating_add(bytes));
        state.written = self.log.whole(state.wanted);
    }

    /// A standby takes over, if it has one: at the end of what is written or below it, below what is
    /// durable or archived too. It holds the log from what the archive has (DESIGN §5.6).
    pub(super) fn promote(&self, chance: f64) {
        let mut state = self.state();
        if !self.promotes || !state.rng.random_bool(chance) {
            return;
        }
        let lacks = [0, 200, 50_000, 2_000_000][state.rng.random_range(0..4)];
        let lacks = state.rng.random_range(0..=lacks);
        let begin = self.log.line(state.epoch).branch.map_or(self.log.begin, |(_, at)| at);
        let at = state.written.saturating_sub(lacks).max(begin);
        // Another standby may have been promoted and given up meanwhile.
        let next = Epoch(state.epoch.0 + state.rng.random_range(1..=3));
        let seed = state.rng.random();
        let held = self.store.held_to(state.epoch);
        self.log.branch(state.epoch, state.written, next, at, seed);
        tracing::info!(from = %state.epoch, to = %next, at, written = state.written, "promoted");
        state.acknowledged = state.acknowledged.min(at).min(held);
        (state.epoch, state.written, state.wanted, state.streamer) = (next, at, at, None);
        state.seen.count(PROMOTIONS, 1);
        state.seen.count(PROMOTIONS_BELOW, u64::from(at < held));
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

    pub(super) fn cursor_opened(&self) {
        self.note(CURSORS);
    }

    /// What a sidecar finds in the archive of this database.
    pub(super) fn opened(&self) -> Opened {
        let postgres = PostgresIdentity {
            segment_bytes: size(),
            version_num: 180_000,
            first: Lsn(BEGIN),
            first_timeline: Timeline(1),
        };
        let mongodb = MongoIdentity {
            version: "6.0.5".to_owned(),
            fcv: "6.0".to_owned(),
            set_name: "simulated".to_owned(),
            first: super::followed::FIRST,
            source_mode: SourceMode::Oplog,
        };
        let slots = self.engine == Engine::Postgresql;
        let identity = Identity {
            format: FORMAT_VERSION,
            engine: self.engine,
            cluster: "simulated".to_owned(),
            created: Timestamp(0),
            postgres: slots.then_some(postgres),
            mongodb: (!slots).then_some(mongodb),
        };
        Opened { lineage: Lineage(1), identity, fresh: false }
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
