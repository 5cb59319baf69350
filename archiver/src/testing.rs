//! What tests put in the place of what they do not look at.
//!
//! Enters: what a test says of its log. Leaves: a [`Source`] whose database holds nothing but that,
//! stores in folders, and what is not looked at.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use proto::archive::ArchiveError;
use proto::archive::base::Complete;
use proto::archive::layout::Lineage;
use proto::clock::SystemClock;
use proto::disk::SystemDisk;
use proto::segment::Codec;
use proto::store::{Access, Store, url};

use crate::base::schedule::Due;
use crate::base::{BaseError, BaseOptions};
use crate::pipeline::{Ground, Opened, PipelineError};
use crate::seal::SegmentIndexer;
use crate::ship::ShipTools;
use crate::ship::health::Health;
use crate::ship::resume::End;
use crate::source::{Asked, Bases, Beside, CaptureStart, Goal, Source};
use crate::spool::{Segmenter, Slot};
use crate::watch::lag::{CommitTimes, NoCommits};

/// A log of a test's own making.
#[async_trait]
pub(crate) trait Log: Clone + Debug + Send + Sync + 'static {
    fn opened(&self) -> Opened;

    fn segmenter(&self) -> Arc<dyn Segmenter>;

    fn indexer(&self) -> Box<dyn SegmentIndexer> {
        Box::new(NoIndex)
    }

    /// Whether somebody streams it; `None` where nobody can say.
    fn is_streamed(&self) -> Option<bool> {
        None
    }

    async fn find_end(&self, store: &dyn Store, opened: &Opened) -> Result<End, ArchiveError>;

    async fn send(self, start: CaptureStart) -> Result<(), PipelineError>;
}

/// A database that has such a log and nothing else: no commits, no bases, no other who streams it.
#[derive(Debug)]
pub(crate) struct LogAlone<L>(pub(crate) L);

#[async_trait]
impl<L: Log> Source for LogAlone<L> {
    async fn open(&self, _ground: &Ground, _new: bool) -> Result<Opened, PipelineError> {
        Ok(self.0.opened())
    }
    async fn continues(&self, _ground: &Ground, _opened: &Opened) -> Result<(), PipelineError> {
        Ok(())
    }
    async fn is_ahead(&self, _ground: &Ground, _opened: &Opened) -> Result<bool, PipelineError> {
        Ok(false)
    }
    async fn is_streamed(&self) -> Result<Option<bool>, PipelineError> {
        Ok(self.0.is_streamed())
    }
    fn is_held(&self) -> PipelineError {
        PipelineError::Task
    }
    async fn goal(&self) -> Result<Arc<dyn Goal>, PipelineError> {
        Err(PipelineError::Task)
    }
    async fn find_end(&self, store: &dyn Store, opened: &Opened) -> Result<End, ArchiveError> {
        self.0.find_end(store, opened).await
    }
    fn segmenter(&self, _opened: &Opened) -> Arc<dyn Segmenter> {
        self.0.segmenter()
    }
    fn commits(&self, _opened: &Opened) -> Arc<dyn CommitTimes> {
        Arc::new(NoCommits)
    }
    fn indexer(&self, _opened: &Opened) -> Box<dyn SegmentIndexer> {
        self.0.indexer()
    }
    fn capture(&self, start: CaptureStart) -> BoxFuture<'static, Result<(), PipelineError>> {
        self.0.clone().send(start)
    }
    fn bases(&self, _beside: Beside) -> Arc<dyn Bases> {
        Arc::new(NoBases)
    }
}

/// Segments that get no index.
#[derive(Debug)]
pub(crate) struct NoIndex;

impl SegmentIndexer for NoIndex {
    fn version(&self) -> u32 {
        1
    }
    fn feed(&mut self, _slot: &Slot, _offset: u64, _raw: &[u8]) {}
    fn finish(&mut self, _slot: &Slot, _raw_len: u64) -> Option<Vec<u8>> {
        None
    }
}

#[derive(Debug)]
struct NoBases;

#[async_trait]
impl Bases for NoBases {
    async fn due(&self, _asked: Asked) -> Result<Due, ArchiveError> {
        Ok(Due::Never)
    }
    async fn take(&self, _options: &BaseOptions) -> Result<Complete, BaseError> {
        Err(BaseError::CompressorGone)
    }
}

/// The archive in the folder `archive` below this one.
pub(crate) async fn archive(root: &Path) -> Arc<dyn Store> {
    let address = root.join("archive").display().to_string();
    url::open(&address, Access::ReadWrite).await.expect("a folder store")
}

/// What a shipper of the first lineage works with.
pub(crate) fn tools(store: Arc<dyn Store>, writer: u64) -> ShipTools {
    ShipTools {
        store,
        disk: Arc::new(SystemDisk),
        health: Arc::new(Health::new(Arc::new(SystemClock::new()))),
        lineage: Lineage(1),
        writer,
        codec: Codec::Lz4,
    }
}
