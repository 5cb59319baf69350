//! How the store is doing, for the state, the log and the metrics.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proto::clock::Clock;
use proto::store::StoreError;

/// A store that is away is told once, then this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Shared by everything that talks to the store.
#[derive(Debug)]
pub struct Health {
    clock: std::sync::Arc<dyn Clock>,
    away: AtomicBool,
    failures: AtomicU64,
    puts: AtomicU64,
    bytes: AtomicU64,
    ambiguous: AtomicU64,
    told: Mutex<Option<Duration>>,
    last_error: Mutex<Option<String>>,
}

impl Health {
    pub fn new(clock: std::sync::Arc<dyn Clock>) -> Self {
        Self {
            clock,
            away: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            ambiguous: AtomicU64::new(0),
            told: Mutex::new(None),
            last_error: Mutex::new(None),
        }
    }

    pub(super) fn failed(&self, error: &StoreError, wait: Duration) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("pitr_store_errors_total", "class" => class_name(error)).increment(1);
        self.away.store(true, Ordering::Release);
        let now = self.clock.monotonic();
        let mut told = self.told.lock().expect("no holder panics");
        if told.is_none_or(|at| now.saturating_sub(at) >= TELL_EVERY) {
            *told = Some(now);
            tracing::warn!(
                %error, class = ?error.class(), again_in_ms = wait.as_millis() as u64,
                "store away: the log goes on into the spool"
            );
        }
        *self.last_error.lock().expect("no holder panics") = Some(error.to_string());
    }

    pub(super) fn put(&self, took: Duration, bytes: u64) {
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        metrics::counter!("pitr_uploads_total").increment(1);
        metrics::counter!("pitr_upload_bytes_total").increment(bytes);
        metrics::histogram!("pitr_upload_duration_seconds").record(took.as_secs_f64());
        if self.away.swap(false, Ordering::AcqRel) {
            *self.told.lock().expect("no holder panics") = None;
            *self.last_error.lock().expect("no holder panics") = None;
            tracing::info!("store back");
        }
    }

    pub(super) fn ambiguous(&self) {
        self.ambiguous.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("pitr_put_ambiguous_total").increment(1);
    }

    pub(super) fn adopted(&self) {
        metrics::counter!("pitr_tails_adopted_total").increment(1);
    }

    /// Whether the last request failed.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::Relaxed)
    }

    /// Requests that were answered one way or the other.
    pub fn attempts(&self) -> u64 {
        self.puts() + self.failures.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().expect("no holder panics").clone()
    }
}

fn class_name(error: &StoreError) -> &'static str {
    use proto::store::Class;
    match error.class() {
        Class::Absent => "absent",
        Class::Retry => "retry",
        Class::Config => "config",
        Class::Damaged => "damaged",
    }
}
