//! Waiting for a condition with a deadline. Nothing here measures: a deadline is ten times what is
//! expected, so that a slow machine never fails a test.

use std::time::Duration;

use anyhow::{Result, bail};
use proto::clock::{Clock, SystemClock};

/// A moment after which waiting is given up.
#[derive(Debug, Clone)]
pub struct Deadline {
    clock: SystemClock,
    after: Duration,
}

impl Deadline {
    pub fn after(after: Duration) -> Self {
        Self { clock: SystemClock::new(), after }
    }

    pub fn seconds(seconds: u64) -> Self {
        Self::after(Duration::from_secs(seconds))
    }

    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// What is left, zero once it has passed.
    pub fn left(&self) -> Duration {
        self.after.saturating_sub(self.elapsed())
    }

    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic()
    }

    fn expired<T>(&self, what: &str) -> Result<T> {
        bail!("gave up waiting for {what} after {:.1} s", self.elapsed().as_secs_f64())
    }
}

/// Calls `probe` until it yields something; an error ends the wait at once.
pub fn until<T>(
    deadline: &Deadline,
    what: &str,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if deadline.passed() {
            return deadline.expired(what);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// [`until`] for a test inside a runtime.
pub async fn until_async<T, F: Future<Output = Result<Option<T>>>>(
    deadline: &Deadline,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> Result<T> {
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        if deadline.passed() {
            return deadline.expired(what);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
