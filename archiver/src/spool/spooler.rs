//! The task between ring and ship: takes the log in, cuts it into frames and compresses them side
//! by side. [`super::append`] appends them in order, fsyncs in groups and seals what is full.
//!
//! Enters: [`Item`]s. Leaves: [`SpoolEvent`]s, each after its bytes are on disk. Between two
//! flushes at most [`FRAME_RAW`] bytes wait uncut and [`COMPRESS_AHEAD_MAX`] frames are in work.
//! After a crash at any line the spool file holds whole frames; the rest comes again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use proto::disk::Disk;
use proto::position::{Epoch, Offset, Position};
use proto::segment::{Codec, FRAME_RAW, Frame, Hash, Watermark};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::SpoolError;
use super::append::{Appended, Compressed, Cut, Seal};
use super::compare::Compare;
use super::event::SpoolEvent;
use super::file::OpenFile;
use super::level::SpoolLevel;
use super::probe::FrameProbe;
use super::segmenter::{Segmenter, Slot};
use crate::ring::{Item, RingReceiver};
use crate::seal::SegmentIndexer;

/// Frames that may be in compression at once, at the most.
const COMPRESS_AHEAD_MAX: usize = 4;

/// How long the first new byte waits for company when nothing was flushed lately.
const COALESCE: Duration = Duration::from_millis(5);

/// What does not change while a spool lives.
#[derive(Debug, Clone)]
pub struct SpoolSetup {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub codec: Codec,
    /// The interval between flushes while there is something new.
    pub flush: Duration,
    pub segmenter: Arc<dyn Segmenter>,
    pub level: Arc<SpoolLevel>,
    pub probe: Arc<dyn FrameProbe>,
    pub lineage: u32,
    pub writer: u64,
}

/// Where a spool begins: found in store and spool folder by [`super::recover`].
#[derive(Debug)]
pub struct SpoolStart {
    pub epoch: Epoch,
    pub next: Offset,
    /// Hash of the segment before the one at `next`.
    pub previous: Hash,
    /// The file that continues, if the segment at `next` is already begun.
    pub open: Option<OpenFile>,
    /// How much of that file the store holds too, and the hash of it.
    pub proved: Option<(u64, Hash)>,
}

#[derive(Debug)]
pub struct Spooler {
    pub(super) setup: SpoolSetup,
    ring: RingReceiver,
    pub(super) events: mpsc::UnboundedSender<SpoolEvent>,
    pub(super) epoch: Epoch,
    pub(super) next: Offset,
    pub(super) previous: Hash,
    pub(super) open: Option<OpenFile>,
    /// The segment that takes what comes next, where the source says which.
    begun: Option<Slot>,
    /// The segment that the next data begins.
    begin: Option<u64>,
    /// The log's last bytes before `next`, as far as they are needed and not in `open`.
    pub(super) last: Bytes,
    pub(super) pending: BytesMut,
    pub(super) working: FuturesOrdered<JoinHandle<Compressed>>,
    /// The oldest frame, on its way into the file: one at a time.
    pub(super) appending: FuturesOrdered<JoinHandle<Result<Appended, SpoolError>>>,
    /// One for each frame in work.
    pub(super) cuts: std::collections::VecDeque<Cut>,
    pub(super) sealing: FuturesOrdered<JoinHandle<Result<Seal, SpoolError>>>,
    pub(super) compare: Option<Compare>,
    /// Until what was left by an earlier run has been compared with the source.
    pub(super) proved: Option<(u64, Hash)>,
    pub(super) flush_at: Option<Instant>,
    last_flush: Option<Instant>,
    pub(super) mark: Option<Watermark>,
    /// `None` only while a frame is being appended, like `open`.
    pub(super) indexer: Option<Box<dyn SegmentIndexer>>,
    /// Buffers of frames that are on disk, and of what they were compressed to.
    pub(super) spare: Vec<BytesMut>,
    pub(super) spare_frames: Vec<Vec<u8>>,
    /// Frames that may be in work at once.
    pub(super) ahead: usize,
}

/// One frame for each core, and one that is written meanwhile: more would only wait, each with three
/// megabytes of buffers and state.
fn compress_ahead() -> usize {
    if cfg!(test) {
        // A seed's history is the same on every machine.
        return 2;
    }
    std::thread::available_parallelism()
        .map_or(3, |cores| (cores.get() + 1).clamp(3, COMPRESS_AHEAD_MAX))
}

