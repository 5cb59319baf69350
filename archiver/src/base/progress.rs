//! How far a base has come, told about once a second.

use std::sync::Arc;
use std::time::Duration;

use proto::clock::Clock;

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Told about every second while bytes flow.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// How far a base has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    pub raw_bytes: u64,
    /// What the server expects to send, if it said so.
    pub expected_bytes: Option<u64>,
    pub stored_bytes: u64,
    /// Raw bytes a second since the beginning.
    pub bytes_per_second: f64,
    /// Everything was received; what is left is waiting for the log.
    pub waiting_for_log: bool,
}

/// Counts bytes, and tells of them once a second.
pub(super) struct Meter<'a> {
    clock: &'a dyn Clock,
    began: Duration,
    told: Duration,
    raw: u64,
    expected: Option<u64>,
    stored_before: u64,
    stored: u64,
    on_progress: Option<OnProgress>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(
        clock: &'a dyn Clock,
        expected: Option<u64>,
        on_progress: Option<OnProgress>,
    ) -> Self {
        let began = clock.monotonic();
        let (raw, stored_before, stored) = (0, 0, 0);
        Self { clock, began, told: began, raw, expected, stored_before, stored, on_progress }
    }

    pub(super) fn add(&mut self, raw: u64, stored_of_archive: u64) {
        self.raw += raw;
        self.stored = self.stored_before + stored_of_archive;
        if self.clock.monotonic() >= self.told + PROGRESS_EVERY {
            self.tell(false);
        }
    }

    pub(super) fn archive_done(&mut self, stored: u64) {
        self.stored_before += stored;
        self.stored = self.stored_before;
    }

    pub(super) fn tell(&mut self, waiting_for_log: bool) {
        self.told = self.clock.monotonic();
        let seconds = (self.told - self.began).as_secs_f64().max(0.001);
        metrics::gauge!("pitr_base_raw_bytes").set(self.raw as f64);
        if let Some(on_progress) = &self.on_progress {
            on_progress(Progress {
                raw_bytes: self.raw,
                expected_bytes: self.expected,
                stored_bytes: self.stored,
                bytes_per_second: self.raw as f64 / seconds,
                waiting_for_log,
            });
        }
    }
}
