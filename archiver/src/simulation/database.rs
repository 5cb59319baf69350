//! A database that writes a log of its own making, and lets go of what was acknowledged: what is
//! asked for again after that is lost.
//!
//! Enters: acknowledgements. Leaves: ring items, as a physical replication connection hands them
//! on: from a segment's start, in pieces of any size, with connections that break.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proto::archive::ArchiveError;
use proto::position::{Offset, Position};
use proto::postgres::lsn::{Lsn, SegmentSize};
use proto::segment::Watermark;
use proto::store::Store;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::store::MemoryStore;
use crate::pipeline::{Opened, PipelineError};
use crate::ring::Item;
use crate::seal::SegmentIndexer;
use crate::ship::AckFrom;
use crate::ship::resume::End;
use crate::source::CaptureStart;
use crate::source::postgres::end;
use crate::spool::{Segmenter, Slot, WalSegments};
use crate::testing::Log;
use crate::watch::state::Phase;

pub(super) const SEGMENT: u64 = 1 << 20;
/// The log begins with the second segment, as initdb's does.
pub(super) const BEGIN: u64 = SEGMENT;
/// A message of the walsender holds at most so much (walsender.c, `MAX_SEND_SIZE`).
const MESSAGE_MAX: u64 = 128 << 10;

pub(super) fn size() -> SegmentSize {
    SegmentSize::try_from(SEGMENT).expect("a size that PostgreSQL has")
}

/// A history of `len` bytes: half of each page random, so that it compresses as a log does.
pub(super) fn history(seed: u64, len: usize) -> Arc<Vec<u8>> {
    let (mut rng, mut bytes) = (StdRng::seed_from_u64(seed), vec![0; len]);
    for page in bytes.chunks_mut(8192) {
        let half = page.len() / 2;
        rng.fill_bytes(&mut page[..half]);
    }
    Arc::new(bytes)
}

#[derive(Debug)]
struct State {
    /// The end of what is written.
    written: u64,
    acknowledged: u64,
    rng: StdRng,
    reconnects: u64,
}

/// The server: it outlives every machine that follows it.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) history: Arc<Vec<u8>>,
    state: Mutex<State>,
    store: Arc<MemoryStore>,
    ack: AckFrom,
}

