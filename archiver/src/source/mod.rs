//! Where the bytes come from: one folder an engine, and what the pipeline asks of every one.
//!
//! A run is: a [`Source`] finds or begins its lineage, a writer epoch is taken, and the pipeline is
//! built around the source's capture. What differs between engines lies behind this trait.

mod buffers;
mod held;
pub mod postgres;
pub mod mongodb;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use proto::archive::ArchiveError;
use proto::archive::base::Complete;
use proto::position::Position;
use proto::store::Store;
use proto::timestamp::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::base::schedule::Due;
use crate::base::{BaseError, BaseOptions};
use crate::pipeline::{Ground, Opened, PipelineError};
use crate::ring::RingSender;
use crate::seal::SegmentIndexer;
use crate::ship::resume::End;
use crate::ship::{DurableWatch, Right};
use crate::spool::{Held, Segmenter};
use crate::watch::lag::CommitTimes;
use crate::watch::state::State;

/// A database to protect.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// Finds the lineage of the database, or begins one. Whatever is refused is refused before
    /// anything of it exists.
    ///
    /// # Errors
    /// When the archive is another database's, or one of both does not answer.
    async fn open(&self, ground: &Ground, new_lineage: bool) -> Result<Opened, PipelineError>;

    /// Refuses a database whose log does not continue the archive's: taking a writer epoch fences
    /// whoever has it.
    ///
    /// # Errors
    /// When it does not, or cannot be asked.
    async fn continues(&self, ground: &Ground, opened: &Opened) -> Result<(), PipelineError>;

    /// Whether ours is the primary of a newer epoch than any archived one: whoever writes the
    /// archive streams from a server that has been left behind (DESIGN §5.6).
    ///
    /// # Errors
    /// When the database or the store cannot be asked.
    async fn is_ahead(&self, ground: &Ground, opened: &Opened) -> Result<bool, PipelineError>;

    /// Whether somebody streams for this archive, as the database tells; `None` when it cannot.
    ///
    /// # Errors
    /// When the database does not answer.
    async fn is_streamed(&self) -> Result<Option<bool>, PipelineError>;

    /// Why somebody who streams, but not into this archive, is in our way.
    fn is_held(&self) -> PipelineError;

    /// Everything that the database has now.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn goal(&self) -> Result<Arc<dyn Goal>, PipelineError>;

    /// Where the unbroken log in the store ends.
    ///
    /// # Errors
    /// When the store fails, or what stands at the end is damaged.
    async fn find_end(&self, store: &dyn Store, opened: &Opened) -> Result<End, ArchiveError>;

    /// Where its segments end.
    fn segmenter(&self, opened: &Opened) -> Arc<dyn Segmenter>;

    /// Reads commit times, for the lag while catching up.
    fn commits(&self, opened: &Opened) -> Arc<dyn CommitTimes>;

    /// Makes the index of a segment.
    fn indexer(&self, opened: &Opened) -> Box<dyn SegmentIndexer>;

    /// Hands the log on from where it is held, until stopped.
    fn capture(&self, start: CaptureStart) -> BoxFuture<'static, Result<(), PipelineError>>;

    /// What a member that is not followed keeps for the day on which it is: one round of it, told
    /// again and again as long as the sidecar runs. `follows`: whether we stream from one now.
    ///
    /// # Errors
    /// When the store or the database does not answer: the next round may.
    async fn keep_ready(&self, _ground: &Ground, _follows: bool) -> Result<(), PipelineError> {
        Ok(())
    }

    /// Takes bases beside the capture.
    fn bases(&self, beside: Beside) -> Arc<dyn Bases>;
}

/// What a capture begins with.
#[derive(Debug)]
pub struct CaptureStart {
    pub ground: Ground,
    pub opened: Opened,
    pub ring: RingSender,
    pub durable: DurableWatch,
    pub state: Arc<State>,
    pub stop: CancellationToken,
    /// Told when the log has a gap: a new base is needed.
    pub base_wanted: Arc<Notify>,
    /// Where the log that is held ends.
    pub next: Position,
    pub held: Held,
    /// By which a gap is told.
    pub right: Right,
}

/// Everything that a database had at one moment: what `--once` makes durable.
#[async_trait]
pub trait Goal: Send + Sync + fmt::Display {
    /// The end of it in the archive; `None` while the capture has not come so far.
    fn reached(&self, state: &State) -> Option<Position>;

    /// Whether the log in the store, of which this is the end, holds it.
    ///
    /// # Errors
    /// When the store fails.
    async fn is_stored(
        &self,
        store: &dyn Store,
        opened: &Opened,
        end: &End,
    ) -> Result<bool, ArchiveError>;
}

/// What bases are taken beside.
#[derive(Debug, Clone)]
pub struct Beside {
    pub ground: Ground,
    pub opened: Opened,
    pub durable: DurableWatch,
    pub state: Arc<State>,
}

/// The bases of one lineage.
#[async_trait]
pub trait Bases: Send + Sync {
    /// When the next one is due, by the database's clock.
    ///
    /// # Errors
    /// When the archive cannot be read.
    async fn due(&self, asked: Asked) -> Result<Due, ArchiveError>;

    /// Takes one.
    ///
    /// # Errors
    /// [`BaseError`], by whose class the caller decides when to try again.
    async fn take(&self, options: &BaseOptions) -> Result<Complete, BaseError>;
}

/// What matters for when a base is due.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The database's clock.
    pub now: Timestamp,
    /// How often a base is wanted.
    pub every: Duration,
    /// When the last attempt failed, and how many have failed in a row.
    pub failed: Option<(Timestamp, u32)>,
}
