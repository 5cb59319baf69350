//! PostgreSQL behind the pipeline's seam.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::archive::{ArchiveError, ends};
use proto::position::{ByteCount, Position};
use proto::postgres::lsn::Timeline;
use proto::store::Store;

use super::capture::{Belongs, Capture, CaptureError, CaptureSetup, OnSlotMax, check_lineage};
use super::commits::WalCommits;
use super::indexer::WalIndexer;
use super::{Class, ConnectOptions, Error, Session, SlotName, SqlSession, begin, end, ready};
use crate::base::PostgresBases;
use crate::pipeline::{Ground, Opened, PipelineError};
use crate::seal::SegmentIndexer;
use crate::ship::resume::End;
use crate::source::{Bases, Beside, CaptureStart, Goal, Source};
use crate::spool::{Segmenter, WalSegments};
use crate::watch::lag::CommitTimes;
use crate::watch::line;
use crate::watch::state::State;

/// A cluster to protect, and how.
#[derive(Debug, Clone)]
pub struct Postgres {
    pub options: ConnectOptions,
    pub slot: SlotName,
    pub synchronous: bool,
    /// `--accept-timeline N`.
    pub accept: Option<Timeline>,
    /// `--slot-max`, if it is given.
    pub slot_max: Option<ByteCount>,
    pub on_slot_max: OnSlotMax,
}

#[async_trait]
impl Source for Postgres {
    async fn open(&self, ground: &Ground, new_lineage: bool) -> Result<Opened, PipelineError> {
        begin::open(self, ground, new_lineage).await
    }

    async fn continues(&self, ground: &Ground, opened: &Opened) -> Result<(), PipelineError> {
        let (store, identity) = (&*ground.store, opened.postgres());
        if let Some(archived) = ends::timelines(store, opened.lineage).await?.last() {
            self.options.newest.know(*archived);
        }
        let session = Session::connect(&self.options).await?;
        let endpoint = session.server().endpoint.clone();
        let found = session.server().identity.timeline;
        let checked = check_lineage(store, opened.lineage, identity, self.accept, session).await;
        match checked {
            Ok(Belongs::Proved | Belongs::Unknown) => Ok(()),
            // It will be rewound, or is to be: until then it has nothing to write.
            Ok(Belongs::Behind) => {
                let newest = self.options.newest.get();
                Err(Error::LeftBehind { endpoint, found, newest }.into())
            }
            // Told apart by whoever decides what is waited for.
            Err(CaptureError::Source(error)) => Err(error.into()),
            Err(CaptureError::Archive(error)) => Err(error.into()),
            Err(other) => Err(other.into()),
        }
    }

    async fn is_ahead(&self, ground: &Ground, opened: &Opened) -> Result<bool, PipelineError> {
        let archived = ends::timelines(&*ground.store, opened.lineage).await?.last().copied();
        let mut session = Session::connect(&self.options).await?;
        let server = session.identify().await?;
        let primary = !session.server().in_hot_standby;
        session.close().await;
        Ok(primary && archived.is_some_and(|archived| server.timeline > archived))
    }

    /// `None` when this role may not ask.
    async fn is_streamed(&self) -> Result<Option<bool>, PipelineError> {
        let mut sql = match SqlSession::connect(&self.options).await {
            Ok(sql) => sql,
            Err(error) if matches!(error.class(), Class::Config | Class::Permission) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let slot = sql.slot(&self.slot).await;
        sql.close().await;
        Ok(slot.ok().map(|slot| slot.is_some_and(|slot| slot.active)))
    }

    fn is_held(&self) -> PipelineError {
        Error::SlotHeld { slot: self.slot.to_string() }.into()
    }

    async fn goal(&self) -> Result<Arc<dyn Goal>, PipelineError> {
        let mut session = Session::connect(&self.options).await?;
        let server = session.identify().await?;
        session.close().await;
        Ok(Arc::new(Flushed(server.flushed.at(server.timeline))))
    }

    async fn find_end(&self, store: &dyn Store, opened: &Opened) -> Result<End, ArchiveError> {
        end::find_end(store, opened.lineage, opened.postgres()).await
    }

    fn segmenter(&self, opened: &Opened) -> Arc<dyn Segmenter> {
        Arc::new(WalSegments(opened.postgres().segment_bytes))
    }

    fn commits(&self, opened: &Opened) -> Arc<dyn CommitTimes> {
        Arc::new(WalCommits(opened.postgres().segment_bytes))
    }

    fn indexer(&self, opened: &Opened) -> Box<dyn SegmentIndexer> {
        Box::new(WalIndexer::new(opened.postgres().segment_bytes))
    }

    fn capture(&self, start: CaptureStart) -> BoxFuture<'static, Result<(), PipelineError>> {
        let setup = CaptureSetup {
            options: self.options.clone(),
            slot: self.slot.clone(),
            identity: start.opened.postgres().clone(),
            cluster: start.opened.identity.cluster.clone(),
            store: start.ground.store.clone(),
            lineage: start.opened.lineage,
            clock: start.ground.clock.clone(),
            state: start.state,
            accept: self.accept,
            synchronous: self.synchronous,
            slot_max: self.slot_max,
            on_slot_max: self.on_slot_max,
            base_wanted: start.base_wanted,
            right: start.right,
        };
        let acknowledged = start.durable.acknowledged;
        let capture = Capture::new(setup, start.ring, acknowledged, start.stop, start.next);
        capture.run().map(|ended| ended.map_err(PipelineError::from)).boxed()
    }

    async fn keep_ready(&self, ground: &Ground, follows: bool) -> Result<(), PipelineError> {
        // The only one is followed: there is no other, and none of its senders is taken.
        if follows && self.options.endpoints.len() == 1 {
            return Ok(());
        }
        ready::keep(self, ground).await
    }

    fn bases(&self, beside: Beside) -> Arc<dyn Bases> {
        Arc::new(PostgresBases { options: self.options.clone(), beside })
    }
}

/// What the server had flushed.
#[derive(Debug, Clone, Copy)]
struct Flushed(Position);

impl fmt::Display for Flushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line::shown(proto::segment::Engine::Postgresql, Some(self.0), |_| None))
    }
}

#[async_trait]
impl Goal for Flushed {
    fn reached(&self, state: &State) -> Option<Position> {
        state.positions().0.filter(|received| *received >= self.0).map(|_| self.0)
    }

    async fn is_stored(
        &self,
        _store: &dyn Store,
        _opened: &Opened,
        end: &End,
    ) -> Result<bool, ArchiveError> {
        Ok(end.durable.is_some_and(|durable| durable >= self.0))
    }
}
