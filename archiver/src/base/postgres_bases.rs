//! The bases of a PostgreSQL lineage, beside its capture.
//!
//! Enters: the archive's bases, gaps and histories. Leaves: when the next base is due, and that base.

use async_trait::async_trait;
use proto::archive::base::Complete;
use proto::archive::{ArchiveError, ends, ledger};
use proto::postgres::history::History;
use proto::postgres::lsn::Timeline;

use super::postgres::PostgresSource;
use super::schedule::{Due, Present, due};
use super::{ArchivedLog, BaseError, BaseOptions, PipelineLog, known, take};
use crate::source::postgres::ConnectOptions;
use crate::source::{Asked, Bases, Beside};

/// A cluster's bases.
#[derive(Debug)]
pub struct PostgresBases {
    pub options: ConnectOptions,
    pub beside: Beside,
}

#[async_trait]
impl Bases for PostgresBases {
    async fn due(&self, asked: Asked) -> Result<Due, ArchiveError> {
        let (store, lineage) = (&*self.beside.ground.store, self.beside.opened.lineage);
        let gaps = known::gaps(&ledger::read(store, lineage).await?.entries);
        let history = self.history().await?;
        let bases = known::bases(store, lineage, &gaps, &history).await?;
        if let Some(newest) = bases.iter().map(|base| base.finished).max() {
            self.beside.state.based(newest);
        }
        let (now, every, failed) = (asked.now, Some(asked.every), asked.failed);
        Ok(due(&bases, &gaps, &Present { history: &history, now, every, failed }))
    }

    async fn take(&self, options: &BaseOptions) -> Result<Complete, BaseError> {
        let Beside { ground, opened, durable, .. } = &self.beside;
        let mut source = PostgresSource::new(self.options.clone());
        let size = opened.postgres().segment_bytes;
        let archive = ArchivedLog::new(&*ground.store, opened.lineage, size);
        let log = PipelineLog { durable: durable.stored.clone(), archive };
        let (store, clock) = (ground.store.clone(), &*ground.clock);
        take(&mut source, store, opened.lineage, &log, options, clock).await
    }
}

impl PostgresBases {
    /// The history of the timeline that is being archived.
    async fn history(&self) -> Result<History, ArchiveError> {
        let Beside { ground, opened, state, .. } = &self.beside;
        let position = state.positions().0.or_else(|| state.stored());
        let timeline: Timeline =
            position.map_or(opened.postgres().first_timeline, |p| p.epoch.into());
        let found = ends::history(&*ground.store, opened.lineage, timeline).await?;
        Ok(found.unwrap_or_else(|| History::first(timeline)))
    }
}
