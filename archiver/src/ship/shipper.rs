//! The task that brings segments and tails into the store and says what is durable.
//!
//! Enters: [`SpoolEvent`]s. Leaves: objects, and [`Durable`] positions. Sealed segments go up side
//! by side, tails one after the other; what is durable is the unbroken run of both. After a crash
//! at any line every object is whole or absent, and the next run finds where they end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use proto::position::{Offset, Position};
use proto::segment::TailKind;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::acks::{AckPolicy, Acks};
use super::blocked::{self, Blocker, Waiting};
use super::lanes::{LANES_MAX, Lanes};
use super::newest::Newest;
use super::order::Order;
use super::put::{put_exact, put_sealed};
use super::tails::{Grown, ShipTools, TailChain};
use super::{Durable, ShipError};
use crate::seal::IndexQueue;
use crate::spool::{OpenState, SealedFile, SpoolEvent, SpoolLevel};

/// While the source is idle, one watermark object in this time.
pub const WATERMARK_EVERY: Duration = Duration::from_secs(60);

/// A segment, and how many of its raw bytes the store holds.
type Uploaded = Result<(SealedFile, u64), ShipError>;
type TailDone = (TailChain, Result<(), ShipError>);

/// What is durable, for the source, the base and the metrics.
#[derive(Debug, Clone)]
pub struct DurableWatch {
    /// What may be acknowledged, by `--ack` and the slot's pressure.
    pub acknowledged: watch::Receiver<Option<Durable>>,
    /// What the store holds without a hole.
    pub stored: watch::Receiver<Option<Position>>,
}

pub struct Shipper {
    tools: ShipTools,
    acks: Acks,
    lanes: Arc<Lanes>,
    level: Arc<SpoolLevel>,
    index: IndexQueue,
    inbox: mpsc::UnboundedReceiver<SpoolEvent>,
    /// What must be done before what the spool said since is looked at.
    blocker: Option<Blocker>,
    waiting: Waiting,
    published: watch::Sender<Option<Position>>,
    stored: Order,
    queue: VecDeque<SealedFile>,
    uploads: FuturesUnordered<BoxFuture<'static, Uploaded>>,
    /// In the store, behind one that is not: with `--ack spool` the database may have let go of both,
    /// so their files stay where the next run takes up.
    ahead: Vec<SealedFile>,
    chain: Option<TailChain>,
    tail: Option<BoxFuture<'static, TailDone>>,
    latest: Option<OpenState>,
    idle: Option<OpenState>,
    watermark_at: Option<Instant>,
    newest: Newest,
}

/// Where shipping begins.
pub struct ShipStart {
    /// What the store holds without a hole.
    pub stored: Option<Position>,
    /// The open segment's chain, if it has one.
    pub chain: Option<TailChain>,
    /// What an earlier run sealed and did not bring up.
    pub sealed: Vec<SealedFile>,
}

impl Shipper {
    pub fn new(
        tools: ShipTools,
        ack: impl Into<AckPolicy>,
        level: Arc<SpoolLevel>,
        index: IndexQueue,
        inbox: mpsc::UnboundedReceiver<SpoolEvent>,
        start: ShipStart,
    ) -> (Self, DurableWatch) {
        let (acks, acknowledged) = Acks::new(ack.into(), start.stored);
        let (published, stored) = watch::channel(start.stored);
        let watch = DurableWatch { acknowledged, stored };
        let newest = Newest::since(tools.writer);
        let mut shipper = Self {
            tools,
            acks,
            lanes: Arc::new(Lanes::new()),
            level,
            index,
            inbox,
            blocker: None,
            waiting: Waiting::default(),
            published,
            stored: Order::starting(start.stored),
            queue: VecDeque::new(),
            uploads: FuturesUnordered::new(),
            ahead: Vec::new(),
            chain: start.chain,
            tail: None,
            latest: None,
            idle: None,
            watermark_at: None,
            newest,
        };
        for sealed in start.sealed {
            shipper.acks.spooled(end_of(&sealed));
            shipper.take_sealed(sealed);
        }
        (shipper, watch)
    }

