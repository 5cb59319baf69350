//! The sidecar's side of a physical replication connection: from a segment's start, in pieces of any
//! size, with connections that break.
//!
//! Enters: what the database has written. Leaves: ring items, as the capture of PostgreSQL hands
//! them on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proto::archive::ArchiveError;
use proto::position::{Epoch, Offset, Position};
use proto::postgres::lsn::{Lsn, SegmentId};
use proto::segment::Watermark;
use proto::store::Store;
use rand::Rng;

use super::database::{Database, size};
use super::fate::Fate;
use super::seen::ARCHIVED;
use crate::pipeline::{Opened, PipelineError};
use crate::ring::{EpochChange, Item};
use crate::seal::SegmentIndexer;
use crate::ship::resume::End;
use crate::source::CaptureStart;
use crate::source::postgres::capture::CaptureError;
use crate::source::postgres::end;
use crate::spool::{Segmenter, Slot, WalSegments};
use crate::testing::Log;
use crate::watch::state::Phase;

/// A message of the walsender holds at most so much (walsender.c, `MAX_SEND_SIZE`).
const MESSAGE_MAX: u64 = 128 << 10;

/// One machine's connections.
#[derive(Debug, Clone)]
pub(super) struct Streamed {
    pub(super) database: Arc<Database>,
    pub(super) fate: Arc<Fate>,
    /// How likely a connection breaks at each message.
    pub(super) breaks: f64,
}

/// Why a connection ended.
pub(super) enum Ended {
    Broken,
    /// The server's epoch is a later one.
    Branched,
    Full,
    Stopped,
}

/// Waits, as every source does, until there is room for what comes.
pub(super) async fn until_room(start: &CaptureStart) {
    while start.state.level.is_full() && !start.stop.is_cancelled() {
        start.state.enter(Phase::Held);
        tokio::time::sleep(Duration::from_millis(200)).await;
        if start.state.level.has_room() && !start.ring.is_full() {
            break;
        }
    }
}

