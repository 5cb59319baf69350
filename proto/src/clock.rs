//! The only place that reads a clock, so that a simulation can supply another one.
//!
//! Waiting is done with `tokio::time`, which a paused runtime drives.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// Wall time for people and names; monotonic time for every decision.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// This machine's wall clock. Never compared with another machine's (DESIGN §5.11).
    fn wall(&self) -> Timestamp;

    /// Time since some fixed moment in the life of this process.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one implementation of Clock")]
    pub fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one implementation of Clock")]
    fn wall(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("the clock stands after 1970");
        Timestamp(
            i64::try_from(since.as_micros()).expect("the clock stands before the year 294246"),
        )
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}