impl Spooler {
    pub fn new(
        setup: SpoolSetup,
        start: SpoolStart,
        indexer: Box<dyn SegmentIndexer>,
        ring: RingReceiver,
        events: mpsc::UnboundedSender<SpoolEvent>,
    ) -> Self {
        Self {
            setup,
            ring,
            events,
            epoch: start.epoch,
            next: start.next,
            previous: start.previous,
            begun: start.open.as_ref().map(|open| open.slot.clone()),
            begin: None,
            last: Bytes::new(),
            open: start.open,
            pending: BytesMut::with_capacity(FRAME_RAW),
            working: FuturesOrdered::new(),
            appending: FuturesOrdered::new(),
            cuts: std::collections::VecDeque::new(),
            sealing: FuturesOrdered::new(),
            compare: None,
            proved: start.proved,
            flush_at: None,
            last_flush: None,
            mark: None,
            indexer: Some(indexer),
            spare: Vec::new(),
            spare_frames: Vec::new(),
            ahead: compress_ahead(),
        }
    }

    /// Names the bytes that stand before where the spool begins: a source that takes up in the
    /// segment before sends them again.
    #[must_use]
    pub fn behind(self, last: Bytes) -> Self {
        Self { last, ..self }
    }

    /// Runs until the source is gone and everything it handed on is on disk.
    ///
    /// # Errors
    /// [`SpoolError`]; what was flushed before stays valid.
    pub async fn run(mut self) -> Result<(), SpoolError> {
        // What an earlier run left goes on its way, whether the source is there or not: but not
        // where only the source can tell whether it is whole.
        if let Some(open) = &self.open {
            self.announce(open, false);
        }
        let ended = self.work().await;
        if ended.is_err() {
            // Whoever reads the folder next must find nobody else at work in it.
            while self.appending.next().await.is_some() {}
            while self.sealing.next().await.is_some() {}
        }
        ended
    }

    async fn work(&mut self) -> Result<(), SpoolError> {
        loop {
            let flush_at = self.flush_at;
            tokio::select! {
                biased;
                Some(done) = self.appending.next() => self.appended(done).await?,
                Some(done) = self.working.next(), if self.appending.is_empty() => {
                    self.append(done)?;
                }
                Some(done) = self.sealing.next() => self.sealed(done)?,
                () = sleep_until(flush_at), if flush_at.is_some() => self.flush(false).await?,
                item = self.ring.next(), if self.in_work() < self.ahead => match item {
                    Some(item) => self.take(item).await?,
                    None => {
                        self.flush(true).await?;
                        return self.drain().await;
                    }
                },
            }
        }
    }

    async fn take(&mut self, item: Item) -> Result<(), SpoolError> {
        match item {
            Item::Data { start, bytes, clock } => self.take_data(start, bytes, clock).await,
            Item::Mark(mark) => {
                self.mark = Some(mark);
                if self.is_flushed() {
                    self.state().into_iter().for_each(|state| self.send(SpoolEvent::Idle(state)));
                }
                Ok(())
            }
            Item::Begin { number } => {
                self.begin = Some(number);
                Ok(())
            }
            Item::Resume { from } => self.resume(from).await,
            Item::Flush => self.flush(true).await,
            Item::Object { key, bytes } => {
                self.drain().await?;
                self.send(SpoolEvent::Object { key, bytes });
                Ok(())
            }
            Item::Epoch(change) => self.change_epoch(change).await,
            Item::Skip { from, done } => {
                self.end_at_gap(from).await?;
                self.begun = None;
                self.send(SpoolEvent::Skipped { from: Position::new(self.epoch, from) });
                // The waiting side may be gone: a stopping source needs no answer.
                let _ = done.send(());
                Ok(())
            }
        }
    }

