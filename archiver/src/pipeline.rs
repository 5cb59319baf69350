//! The whole capture, put together: source → ring → spool → ship, and what stands beside it.
//!
//! Enters: a source, an archive, settings. Leaves: an archive that follows the database. What an
//! earlier run left is found in the store and the spool; nothing else is remembered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::archive::ArchiveError;
use proto::clock::Clock;
use proto::disk::Disk;
use proto::position::Position;
use proto::segment::Codec;
use proto::store::{Class, Store};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

pub use crate::begin::Opened;
use crate::ring::ring;
use crate::seal::IndexQueue;
use crate::ship::health::Health;
use crate::ship::resume;
use crate::ship::{
    AckFrom, AckPolicy, DurableWatch, Right, ShipError, ShipStart, ShipTools, Shipper,
};
use crate::source::postgres::capture::CaptureError;
use crate::source::{CaptureStart, Source, mongodb};
use crate::spool::held::{self, HeldError};
use crate::spool::recover::{self, RecoverSetup};
use crate::spool::spooler::blocking;
use crate::spool::{SpoolError, SpoolLevel, SpoolSetup, Spooler, unstored};
use crate::watch::lag::LagProbe;
use crate::watch::line;
use crate::watch::state::{Phase, State};

/// How long a stop waits for the last tail.
const LAST_TAIL: Duration = Duration::from_secs(8);

/// What a run is told.
#[derive(Debug, Clone)]
pub struct Settings {
    pub source: Arc<dyn Source>,
    pub spool: PathBuf,
    pub codec: Codec,
    pub flush: Duration,
    pub ack: AckFrom,
    pub new_lineage: bool,
}

/// What everything stands on.
#[derive(Debug, Clone)]
pub struct Ground {
    pub store: Arc<dyn Store>,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub health: Arc<Health>,
    pub level: Arc<SpoolLevel>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Mongodb(#[from] mongodb::capture::CaptureError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Ship(#[from] ShipError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Source(#[from] crate::source::postgres::Error),
    /// Two writers could not be kept apart there, or what was written not be found again.
    #[error("the store at {address} lacks {}", missing.join(", "))]
    Lacking { address: String, missing: Vec<&'static str> },
    /// What a source says when nobody takes its log any more.
    #[error(transparent)]
    Closed(#[from] crate::ring::Closed),
    #[error("a task of the pipeline died")]
    Task,
}

impl From<HeldError> for PipelineError {
    fn from(error: HeldError) -> Self {
        match error {
            HeldError::Spool(error) => error.into(),
            HeldError::Archive(error) => error.into(),
        }
    }
}

impl From<proto::store::StoreError> for PipelineError {
    fn from(error: proto::store::StoreError) -> Self {
        Self::Archive(error.into())
    }
}

impl PipelineError {
    /// Whether building the pipeline anew can mend it: what the local disk did, a store that was away
    /// when the source asked it, an end of the log that has moved on.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Capture(CaptureError::Archived { .. }) => true,
            Self::Capture(CaptureError::Archive(error)) => error.class() == Class::Retry,
            Self::Spool(error) => error.is_retryable(),
            Self::Ship(ShipError::Spool(error)) => error.is_retryable(),
            _ => self.is_closed(),
        }
    }

    /// Whether it says only that the pipeline has ended, and not why.
    const fn is_closed(&self) -> bool {
        use mongodb::capture::CaptureError as Oplog;
        matches!(
            self,
            Self::Closed(_)
                | Self::Capture(CaptureError::Pipeline(_))
                | Self::Mongodb(Oplog::Pipeline(_))
        )
    }

    /// Whether another writer has taken over.
    pub const fn is_fenced(&self) -> bool {
        use mongodb::capture::CaptureError as Oplog;
        matches!(
            self,
            Self::Ship(ShipError::Fenced { .. })
                | Self::Capture(CaptureError::Superseded { .. })
                | Self::Mongodb(Oplog::Superseded { .. })
        )
    }
}

/// How long an end waits for the store to take the last bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastTail {
    /// A few seconds: what is not taken stays in the spool.
    Hurried,
    /// As long as whoever waits has patience.
    Awaited,
}

