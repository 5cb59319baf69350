//! From commit to durable: which commits are waited for, and how long that took.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

/// Fewer say nothing about the slowest hundredth.
const SAMPLES_MIN: usize = 1000;

/// Commits by their places in the log.
#[derive(Debug)]
pub struct Waiting<P> {
    open: VecDeque<(Instant, P)>,
    taken: Vec<Duration>,
}

impl<P> Default for Waiting<P> {
    fn default() -> Self {
        Self { open: VecDeque::new(), taken: Vec::new() }
    }
}

impl<P: PartialOrd> Waiting<P> {
    /// This was committed, and stands at most there.
    pub fn committed(&mut self, at: Instant, place: P) {
        self.open.push_back((at, place));
    }

    /// Everything up to here is in the store.
    pub fn durable(&mut self, end: &P) {
        while self.open.front().is_some_and(|(_, place)| place <= end)
            && let Some((committed, _)) = self.open.pop_front()
        {
            self.taken.push(committed.elapsed());
        }
    }

    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Prints the table, and fails when the slowest hundredth took longer than this.
    ///
    /// # Errors
    /// When it did, or too little was seen.
    pub fn report(mut self, load: &str, p99_max: Duration) -> Result<()> {
        self.taken.sort();
        let count = self.taken.len();
        ensure!(count >= SAMPLES_MIN, "only {count} samples");
        let at = |share: f64| self.taken[((count - 1) as f64 * share) as usize];
        let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
        println!("{count} commits, --flush 1s, {load}");
        println!("| p50 | p99 | max |\n|---|---|---|");
        println!("| {} ms | {} ms | {} ms |", p50.as_millis(), p99.as_millis(), max.as_millis());
        let (p99, promised) = (p99.as_millis(), p99_max.as_millis());
        ensure!(p99 <= promised, "p99 is {p99} ms, {promised} are promised");
        Ok(())
    }
}
