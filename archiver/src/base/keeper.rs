//! Beside a running capture: takes a base when one is due, by itself.
//!
//! Enters: the pipeline's durable position, the schedule. Leaves: bases. A base that fails is tried
//! again after a growing pause; it never disturbs the capture.

use std::sync::Arc;
use std::time::Duration;

use proto::archive::base::Complete;
use proto::segment::Codec;
use proto::timestamp::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::schedule::{Due, Reason};
use super::{BaseOptions, Checkpoint};
use crate::pipeline::Running;
use crate::source::{Asked, Bases};
use crate::watch::state::State;

/// The longest the keeper sleeps before it looks at the archive again.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// An archive that cannot be read is told once in this time, as a store that is away is.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Until the first log is durable, there is nothing to base on.
const BEGIN_EVERY: Duration = Duration::from_millis(200);

pub struct Keeper {
    bases: Arc<dyn Bases>,
    codec: Codec,
    state: Arc<State>,
    wanted: Arc<Notify>,
    every: Duration,
    rate: Option<u32>,
    failed: Option<(Timestamp, u32)>,
    /// When it was told last that the archive cannot be read.
    told: Option<Instant>,
}

impl Keeper {
    pub fn new(bases: Arc<dyn Bases>, codec: Codec, running: &Running) -> Self {
        Self {
            bases,
            codec,
            state: running.state.clone(),
            wanted: running.base_wanted.clone(),
            every: Duration::from_secs(86_400),
            rate: None,
            failed: None,
            told: None,
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
        let asked = Asked { now, every: self.every, failed: self.failed };
        match self.bases.due(asked).await {
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
                if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    self.told = Some(Instant::now());
                    tracing::warn!(%error, "the archive's bases could not be read; later again");
                }
                Duration::from_secs(5)
            }
        }
    }

    async fn take(&mut self, reason: Reason, now: Timestamp) {
        tracing::info!(?reason, "a base is due: beginning");
        let checkpoint = if reason.is_urgent() { Checkpoint::Fast } else { Checkpoint::Spread };
        let options = BaseOptions {
            label: "pitr".to_owned(),
            checkpoint,
            max_rate: self.rate,
            codec: self.codec,
            ..BaseOptions::default()
        };
        match self.bases.take(&options).await {
            Ok(complete) => {
                self.failed = None;
                self.state.based(complete.finished);
                tracing::info!(
                    id = %complete.id, stop = stop(&complete),
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
}

/// Every moment from there on can be restored.
fn stop(complete: &Complete) -> String {
    match (&complete.postgres, &complete.mongodb) {
        (Some(postgres), _) => postgres.stop.to_string(),
        (None, Some(mongodb)) => mongodb.stop.to_string(),
        (None, None) => String::new(),
    }
}
