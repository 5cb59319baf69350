//! What follows a sealed segment that is in the store: its index, then its spool file goes.
//!
//! Enters: a segment that the store has confirmed. Leaves: its index object, if there was time:
//! archiving never waits for indexing. A segment without an index is decoded by whoever reads it,
//! and `pitr reindex` makes up for it. After a crash the next run removes the spool file.

use std::sync::Arc;

use proto::archive::layout::SegmentName;
use proto::store::{Body, Put};
use tokio::sync::mpsc;

use crate::ship::ShipTools;
use crate::spool::{FrameRange, SealedFile, Slot, SpoolError, SpoolLevel, read};

/// Segments that may wait for their index; when more come, they go without one.
const WAITING_MAX: usize = 16;

/// Makes the index of one segment after the other: each engine's own.
pub trait SegmentIndexer: Send + Sync + std::fmt::Debug {
    /// The version in the index's key.
    fn version(&self) -> u32;
    /// Takes the raw bytes of one frame, which begin `offset` bytes into the segment.
    fn feed(&mut self, slot: &Slot, offset: u64, raw: &[u8]);
    /// The index of a segment whose every frame was taken; `None` when some were not.
    fn finish(&mut self, slot: &Slot, raw_len: u64) -> Option<Vec<u8>>;
}

/// Hands sealed files to the indexer, or straight to the end of their life.
#[derive(Debug, Clone)]
pub struct IndexQueue {
    queue: mpsc::Sender<SealedFile>,
}

impl IndexQueue {
    /// Starts the indexer; it ends when the queue is dropped and empty.
    pub fn start(
        mut indexer: Box<dyn SegmentIndexer>,
        tools: ShipTools,
        level: Arc<SpoolLevel>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, mut waiting) = mpsc::channel::<SealedFile>(WAITING_MAX);
        let task = tokio::spawn(async move {
            while let Some(sealed) = waiting.recv().await {
                indexer = index(indexer, &tools, &sealed).await;
                remove(sealed, &tools, &level);
            }
        });
        (Self { queue }, task)
    }

    /// Called once the store has the segment.
    pub fn hand_on(&self, sealed: SealedFile, tools: &ShipTools, level: &Arc<SpoolLevel>) {
        if let Err(error) = self.queue.try_send(sealed) {
            metrics::counter!("pitr_segments_unindexed_total").increment(1);
            remove(error.into_inner(), tools, level);
        }
    }
}

/// A segment that was open when this run began was not seen whole: it is read back.
async fn index(
    mut indexer: Box<dyn SegmentIndexer>,
    tools: &ShipTools,
    sealed: &SealedFile,
) -> Box<dyn SegmentIndexer> {
    if let Some(made) = &sealed.index {
        store(tools, &sealed.slot.name, indexer.version(), made.clone()).await;
        return indexer;
    }
    let (disk, slot, footer) = (tools.disk.clone(), sealed.slot.clone(), sealed.footer.clone());
    let range = FrameRange { path: sealed.path.clone(), offset: 0, len: footer.frames_len() };
    let work = crate::work::spawn(move || {
        let mut offset = 0;
        let fed: Result<(), SpoolError> = read::each_frame(&*disk, &range, |raw| {
            indexer.feed(&slot, offset, raw);
            offset += raw.len() as u64;
            true
        });
        let made = fed.map(|()| indexer.finish(&slot, footer.raw_len));
        (indexer, made)
    });
    let (indexer, made) = match work.await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    match made {
        Ok(Some(bytes)) => store(tools, &sealed.slot.name, indexer.version(), bytes).await,
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "a segment goes without an index"),
    }
    indexer
}

/// One try: an index can be made again at any time.
async fn store(tools: &ShipTools, name: &SegmentName, version: u32, bytes: Vec<u8>) {
    let key = tools.lineage.index(name, version);
    match tools.store.put(&key, &Body::from(bytes)).await {
        Ok(Put::Created | Put::Exists) => {}
        Err(error) => tracing::warn!(%error, "an index was not stored"),
    }
}

fn remove(sealed: SealedFile, tools: &ShipTools, level: &Arc<SpoolLevel>) {
    let (disk, level) = (tools.disk.clone(), level.clone());
    crate::work::spawn(move || {
        match disk.remove(&sealed.path) {
            Ok(()) => level.remove(sealed.file_len),
            // It is found, compared and removed by the next run.
            Err(error) => tracing::warn!(%error, file = %sealed.path.display(), "not removed"),
        }
    });
}
