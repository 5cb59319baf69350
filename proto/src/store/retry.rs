//! Asking a store again: how long to wait, and when to stop.
//!
//! Enters: an operation that can be repeated from its beginning. Leaves: its result, or the error
//! that no further asking will change. Holds nothing but the count of attempts.

use std::cell::Cell;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Class, StoreError};

thread_local! {
    static REPEATABLE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on [`Backoff::new`] gives, on this thread, waits that a simulation can repeat.
pub fn repeatable_from(seed: u64) {
    REPEATABLE.set(Some(seed));
}

/// Exponential backoff with full jitter: each wait is uniform between nothing and a ceiling that
/// doubles, so that many writers that lost a store together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
    rng: StdRng,
}

impl Backoff {
    pub const BASE: Duration = Duration::from_millis(100);
    pub const CAP: Duration = Duration::from_secs(15);

    /// Waits that differ from process to process.
    pub fn new() -> Self {
        let seed = REPEATABLE.get();
        REPEATABLE.set(seed.map(|seed| seed.wrapping_add(1)));
        seed.map_or_else(
            || Self::with_rng(Self::BASE, Self::CAP, StdRng::from_os_rng()),
            Self::seeded,
        )
    }

    /// Waits that a simulation can repeat.
    pub fn seeded(seed: u64) -> Self {
        Self::with_rng(Self::BASE, Self::CAP, StdRng::seed_from_u64(seed))
    }

    pub fn with_rng(base: Duration, cap: Duration, rng: StdRng) -> Self {
        Self { base, cap, attempt: 0, rng }
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.attempt.min(20)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(self.rng.random_range(0.0..=1.0))
    }

    /// To be called when something succeeded.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// How many waits were handed out since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// When to stop asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Capture: while the store is away or misconfigured the spool holds everything, so asking goes
    /// on until the caller drops the future. Absent and damaged objects are answers.
    Forever,
    /// Restore: a person waits, so only what may pass by itself is asked again, so many times in
    /// all, and a wrong configuration is told at once.
    Attempts(u32),
}

impl Policy {
    /// What a restore uses: about a minute of waiting with [`Backoff::new`].
    pub const RESTORE: Self = Self::Attempts(16);

    fn asks_again(self, class: Class, attempts: u32) -> bool {
        match (self, class) {
            (_, Class::Absent | Class::Damaged) | (Self::Attempts(_), Class::Config) => false,
            (Self::Forever, Class::Retry | Class::Config) => true,
            (Self::Attempts(max), Class::Retry) => attempts < max,
        }
    }
}

/// Runs `operation` until it succeeds or `policy` says stop; `failed` is told of every failure that
/// will be followed by another attempt, with the wait before it. Cancel-safe when `operation` is.
///
/// # Errors
/// The last failure.
pub async fn retrying<T>(
    policy: Policy,
    backoff: &mut Backoff,
    mut operation: impl AsyncFnMut() -> Result<T, StoreError>,
    mut failed: impl FnMut(&StoreError, Duration),
) -> Result<T, StoreError> {
    let mut attempts = 0u32;
    loop {
        let error = match operation().await {
            Ok(done) => {
                backoff.reset();
                return Ok(done);
            }
            Err(error) => error,
        };
        attempts = attempts.saturating_add(1);
        if !policy.asks_again(error.class(), attempts) {
            return Err(error);
        }
        let wait = match error.class() {
            // Somebody must change something first: asking quickly only fills logs.
            Class::Config => backoff.cap,
            _ => backoff.next_wait(),
        };
        failed(&error, wait);
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(class: Class) -> StoreError {
        StoreError::Answer {
            address: "s3://b".to_owned(),
            action: "put",
            key: "k".to_owned(),
            code: "Some".to_owned(),
            status: None,
            class,
        }
    }

    async fn attempts_until(policy: Policy, class: Class, succeed_at: u32) -> (u32, bool) {
        let mut attempts = 0;
        let done = retrying(
            policy,
            &mut Backoff::seeded(1),
            async || {
                attempts += 1;
                if attempts == succeed_at { Ok(()) } else { Err(answer(class)) }
            },
            |_, wait| assert!(wait <= Backoff::CAP),
        )
        .await;
        (attempts, done.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn capture_asks_until_it_works_and_restore_a_bounded_number_of_times() {
        assert_eq!(attempts_until(Policy::Forever, Class::Retry, 500).await, (500, true));
        assert_eq!(attempts_until(Policy::Forever, Class::Config, 50).await, (50, true));
        assert_eq!(attempts_until(Policy::Attempts(4), Class::Retry, 4).await, (4, true));
        assert_eq!(attempts_until(Policy::Attempts(4), Class::Retry, 5).await, (4, false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_asking_cannot_change_is_told_at_once() {
        for policy in [Policy::Forever, Policy::RESTORE] {
            assert_eq!(attempts_until(policy, Class::Absent, 9).await, (1, false));
            assert_eq!(attempts_until(policy, Class::Damaged, 9).await, (1, false));
        }
        assert_eq!(attempts_until(Policy::RESTORE, Class::Config, 9).await, (1, false));
    }

    #[test]
    fn waits_grow_to_the_cap_and_repeat_with_the_seed() {
        let waits = |seed| {
            let mut backoff = Backoff::seeded(seed);
            (0..200).map(|_| backoff.next_wait()).collect::<Vec<_>>()
        };
        assert_eq!(waits(5), waits(5));
        assert_ne!(waits(5), waits(6));
        assert!(waits(5)[0] <= Backoff::BASE);
        assert!(waits(5).iter().all(|wait| *wait <= Backoff::CAP));
        assert!(waits(5).iter().any(|wait| *wait > Backoff::CAP / 2));
        let mut backoff = Backoff::seeded(5);
        for _ in 0..40 {
            backoff.next_wait();
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Backoff::BASE);
    }
}