    /// Runs until the spool is gone and everything it sent is in the store.
    ///
    /// # Errors
    /// [`ShipError`]: fenced, or two histories under one key. A store that is away is no error.
    pub async fn run(mut self) -> Result<(), ShipError> {
        let mut open = true;
        loop {
            self.go_on();
            self.start_uploads();
            self.start_tail();
            let idle = self.is_idle();
            if !idle {
                self.newest.ask(&self.tools);
            }
            if !open && idle && self.blocker.is_none() {
                return Ok(());
            }
            tokio::select! {
                biased;
                Some(done) = self.uploads.next() => self.uploaded(done?),
                (chain, done) = in_flight(&mut self.tail) => {
                    self.tail = None;
                    self.tail_done(chain, done)?;
                }
                answer = self.newest.answer() => answer?,
                done = blocked::object(&mut self.blocker) => {
                    self.blocker = None;
                    done?;
                }
                () = self.acks.tend() => {}
                event = self.inbox.recv(), if open => match event {
                    Some(event) => self.heard(event),
                    None => open = false,
                },
            }
        }
    }

    /// What is on disk counts at once where the spool's word counts, whatever the rest waits for.
    fn heard(&mut self, event: SpoolEvent) {
        match &event {
            SpoolEvent::Flushed(state) => {
                self.acks.spooled(Position::new(state.slot.name.epoch, state.end()));
            }
            SpoolEvent::Sealed(sealed) => self.acks.spooled(end_of(sealed)),
            _ => {}
        }
        self.waiting.push(event);
    }

    /// Looks at what waits, up to the next thing that must be done first.
    fn go_on(&mut self) {
        loop {
            if let Some(Blocker::Gap { from }) = self.blocker
                && self.is_idle()
            {
                // What was on its way is up, so that its end stays true.
                self.stored.skip_to(from);
                self.announce();
                self.blocker = None;
            }
            if self.blocker.is_some() {
                return;
            }
            let Some(event) = self.waiting.pop() else { return };
            self.take(event);
        }
    }

    /// Nothing is on its way, and nothing is left to send.
    fn is_idle(&self) -> bool {
        let sent = self.queue.is_empty() && self.latest.is_none();
        sent && self.uploads.is_empty() && self.tail.is_none()
    }

    fn take(&mut self, event: SpoolEvent) {
        match event {
            SpoolEvent::Flushed(state) => {
                self.stored.begin(state.slot.name.epoch, state.slot.start);
                self.latest = Some(state);
            }
            SpoolEvent::Sealed(sealed) => self.take_sealed(sealed),
            SpoolEvent::Idle(state) => self.idle = Some(state),
            SpoolEvent::Object { key, bytes } => {
                let (store, health) = (self.tools.store.clone(), self.tools.health.clone());
                let put = async move { put_exact(&*store, &health, &key, &bytes).await };
                self.blocker = Some(Blocker::Object(Box::pin(put)));
            }
            SpoolEvent::Skipped { from } => self.blocker = Some(Blocker::Gap { from }),
        }
    }

    fn take_sealed(&mut self, sealed: SealedFile) {
        let (epoch, start) = (sealed.slot.name.epoch, sealed.slot.start);
        self.stored.sealed(epoch, start, end_of(&sealed).offset);
        if self.latest.as_ref().is_some_and(|latest| latest.slot == sealed.slot) {
            self.latest = None;
        }
        self.queue.push_back(sealed);
    }

    fn announce(&mut self) {
        if let Some(position) = self.stored.durable() {
            self.published.send_replace(Some(position));
            self.acks.stored(position);
            let reached = |file: &mut SealedFile| end_of(file) <= position;
            for sealed in self.ahead.extract_if(.., reached) {
                self.index.hand_on(sealed, &self.tools, &self.level);
            }
        }
    }