impl Database {
    pub(super) fn new(
        history: Arc<Vec<u8>>,
        store: Arc<MemoryStore>,
        ack: AckFrom,
        seed: u64,
    ) -> Arc<Self> {
        let rng = StdRng::seed_from_u64(seed);
        let state = State { written: BEGIN, acknowledged: BEGIN, rng, reconnects: 0 };
        Arc::new(Self { history, state: Mutex::new(state), store, ack })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    pub(super) fn end(&self) -> u64 {
        BEGIN + self.history.len() as u64
    }

    pub(super) fn written(&self) -> u64 {
        self.state().written
    }

    pub(super) fn reconnects(&self) -> u64 {
        self.state().reconnects
    }

    /// Up to `bytes` more are written.
    pub(super) fn write(&self, bytes: u64) {
        let mut state = self.state();
        state.written = self.end().min(state.written + bytes);
    }

    fn random<T>(&self, choose: impl FnOnce(&mut StdRng) -> T) -> T {
        choose(&mut self.state().rng)
    }

    fn acknowledge(&self, position: Position) {
        let at = position.offset.0;
        let covered = self.store.covered();
        if self.ack == AckFrom::Store {
            assert!(at <= covered, "{at} was acknowledged, and the store holds up to {covered}");
        }
        let mut state = self.state();
        assert!(at <= state.written, "{at} was acknowledged and never written");
        state.acknowledged = state.acknowledged.max(at);
    }

    /// The start of a stream; panics when the log there is gone.
    fn connect(&self, received: u64) -> u64 {
        let from = received / SEGMENT * SEGMENT;
        let mut state = self.state();
        let kept = state.acknowledged / SEGMENT * SEGMENT;
        assert!(from >= kept, "asked for {from}, and everything before {kept} was let go");
        assert!(received <= state.written, "{received} is held and was never written");
        state.reconnects += 1;
        from
    }
}

/// The sidecar's side of it.
#[derive(Debug, Clone)]
pub(super) struct Streamed {
    pub(super) database: Arc<Database>,
    /// How likely a connection breaks at each message.
    pub(super) breaks: f64,
}

/// Why a connection ended.
enum Ended {
    Broken,
    Full,
    Stopped,
}

impl Streamed {
    async fn run(self, start: CaptureStart) -> Result<(), PipelineError> {
        let mut received = start.next.offset.0;
        loop {
            while start.state.level.is_full() && !start.stop.is_cancelled() {
                start.state.enter(Phase::Held);
                tokio::time::sleep(Duration::from_millis(200)).await;
                if start.state.level.has_room() && !start.ring.is_full() {
                    break;
                }
            }
            match self.connection(&start, &mut received).await? {
                Ended::Stopped => return Ok(()),
                Ended::Full => {}
                Ended::Broken => {
                    let wait = self.database.random(|rng| rng.random_range(200..2000));
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
            }
        }
    }

    async fn connection(
        &self,
        start: &CaptureStart,
        received: &mut u64,
    ) -> Result<Ended, PipelineError> {
        let database = &self.database;
        let mut at = database.connect(*received);
        start.ring.push(Item::Resume { from: Offset(at) })?;
        start.state.enter(Phase::Streaming);
        let ended = loop {
            if let Some(durable) = *start.durable.acknowledged.borrow() {
                database.acknowledge(durable.position());
            }
            if start.stop.is_cancelled() {
                break Ended::Stopped;
            }
            if database.random(|rng| rng.random_bool(self.breaks)) {
                break Ended::Broken;
            }
            if start.state.level.is_full() {
                break Ended::Full;
            }
            let clock = start.ground.clock.wall();
            let len = (database.written() - at).min(MESSAGE_MAX);
            if len == 0 {
                let mark = Watermark { clock, offset: Offset(at), margin_ms: 2000 };
                start.ring.push(Item::Mark(mark))?;
                let wait = database.random(|rng| rng.random_range(5..300));
                tokio::time::sleep(Duration::from_millis(wait)).await;
                continue;
            }
            let len = database.random(|rng| rng.random_range(1..=len));
            let from = usize::try_from(at - BEGIN).expect("small");
            let to = from + usize::try_from(len).expect("small");
            let bytes = Bytes::copy_from_slice(&database.history[from..to]);
            start.ring.push(Item::Data { start: Offset(at), bytes, clock: Some(clock) })?;
            at += len;
            *received = at.max(*received);
            let room = tokio::time::timeout(Duration::from_secs(3), start.ring.room());
            if room.await.is_err() {
                break Ended::Full;
            }
        };
        start.ring.push(Item::Flush)?;
        Ok(ended)
    }
}

#[async_trait]
impl Log for Streamed {
    fn opened(&self) -> Opened {
        super::opened()
    }

    fn segmenter(&self) -> Arc<dyn Segmenter> {
        Arc::new(WalSegments(size()))
    }

    fn indexer(&self) -> Box<dyn SegmentIndexer> {
        Box::new(Plain)
    }

    async fn find_end(&self, store: &dyn Store, opened: &Opened) -> Result<End, ArchiveError> {
        end::find_end(store, opened.lineage, opened.postgres()).await
    }

    async fn send(self, start: CaptureStart) -> Result<(), PipelineError> {
        self.run(start).await
    }
}

/// Nothing is read out of bytes without a meaning; an index is made all the same.
#[derive(Debug)]
struct Plain;

impl SegmentIndexer for Plain {
    fn version(&self) -> u32 {
        1
    }
    fn feed(&mut self, _slot: &Slot, _offset: u64, _raw: &[u8]) {}
    fn finish(&mut self, slot: &Slot, raw_len: u64) -> Option<Vec<u8>> {
        Some(format!("{} {raw_len}", slot.number).into_bytes())
    }
}

/// Where the log of the lineage begins.
pub(super) const fn first() -> Lsn {
    Lsn(BEGIN)
}