impl LastTail {
    fn deadline(self) -> tokio::time::Instant {
        let wait = match self {
            Self::Hurried => LAST_TAIL,
            Self::Awaited => Duration::from_secs(24 * 3600),
        };
        tokio::time::Instant::now() + wait
    }
}

/// A capture that runs.
pub struct Running {
    pub state: Arc<State>,
    pub durable: DurableWatch,
    pub base_wanted: Arc<Notify>,
    stop: CancellationToken,
    capture: tokio::task::JoinHandle<Result<(), PipelineError>>,
    spool: tokio::task::JoinHandle<Result<(), SpoolError>>,
    ship: tokio::task::JoinHandle<Result<(), ShipError>>,
    index: tokio::task::JoinHandle<()>,
}

/// Builds the pipeline at the end of what store and spool hold and starts it.
///
/// # Errors
/// When the store or the local disk fails, or another writer is newer.
pub async fn start(
    ground: &Ground,
    settings: &Settings,
    opened: &Opened,
    writer: u64,
    stop: CancellationToken,
) -> Result<Running, PipelineError> {
    // An error of this pipeline ends this pipeline, not the whole run.
    let stop = stop.child_token();
    let (lineage, engine, source) = (opened.lineage, opened.identity.engine, &settings.source);
    let segmenter = source.segmenter(opened);
    if let Some(spool_max) = ground.level.fit(segmenter.largest()) {
        tracing::warn!(%spool_max, "--spool-max has no room for a segment and what follows it: raised");
    }
    let mut end = source.find_end(&*ground.store, opened).await?;
    let tools = ShipTools {
        store: ground.store.clone(),
        disk: ground.disk.clone(),
        health: ground.health.clone(),
        lineage,
        writer,
        codec: settings.codec,
    };
    let chain = resume::fence(&tools, engine, &mut end).await?;
    let setup = RecoverSetup {
        disk: ground.disk.clone(),
        dir: settings.spool.clone(),
        codec: settings.codec,
        segmenter: segmenter.clone(),
        lineage: lineage.0,
        writer,
    };
    let (store_end, disk, commits) =
        (end.store.clone(), ground.disk.clone(), source.commits(opened));
    let (recovered, unstored) = blocking(move || {
        let recovered = recover::recover(&setup, &store_end)?;
        let stored = store_end.raw.len() as u64;
        let unstored = unstored::oldest_commits(&*disk, &recovered, stored, &*commits)?;
        Ok((recovered, unstored))
    })
    .await?;
    ground.level.set(recovered.bytes);
    let places = held::Places {
        disk: &ground.disk,
        store: &*ground.store,
        lineage,
        before: end.before.as_ref(),
    };
    let held = held::find(&places, &*segmenter, &recovered).await?;
    let probe = Arc::new(LagProbe::new(ground.clock.clone(), source.commits(opened)));
    probe.holds(unstored);
    let (health, level) = (ground.health.clone(), ground.level.clone());
    let state = Arc::new(State::new(engine, probe.clone(), health, level));
    let next = Position::new(recovered.start.epoch, recovered.start.next);
    tracing::info!(
        stored = %line::shown(engine, end.durable, |_| segmenter.last_entry(&end.store.raw)),
        held = %line::shown(engine, Some(next), |_| segmenter.last_entry(&held.last.as_ref()?.bytes)),
        waiting_segments = recovered.sealed.len(),
        writer, lineage = lineage.0, "continuing"
    );

    let (sender, receiver) = ring();
    let (events, inbox) = mpsc::unbounded_channel();
    let (index, index_task) =
        IndexQueue::start(source.indexer(opened), tools.clone(), ground.level.clone());
    let ack = AckPolicy::new(settings.ack, state.slot.pressure());
    let start = ShipStart { stored: end.durable, chain, sealed: recovered.sealed };
    let (shipper, durable) = Shipper::new(tools, ack, ground.level.clone(), index, inbox, start);
    state.watch(durable.clone());
    let spool_setup = SpoolSetup {
        disk: ground.disk.clone(),
        dir: settings.spool.clone(),
        codec: settings.codec,
        flush: settings.flush,
        segmenter,
        level: ground.level.clone(),
        probe,
        lineage: lineage.0,
        writer,
    };
    let behind = held.behind.clone();
    let spooler =
        Spooler::new(spool_setup, recovered.start, source.indexer(opened), receiver, events)
            .behind(behind);
    let base_wanted = Arc::new(Notify::new());
    let capture = source.capture(CaptureStart {
        ground: ground.clone(),
        opened: opened.clone(),
        ring: sender,
        durable: durable.clone(),
        state: state.clone(),
        stop: stop.clone(),
        base_wanted: base_wanted.clone(),
        next,
        held,
        right: Right { store: ground.store.clone(), lineage, writer },
    });
    Ok(Running {
        state,
        durable,
        base_wanted,
        stop,
        capture: tokio::spawn(capture),
        spool: tokio::spawn(spooler.run()),
        ship: tokio::spawn(shipper.run()),
        index: index_task,
    })
}

