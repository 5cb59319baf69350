//! How the store is doing, for the state, the log and the metrics.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proto::clock::Clock;
use proto::store::{Class, StoreError};

/// A store that is away is told once, then this often.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// One that comes and goes is told so often before it is told no more than that.
const SPELLS_AT_ONCE: u32 = 3;

/// What was said of a store that fails, so that neither an outage nor a storm floods the log.
#[derive(Debug, Default)]
struct Told {
    /// When a failure was told last, and when one was seen.
    at: Option<Duration>,
    seen: Option<Duration>,
    /// The kind of the spell of failures that goes on now, and whether it was told.
    kind: Option<Class>,
    spell: bool,
    /// Spells since it was quiet for as long as [`TELL_EVERY`].
    spells: u32,
    kept_back: u64,
}

impl Told {
    /// `Some` when this failure is to be told, with how many were kept back before it. A failure of
    /// another kind is news: what somebody must mend looks like no outage.
    fn failed(&mut self, now: Duration, kind: Class) -> Option<u64> {
        let long_ago =
            |at: Option<Duration>| at.is_none_or(|at| now.saturating_sub(at) >= TELL_EVERY);
        if long_ago(self.seen) {
            self.spells = 0;
        }
        self.seen = Some(now);
        let begins = self.kind.replace(kind) != Some(kind);
        if begins {
            self.spells = self.spells.saturating_add(1);
        }
        if long_ago(self.at) || (begins && self.spells <= SPELLS_AT_ONCE) {
            self.at = Some(now);
            self.spell = true;
            return Some(std::mem::take(&mut self.kept_back));
        }
        self.kept_back += 1;
        None
    }

    /// Whether its end is to be told: if anything was told of it.
    fn back(&mut self) -> bool {
        self.kind = None;
        std::mem::take(&mut self.spell)
    }
}

/// One failed request is no outage.
const LONG_AWAY: Duration = Duration::from_secs(5);

/// Shared by everything that talks to the store.
#[derive(Debug)]
pub struct Health {
    clock: std::sync::Arc<dyn Clock>,
    away: AtomicBool,
    failures: AtomicU64,
    puts: AtomicU64,
    bytes: AtomicU64,
    ambiguous: AtomicU64,
    told: Mutex<Told>,
    /// Since when nothing but failures came.
    since: Mutex<Option<Duration>>,
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
            told: Mutex::default(),
            since: Mutex::new(None),
            last_error: Mutex::new(None),
        }
    }

    pub(super) fn failed(&self, error: &StoreError, wait: Duration) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("pitr_store_errors_total", "class" => class_name(error)).increment(1);
        self.away.store(true, Ordering::Release);
        let now = self.clock.monotonic();
        self.since.lock().expect("no holder panics").get_or_insert(now);
        let told = self.told.lock().expect("no holder panics").failed(now, error.class());
        if let Some(kept_back) = told {
            tracing::warn!(
                %error, class = ?error.class(), again_in_ms = wait.as_millis() as u64, kept_back,
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
            *self.since.lock().expect("no holder panics") = None;
            *self.last_error.lock().expect("no holder panics") = None;
            if self.told.lock().expect("no holder panics").back() {
                tracing::info!("store back");
            }
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

    /// Whether nothing but failures came for a while.
    pub fn is_long_away(&self) -> bool {
        let since = *self.since.lock().expect("no holder panics");
        since.is_some_and(|since| self.clock.monotonic().saturating_sub(since) >= LONG_AWAY)
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
    match error.class() {
        Class::Absent => "absent",
        Class::Retry => "retry",
        Class::Config => "config",
        Class::Damaged => "damaged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often failures are told of which one comes every `apart`, each followed by a success or
    /// not, in so many seconds.
    fn lines(apart: Duration, comes_back: bool, seconds: u64) -> (u32, u32) {
        let (mut told, mut now, mut lines) = (Told::default(), Duration::ZERO, (0, 0));
        while now < Duration::from_secs(seconds) {
            lines.0 += u32::from(told.failed(now, Class::Retry).is_some());
            lines.1 += u32::from(comes_back && told.back());
            now += apart;
        }
        lines
    }

    #[test]
    fn neither_an_outage_nor_a_store_that_comes_and_goes_floods_the_log() {
        let half = Duration::from_millis(500);
        assert_eq!(lines(half, false, 300), (5, 0));
        assert_eq!(lines(half, true, 300), (7, 7));
        // One failure in a while is news each time.
        assert_eq!(lines(Duration::from_secs(100), true, 1000), (10, 10));
    }

    #[test]
    fn what_somebody_must_mend_is_told_at_once_behind_an_outage() {
        let (mut told, second) = (Told::default(), Duration::from_secs);
        assert_eq!(told.failed(second(0), Class::Retry), Some(0));
        assert_eq!(told.failed(second(1), Class::Retry), None);
        assert_eq!(told.failed(second(2), Class::Config), Some(1));
        assert!(told.back() && !told.back());
    }
}
