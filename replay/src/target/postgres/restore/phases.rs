//! How long each phase took.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::clock::{Clock, SystemClock};

/// Seconds by phase.
#[derive(Debug)]
pub(super) struct Phases {
    clock: SystemClock,
    began: Duration,
    last: Duration,
    seconds: BTreeMap<String, f64>,
}

impl Default for Phases {
    fn default() -> Self {
        let clock = SystemClock::new();
        let began = clock.monotonic();
        Self { clock, began, last: began, seconds: BTreeMap::new() }
    }
}

impl Phases {
    /// The phase that began with the end of the one before it has ended.
    pub(super) fn ended(&mut self, name: &str) {
        let now = self.clock.monotonic();
        let seconds = now.saturating_sub(self.last).as_secs_f64();
        *self.seconds.entry(name.to_owned()).or_default() += seconds;
        self.last = now;
    }

    pub(super) fn seconds(mut self) -> BTreeMap<String, f64> {
        let total = self.clock.monotonic().saturating_sub(self.began).as_secs_f64();
        self.seconds.insert("total".to_owned(), total);
        self.seconds
    }
}