impl Running {
    /// Waits for the end: `stop` was cancelled and what was received is durable or in the spool,
    /// or something contradicts.
    ///
    /// # Errors
    /// The first contradiction.
    pub async fn finish(self, last_tail: LastTail) -> Result<(), PipelineError> {
        let Self { state, stop, mut capture, mut spool, mut ship, index, .. } = self;
        let aborts = [capture.abort_handle(), spool.abort_handle(), ship.abort_handle()];
        let ended = ended(&mut capture, &mut spool, &mut ship, last_tail).await;
        if ended.is_err() {
            stop.cancel();
            aborts[0].abort();
            aborts[2].abort();
            if !spool.is_finished() {
                // Without its source it ends by itself: whoever reads the folder next must find
                // nobody else at work in it.
                let _ = tokio::time::timeout(LAST_TAIL, &mut spool).await;
            }
            aborts[1].abort();
        }
        if !ended? {
            tracing::warn!(
                spool_bytes = state.level.bytes(),
                "the store did not take the last bytes in time; they stay in the spool"
            );
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        // An index that is not made in time is made by whoever needs it.
        let _ = tokio::time::timeout(LAST_TAIL, index).await;
        state.enter(Phase::Stopped);
        Ok(())
    }
}

type Task<E> = tokio::task::JoinHandle<Result<(), E>>;

/// Waits for all three, or for the first error. `false`: the store did not take the last bytes in
/// time after the source had ended.
async fn ended(
    capture: &mut Task<PipelineError>,
    spool: &mut Task<SpoolError>,
    ship: &mut Task<ShipError>,
    last_tail: LastTail,
) -> Result<bool, PipelineError> {
    let (mut spooled, mut shipped) = (false, false);
    let mut why_closed = None;
    let mut deadline = None;
    loop {
        tokio::select! {
            biased;
            done = &mut *spool, if !spooled => {
                flat(done)?;
                spooled = true;
            }
            done = &mut *ship, if !shipped => {
                flat(done)?;
                shipped = true;
            }
            done = &mut *capture, if deadline.is_none() => match flat(done) {
                Ok(()) => deadline = Some(last_tail.deadline()),
                // It says only that the others have ended: they know why.
                Err(closed) if closed.is_closed() => {
                    why_closed = Some(closed);
                    deadline = Some(last_tail.deadline());
                }
                Err(error) => return Err(error),
            },
            () = at(deadline), if deadline.is_some() => return why_closed.map_or(Ok(false), Err),
        }
        if spooled && shipped && deadline.is_some() {
            return why_closed.map_or(Ok(true), Err);
        }
    }
}

async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn flat<T, E: Into<PipelineError>>(
    done: Result<Result<T, E>, tokio::task::JoinError>,
) -> Result<(), PipelineError> {
    match done {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(PipelineError::Task),
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
