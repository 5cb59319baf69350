//! Beside a running capture: takes a base when one is due, by itself.
//!
//! Enters: the pipeline's durable position, the schedule. Leaves: bases. A base that fails is tried
//! again after a growing pause; it never disturbs the capture.

use std::sync::Arc;
use std::time::Duration;

use proto::archive::ArchiveError;
use proto::archive::ledger;
use proto::postgres::history::History;
use proto::postgres::lsn::Timeline;
use proto::store::Range;
use proto::timestamp::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::postgres::PostgresSource;
use super::schedule::{Due, Present, Reason, due};
use super::{ArchivedLog, BaseError, BaseOptions, Checkpoint, PipelineLog, known, take};
use crate::pipeline::{Ground, Opened, Running, Settings};
use crate::ship::DurableWatch;
use crate::watch::state::State;

/// The longest the keeper sleeps before it looks at the archive again.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// Until the first log is durable, there is nothing to base on.
const BEGIN_EVERY: Duration = Duration::from_millis(200);

pub struct Keeper {
    ground: Ground,
    settings: Settings,
    opened: Opened,
    durable: DurableWatch,
    state: Arc<State>,
    wanted: Arc<Notify>,
    every: Duration,
    rate: Option<u32>,
    failed: Option<(Timestamp, u32)>,
}

impl Keeper {
    pub fn new(ground: &Ground, settings: &Settings, opened: &Opened, running: &Running) -> Self {
        Self {
            ground: ground.clone(),
            settings: settings.clone(),
            opened: opened.clone(),
            durable: running.durable.clone(),
            state: running.state.clone(),
            wanted: running.base_wanted.clone(),
            every: Duration::from_secs(86_400),
            rate: None,
            failed: None,
        }
    }

    #[must_use]
    pub const fn with(mut self, every: Duration, rate: Option<u32>) -> Self {
        self.every = every;
        self.rate = rate;
        self
    }

    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let wait = tokio::select! {
                () = stop.cancelled() => return,
                wait = self.look() => wait,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes a base if one is due; returns how long to wait before looking again.
    async fn look(&mut self) -> Duration {
        // The base's own clock is the database's: known once something was received.
        let Some(now) = self.state.lag.database_now() else { return BEGIN_EVERY };
        match self.due(now).await {
            Ok(Due::Now(reason)) => {
                self.take(reason, now).await;
                Duration::from_secs(1)
            }
            Ok(Due::At(at)) => {
                let wait = Duration::from_micros(u64::try_from(at.0 - now.0).unwrap_or(0));
                wait.clamp(Duration::from_secs(1), LOOK_EVERY)
            }
            Ok(Due::Never) => LOOK_EVERY,
            Err(error) => {
                tracing::warn!(%error, "the archive's bases could not be read; later again");
                Duration::from_secs(5)
            }
        }
    }

    async fn due(&self, now: Timestamp) -> Result<Due, ArchiveError> {
        let (store, lineage) = (&*self.ground.store, self.opened.lineage);
        let gaps = known::gaps(&ledger::read(store, lineage).await?);
        let history = self.history().await?;
        let bases = known::bases(store, lineage, &gaps, &history).await?;
        if let Some(newest) = bases.iter().map(|base| base.finished).max() {
            self.state.based(newest);
        }
        let every = Some(self.every);
        Ok(due(&bases, &gaps, &Present { history: &history, now, every, failed: self.failed }))
    }

    /// The history of the timeline that is being archived.
    async fn history(&self) -> Result<History, ArchiveError> {
        let position = self.state.positions().0.or_else(|| self.state.stored());
        let timeline: Timeline =
            position.map_or(self.opened.postgres.first_timeline, |p| p.epoch.into());
        let key = self.opened.lineage.history(timeline);
        match self.ground.store.get(&key, Range::All).await {
            Ok(raw) => History::parse(timeline, raw).map_err(|error| {
                let source = serde::de::Error::custom(error);
                ArchiveError::Json { key, source }
            }),
            Err(error) if error.is_absent() => Ok(History::first(timeline)),
            Err(error) => Err(error.into()),
        }
    }

    async fn take(&mut self, reason: Reason, now: Timestamp) {
        tracing::info!(?reason, "a base is due: beginning");
        let checkpoint = if reason.is_urgent() { Checkpoint::Fast } else { Checkpoint::Spread };
        let options = BaseOptions {
            label: "pitr".to_owned(),
            checkpoint,
            max_rate: self.rate,
            codec: self.settings.codec,
            ..BaseOptions::default()
        };
        match self.try_take(&options).await {
            Ok(complete) => {
                self.failed = None;
                self.state.based(complete.finished);
                tracing::info!(
                    id = %complete.id, start = %complete.postgres().start, stop = %complete.postgres().stop,
                    raw = %proto::position::ByteCount(complete.raw_bytes),
                    stored = %proto::position::ByteCount(complete.stored_bytes),
                    "base complete: PROTECTED"
                );
            }
            Err(error) => {
                let failures = self.failed.map_or(1, |(_, n)| n + 1);
                self.failed = Some((now, failures));
                self.state.base_failed();
                let why = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, why, failures, "the base failed; it is tried again");
            }
        }
    }

    async fn try_take(
        &self,
        options: &BaseOptions,
    ) -> Result<proto::archive::base::Complete, BaseError> {
        let mut source = PostgresSource::new(self.settings.source.clone());
        let (lineage, size) = (self.opened.lineage, self.opened.postgres.segment_bytes);
        let store = self.ground.store.clone();
        let archive = ArchivedLog::new(&*store, lineage, size);
        let log = PipelineLog { durable: self.durable.stored.clone(), archive };
        take(&mut source, self.ground.store.clone(), lineage, &log, options, &*self.ground.clock)
            .await
    }
}