    fn start_uploads(&mut self) {
        while self.uploads.len() < LANES_MAX
            && let Some(sealed) = self.queue.pop_front()
        {
            let (tools, lanes) = (self.tools.clone(), self.lanes.clone());
            self.uploads.push(Box::pin(async move {
                let key = if sealed.footer.partial {
                    tools.lineage.partial(&sealed.slot.name)
                } else {
                    tools.lineage.sealed(&sealed.slot.name)
                };
                let held = put_sealed(&tools, &lanes, &key, &sealed).await?;
                Ok((sealed, held))
            }));
        }
    }

    fn uploaded(&mut self, (sealed, held): (SealedFile, u64)) {
        let (epoch, start) = (sealed.slot.name.epoch, sealed.slot.start);
        self.stored.confirm(epoch, start, Offset(start.0 + held));
        if sealed.footer.partial {
            self.stored.branched(epoch, start);
        }
        metrics::counter!("pitr_segments_total").increment(1);
        self.ahead.push(sealed);
        self.announce();
    }

    /// One tail at a time: the newest bytes, else a watermark when one is due.
    fn start_tail(&mut self) {
        if self.tail.is_some() {
            return;
        }
        let now = Instant::now();
        let due = self.watermark_at.is_none_or(|at| now >= at + WATERMARK_EVERY);
        let state = match (self.latest.take(), self.idle.take()) {
            (Some(state), _) => state,
            (None, Some(state)) if due => state,
            _ => return,
        };
        if state.mark.is_some() {
            self.watermark_at = Some(now);
        }
        let chain = match self.chain.take() {
            Some(chain) if chain.segment == state.slot.name.name => chain,
            _ => TailChain::new(state.head, state.slot.name.name.clone()),
        };
        self.tail = Some(Box::pin(ship_tail(self.tools.clone(), chain, state)));
    }

    fn tail_done(
        &mut self,
        chain: TailChain,
        done: Result<(), ShipError>,
    ) -> Result<(), ShipError> {
        done?;
        self.stored.begin(chain.head.epoch, chain.head.start);
        self.stored.confirm(chain.head.epoch, chain.head.start, chain.end());
        self.announce();
        self.chain = Some(chain);
        Ok(())
    }
}

fn end_of(file: &SealedFile) -> Position {
    Position::new(file.slot.name.epoch, Offset(file.slot.start.0 + file.footer.raw_len))
}

async fn in_flight(tail: &mut Option<BoxFuture<'static, TailDone>>) -> TailDone {
    match tail {
        Some(tail) => tail.await,
        None => std::future::pending().await,
    }
}

/// Lengthens the chain to `state`, or proves with an empty tail that nothing is new.
pub(super) async fn ship_tail(
    tools: ShipTools,
    mut chain: TailChain,
    state: OpenState,
) -> TailDone {
    let done = async {
        if chain.raw_len() >= state.raw_len {
            if state.mark.is_some() {
                chain.put_empty(&tools, TailKind::Watermark, state.mark).await?;
            }
        } else {
            while chain.raw_len() < state.raw_len {
                match chain.put_data(&tools, &state, state.mark).await? {
                    Grown::Whole => {}
                    Grown::Adopted => {
                        tools.health.adopted();
                        // It is still at work, and may have the same bytes first each time: fenced
                        // again here, where the chain holds nothing that we do not have.
                        chain.put_empty(&tools, TailKind::Fence, None).await?;
                    }
                    Grown::Ahead => break,
                }
            }
        }
        chain.merge_due(&tools, &state).await
    }
    .await;
    // The file goes away when its segment is sealed meanwhile: its seal then holds these bytes.
    let done = match done {
        Err(ShipError::Spool(error)) if error.is_gone() => Ok(()),
        other => other,
    };
    (chain, done)
}