    async fn take_data(
        &mut self,
        start: Offset,
        mut bytes: Bytes,
        clock: Option<proto::timestamp::Timestamp>,
    ) -> Result<(), SpoolError> {
        let mut at = start;
        // What is held already has begun its segment.
        let begin = self.begin.take().filter(|_| start == self.next);
        if self.compare.is_some() {
            at = self.compare(start, &mut bytes)?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
        if at != self.next {
            return Err(SpoolError::Discontinuous { expected: self.next, found: at });
        }
        if let Some(number) = begin {
            self.begin(number).await?;
        }
        while !bytes.is_empty() {
            self.setup.probe.received(clock);
            let slot = self.slot_at(self.next).expect("a source begins a segment before its bytes");
            let to_end = slot.room(self.next.since(slot.start).0);
            let room = (FRAME_RAW - self.pending.len()) as u64;
            let len = room.min(to_end).min(bytes.len() as u64);
            let piece = bytes.split_to(usize::try_from(len).expect("at most bytes.len()"));
            self.pending.extend_from_slice(&piece);
            self.next = Offset(self.next.0 + len);
            if self.pending.len() == FRAME_RAW || len == to_end {
                self.cut(false, false);
                self.keep_up().await?;
            }
        }
        // What a new epoch copies is told to nobody before it is proved.
        if self.compare.is_none() {
            self.arm_flush();
        }
        Ok(())
    }

    /// What came so far is a segment; the next byte begins another.
    async fn begin(&mut self, number: u64) -> Result<(), SpoolError> {
        self.cut(false, false);
        if let Some(last) = self.cuts.back_mut() {
            last.ends = true;
        } else if let Some(open) = self.open.take() {
            self.seal(open, false).await?;
        }
        self.begun = Some(self.setup.segmenter.named(self.epoch, number, self.next));
        self.last = Bytes::new();
        self.keep_up().await
    }

    /// The segment that the byte at `at` belongs to, as far as it is known.
    pub(super) fn slot_at(&self, at: Offset) -> Option<Slot> {
        let held = self.setup.segmenter.holding(Position::new(self.epoch, at));
        held.or_else(|| self.begun.clone())
    }

    async fn keep_up(&mut self) -> Result<(), SpoolError> {
        while self.in_work() >= self.ahead {
            self.advance().await?;
        }
        Ok(())
    }

    /// The next flush: soon when nothing was flushed lately, else when the interval is over.
    fn arm_flush(&mut self) {
        if self.flush_at.is_none() {
            let soon = Instant::now() + COALESCE;
            let due = self.last_flush.map_or(soon, |last| last + self.setup.flush);
            self.flush_at = Some(due.max(soon));
        }
    }

    /// Hands the uncut bytes to a compressor.
    fn cut(&mut self, flush: bool, urgent: bool) {
        if self.pending.is_empty() {
            return;
        }
        let next = self.spare.pop().unwrap_or_else(|| BytesMut::with_capacity(FRAME_RAW));
        let raw = std::mem::replace(&mut self.pending, next).freeze();
        let start = Offset(self.next.0 - raw.len() as u64);
        self.setup.probe.cut(Position::new(self.epoch, start), &raw);
        let codec = self.setup.codec;
        let slot = self.slot_at(start).expect("known since its first byte came");
        self.cuts.push_back(Cut { slot, ends: false, flush, urgent });
        let buffer = self.spare_frames.pop().unwrap_or_default();
        self.working.push_back(crate::work::spawn(move || {
            let frame = Frame::of_in(codec, &raw, buffer);
            (raw, frame)
        }));
    }

    /// Everything handed on so far goes to disk and is announced.
    pub(super) async fn flush(&mut self, urgent: bool) -> Result<(), SpoolError> {
        self.flush_at = None;
        self.last_flush = Some(Instant::now());
        if !self.pending.is_empty() {
            self.cut(true, urgent);
        } else if let Some(last) = self.cuts.back_mut() {
            last.flush = true;
            last.urgent |= urgent;
        } else if let Some(mut open) = self.open.take() {
            open = blocking(move || open.sync().map(|()| open)).await?;
            self.drain_sealing(0).await?;
            self.announce(&open, urgent);
            self.open = Some(open);
        }
        Ok(())
    }

    /// What was handed on and not cut comes again.
    pub(super) fn forget_uncut(&mut self) {
        self.pending.clear();
        self.flush_at = None;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Runs disk work where waiting for it stops nothing else.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, SpoolError> {
    crate::work::spawn(work).await.map_err(|_| SpoolError::Worker)?
}