impl Streamed {
    async fn run(self, start: CaptureStart) -> Result<(), PipelineError> {
        let mut received = start.next;
        loop {
            until_room(&start).await;
            let admitted = self.database.admits(&self.fate);
            let ended = match admitted {
                true => self.connection(&start, &mut received).await?,
                // Another one has the slot.
                false if start.stop.is_cancelled() => Ended::Stopped,
                false => Ended::Broken,
            };
            match ended {
                Ended::Stopped => return Ok(()),
                Ended::Full | Ended::Branched => {}
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
        received: &mut Position,
    ) -> Result<Ended, PipelineError> {
        self.fate.awake().await;
        let log = &self.database.log;
        if received.epoch > Epoch(1) {
            self.push_history(start, received.epoch)?;
        }
        // The server has no byte of our timeline from the open segment on (walsender.c).
        if log.left_at(received.epoch).is_some_and(|(_, at)| at < log.floor(received.offset.0)) {
            self.change_epoch(start, received).await?;
        }
        loop {
            let Some(from) = self.database.connect(*received) else {
                return Err(self.let_go(start, *received).await);
            };
            start.ring.push(Item::Resume { from: Offset(from) })?;
            start.state.enter(Phase::Streaming);
            let ended = self.stream(start, received, from).await?;
            start.ring.push(Item::Flush)?;
            match ended {
                Ended::Branched => self.change_epoch(start, received).await?,
                ended => return Ok(ended),
            }
        }
    }

    /// Follows a promotion as the capture does (`source::postgres::capture::follow`).
    async fn change_epoch(
        &self,
        start: &CaptureStart,
        received: &mut Position,
    ) -> Result<(), PipelineError> {
        let log = &self.database.log;
        let (next, at) = log.left_at(received.epoch).expect("a branch");
        let from = log.floor(at);
        let previous = if from == log.floor(received.offset.0) {
            None
        } else {
            let wanted = Position::new(received.epoch, Offset(from));
            while !start.stop.is_cancelled() && start.state.stored().is_none_or(|s| s < wanted) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let id = SegmentId::containing(received.epoch.into(), Lsn(from), size());
            let (store, opened) = (&*start.ground.store, &start.opened);
            let hash = end::previous_hash(store, opened.lineage, opened.postgres(), id);
            Some(hash.await.map_err(CaptureError::Archive)?)
        };
        self.push_history(start, next)?;
        let (at, from) = (Offset(at), Offset(from));
        start.ring.push(Item::Epoch(EpochChange { at, next, from, previous }))?;
        *received = Position::new(next, from);
        Ok(())
    }

    fn push_history(&self, start: &CaptureStart, epoch: Epoch) -> Result<(), PipelineError> {
        let key = start.opened.lineage.history(epoch.into());
        let bytes = Bytes::from(self.database.log.history(epoch));
        Ok(start.ring.push(Item::Object { key, bytes })?)
    }

    /// What the capture says when the server no longer has what comes next, and the store does.
    async fn let_go(&self, start: &CaptureStart, received: Position) -> PipelineError {
        let (store, opened) = (&*start.ground.store, &start.opened);
        let held = Lsn::from(received.offset);
        let asked = end::is_stored_beyond(store, opened.lineage, opened.postgres(), received);
        match asked.await {
            Ok(stored) => {
                assert!(stored, "asked for what is behind {received:?}, and it was let go");
                self.database.note(ARCHIVED);
                CaptureError::Archived { held }.into()
            }
            Err(error) => CaptureError::Archive(error).into(),
        }
    }

    async fn stream(
        &self,
        start: &CaptureStart,
        received: &mut Position,
        from: u64,
    ) -> Result<Ended, PipelineError> {
        let (database, mut at) = (&self.database, from);
        let server = database.epoch();
        loop {
            self.fate.awake().await;
            if start.stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            // Another one may have taken the slot while we stood still.
            let gone = database.epoch() != server || !database.admits(&self.fate);
            if gone || database.random(|rng| rng.random_bool(self.breaks)) {
                return Ok(Ended::Broken);
            }
            if let Some(durable) = *start.durable.acknowledged.borrow() {
                database.acknowledge(durable.position(), from);
            }
            if start.state.level.is_full() {
                return Ok(Ended::Full);
            }
            let clock = start.ground.clock.wall();
            let branch = database.log.left_at(received.epoch).map(|(_, at)| at);
            let end = branch.unwrap_or(database.written().offset.0);
            let len = (end - at).min(MESSAGE_MAX);
            if len == 0 && branch.is_some() {
                return Ok(Ended::Branched);
            }
            if len == 0 {
                let mark = Watermark { clock, offset: Offset(at), margin_ms: 2000 };
                start.ring.push(Item::Mark(mark))?;
                let wait = database.random(|rng| rng.random_range(5..300));
                tokio::time::sleep(Duration::from_millis(wait)).await;
                continue;
            }
            let len = database.random(|rng| rng.random_range(1..=len));
            let bytes = self.bytes(received.epoch, at, len);
            start.ring.push(Item::Data { start: Offset(at), bytes, clock: Some(clock) })?;
            at += len;
            received.offset = received.offset.max(Offset(at));
            let room = tokio::time::timeout(Duration::from_secs(3), start.ring.room());
            if room.await.is_err() {
                return Ok(Ended::Full);
            }
        }
    }

    fn bytes(&self, epoch: Epoch, at: u64, len: u64) -> Bytes {
        let log = &self.database.log;
        let from = usize::try_from(at - log.begin).expect("small");
        let to = from + usize::try_from(len).expect("small");
        Bytes::copy_from_slice(&log.line(epoch).bytes[from..to])
    }
}

#[async_trait]
impl Log for Streamed {
    fn opened(&self) -> Opened {
        self.database.opened()
    }

    fn segmenter(&self) -> Arc<dyn Segmenter> {
        Arc::new(WalSegments(size()))
    }

    fn indexer(&self) -> Box<dyn SegmentIndexer> {
        Box::new(Plain)
    }

    fn is_streamed(&self) -> Option<bool> {
        self.database.is_streamed()
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
pub(super) struct Plain;

impl SegmentIndexer for Plain {
    fn version(&self) -> u32 {
        1
    }
    fn feed(&mut self, _slot: &Slot, _offset: u64, _raw: &[u8]) {}
    fn finish(&mut self, slot: &Slot, raw_len: u64) -> Option<Vec<u8>> {
        Some(format!("{} {raw_len}", slot.number).into_bytes())
    }
}
