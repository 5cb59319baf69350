//! MongoDB behind the pipeline's seam.

use std::sync::Arc;

use async_trait::async_trait;
use bson::RawDocument;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::archive::ArchiveError;
use proto::archive::layout::OPLOG_EPOCH;
use proto::archive::ledger::Event;
use proto::mongodb::{OplogTs, Record, SourceMode, first_document};
use proto::store::Store;
use tokio::sync::watch;

use super::capture::{
    BEHIND_A_GAP, Capture, CaptureError, CaptureSetup, Continue, Gap, Last, Loss, OpenSegment,
    Reached,
};
use super::goal::Newest;
use super::indexer::{SegmentsOfOplog, WithThePieces};
use super::{ConnectOptions, begin, preflight, start};
use crate::base::MongodbBases;
use crate::pipeline::{Ground, Opened, PipelineError};
use crate::seal::SegmentIndexer;
use crate::ship::chained;
use crate::ship::resume::End;
use crate::source::{Bases, Beside, CaptureStart, Goal, Source};
use crate::spool::{Held, OplogSegments, Segmenter};
use crate::watch::lag::CommitTimes;

/// A replica set to protect.
#[derive(Debug, Clone)]
pub struct Mongodb {
    pub options: ConnectOptions,
    /// How far the capture has come.
    reached: Arc<watch::Sender<Option<Reached>>>,
}

impl Mongodb {
    pub fn new(options: ConnectOptions) -> Self {
        Self { options, reached: Arc::new(watch::Sender::new(None)) }
    }
}

#[async_trait]
impl Source for Mongodb {
    async fn open(&self, ground: &Ground, new_lineage: bool) -> Result<Opened, PipelineError> {
        begin::open(self, ground, new_lineage).await
    }

    /// That the set has the archive's newest entry is proved when its cursor is opened: nothing is
    /// written before.
    async fn continues(&self, _ground: &Ground, opened: &Opened) -> Result<(), PipelineError> {
        let found = preflight::connect(&self.options).await.map_err(CaptureError::from)?;
        let ours = begin::check_ours(&opened.identity, &found);
        found.member.close().await;
        Ok(ours?)
    }

    /// An oplog has one epoch.
    async fn is_ahead(&self, _ground: &Ground, _opened: &Opened) -> Result<bool, PipelineError> {
        Ok(false)
    }

    /// A replica set does not know who reads its oplog.
    async fn is_streamed(&self) -> Result<Option<bool>, PipelineError> {
        Ok(None)
    }

    fn is_held(&self) -> PipelineError {
        crate::ring::Closed.into()
    }

    async fn goal(&self) -> Result<Arc<dyn Goal>, PipelineError> {
        let found = preflight::connect(&self.options).await.map_err(CaptureError::from)?;
        let newest = match self.options.mode {
            SourceMode::Oplog => start::newest(&found.member).await.map_err(CaptureError::from),
            SourceMode::ChangeStream => Ok(found.hello.majority),
        };
        found.member.close().await;
        Ok(Arc::new(Newest { ts: newest?.ts, reached: self.reached.subscribe() }))
    }

    async fn find_end(&self, store: &dyn Store, opened: &Opened) -> Result<End, ArchiveError> {
        chained::find_end(store, opened.lineage, OPLOG_EPOCH, &OplogSegments).await
    }

    fn segmenter(&self, _opened: &Opened) -> Arc<dyn Segmenter> {
        Arc::new(OplogSegments)
    }

    fn commits(&self, _opened: &Opened) -> Arc<dyn CommitTimes> {
        Arc::new(WithThePieces)
    }

    fn indexer(&self, _opened: &Opened) -> Box<dyn SegmentIndexer> {
        Box::new(SegmentsOfOplog::default())
    }

    fn capture(&self, start: CaptureStart) -> BoxFuture<'static, Result<(), PipelineError>> {
        let from = go_on(&start.opened, &start.held);
        let setup = CaptureSetup {
            options: self.options.clone(),
            set: start.opened.identity.cluster.clone(),
            clock: start.ground.clock.clone(),
            state: start.state.clone(),
            on_loss: on_loss(&start),
            right: Some(start.right.clone()),
        };
        let last = start.held.last.map(|last| last.bytes);
        let mode = self.options.mode;
        let capture = Capture::new(setup, start.ring, start.stop, from);
        let told = self.reached.clone();
        async move {
            let capture = match mode {
                SourceMode::Oplog => capture,
                SourceMode::ChangeStream => {
                    capture.of_events(last.as_deref().and_then(document))?
                }
            };
            let mut seen = capture.reached();
            told.send_replace(*seen.borrow_and_update());
            let mut running = std::pin::pin!(capture.run());
            let ended = loop {
                tokio::select! {
                    ended = &mut running => break ended,
                    Ok(()) = seen.changed() => { told.send_replace(*seen.borrow_and_update()); }
                }
            };
            told.send_replace(*seen.borrow());
            Ok(ended?)
        }
        .boxed()
    }

    fn bases(&self, beside: Beside) -> Arc<dyn Bases> {
        let newest = Newest { ts: OplogTs(0), reached: self.reached.subscribe() };
        Arc::new(MongodbBases { options: self.options.clone(), newest, beside })
    }
}

fn document(bytes: &[u8]) -> Option<&RawDocument> {
    first_document(bytes).ok().flatten()
}

/// Where the log goes on, in the capture's words.
pub(crate) fn go_on(opened: &Opened, held: &Held) -> Continue {
    let last = held.last.as_ref().and_then(|last| {
        let (at, _) = Record::place(document(&last.bytes)?).ok()?;
        Some(Last { at, begin: last.begin })
    });
    let open = held.open.map(|open| OpenSegment { first: OplogTs(open.number), raw: open.raw_len });
    // An oplog's cursor begins with what is left of it.
    let behind_a_gap =
        held.next.0 > 0 && last.is_none() && !opened.mongodb().source_mode.is_oplog();
    let first = if behind_a_gap { BEHIND_A_GAP } else { opened.mongodb().first.ts };
    let first = held.begun.map_or(first, OplogTs);
    Continue { next: held.next, last, open, first }
}

/// Records a loss, waiting for a store that is away, and wants a new base. Nothing that restores depends
/// on the record: a gap shows in the segments themselves, a collection that is not carried in its event.
/// Who looks at the ledger alone does: `pitr status`, and what decides when a base is due.
fn on_loss(start: &CaptureStart) -> Arc<dyn Fn(Loss) -> BoxFuture<'static, ()> + Send + Sync> {
    let (right, clock) = (start.right.clone(), start.ground.clock.clone());
    let wanted = start.base_wanted.clone();
    Arc::new(move |loss: Loss| {
        let (right, clock, wanted) = (right.clone(), clock.clone(), wanted.clone());
        let event = match loss {
            Loss::Gap(Gap { last, first, from, to, reason }) => {
                Event::Gap { from, to, reason, oplog: Some([last, first]) }
            }
            Loss::Collection { at, name, reason } => {
                Event::NotCarried { at, collection: name, reason }
            }
        };
        async move {
            right.record(&*clock, event).await;
            wanted.notify_one();
        }
        .boxed()
    })
}
