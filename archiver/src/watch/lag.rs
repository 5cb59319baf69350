//! The lag: the age, by the database's own clock, of the oldest commit that is not durable.
//!
//! Enters: a look at each frame as it is cut. Leaves: seconds; 0 when nothing is missing. While
//! live, a commit is sent within milliseconds, so the sending time stands for it; while catching
//! up it would not, so the first commit in each full frame is decoded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::clock::Clock;
use proto::position::{Offset, Position};
use proto::timestamp::Timestamp;

use crate::spool::probe::FrameProbe;

/// Frames remembered one by one; beyond, neighbours are joined.
const FRAMES_MAX: usize = 1 << 16;
/// A frame of at least this size is part of a catch-up: its first commit is looked for.
const CATCH_UP_FRAME: usize = 512 << 10;

/// Finds the first commit time in a piece of log: each engine's own decoder.
pub trait CommitTimes: Send + Sync + std::fmt::Debug {
    fn first(&self, start: Offset, raw: &[u8]) -> Option<Timestamp>;

    /// Reads a segment that begins at `start`, piece by piece from its first byte on. Each piece
    /// is looked at alone, unless an engine's records go across pieces.
    fn reader(&self, start: Offset) -> Box<dyn CommitReader + '_> {
        Box::new(Pieces { commits: self, at: start })
    }
}

/// A segment on its way through a decoder.
pub trait CommitReader {
    /// Takes the next piece: the time of the first commit in it whose record ends behind `after`.
    fn feed(&mut self, raw: &[u8], after: Offset) -> Option<Timestamp>;
}

struct Pieces<'a, C: ?Sized> {
    commits: &'a C,
    at: Offset,
}

impl<C: CommitTimes + ?Sized> CommitReader for Pieces<'_, C> {
    fn feed(&mut self, raw: &[u8], after: Offset) -> Option<Timestamp> {
        let start = self.at;
        self.at = Offset(start.0 + raw.len() as u64);
        let known = usize::try_from(after.since(start).0).map_or(raw.len(), |n| n.min(raw.len()));
        self.commits.first(Offset(start.0 + known as u64), &raw[known..])
    }
}

/// Where no log is looked at.
#[derive(Debug, Clone, Copy)]
pub struct NoCommits;

impl CommitTimes for NoCommits {
    fn first(&self, _start: Offset, _raw: &[u8]) -> Option<Timestamp> {
        None
    }
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    end: Position,
    oldest: Timestamp,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Waiting>,
    uncut: Option<Timestamp>,
    /// The database's clock, and ours at that moment.
    clock: Option<(Timestamp, Duration)>,
    /// The same before it was heard: it shows at least this, as a commit of it says.
    at_least: Option<(Timestamp, Duration)>,
}

#[derive(Debug)]
pub struct LagProbe {
    clock: Arc<dyn Clock>,
    commits: Arc<dyn CommitTimes>,
    inner: Mutex<Inner>,
}

impl LagProbe {
    pub fn new(clock: Arc<dyn Clock>, commits: Arc<dyn CommitTimes>) -> Self {
        Self { clock, commits, inner: Mutex::new(Inner::default()) }
    }

    /// The database told its time.
    pub fn heard(&self, clock: Timestamp) {
        self.lock().clock = Some((clock, self.clock.monotonic()));
    }

    /// An earlier run left log that the store lacks: where each piece ends, and its oldest commit.
    pub fn holds(&self, found: Vec<(Position, Timestamp)>) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        inner.at_least = found.iter().map(|(_, oldest)| (*oldest, now)).max();
        inner.frames.extend(found.into_iter().map(|(end, oldest)| Waiting { end, oldest }));
    }

    /// What the database's clock shows now, as far as it was heard.
    pub fn database_now(&self) -> Option<Timestamp> {
        self.since(self.lock().clock)
    }

    fn since(&self, known: Option<(Timestamp, Duration)>) -> Option<Timestamp> {
        let (clock, at) = known?;
        let passed = self.clock.monotonic().saturating_sub(at);
        Some(clock.plus_micros(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Seconds; `durable` is what the store (or the spool) has confirmed. Before the database has
    /// told its time, at least so many, by the commits that wait; `None` when there are none.
    pub fn seconds(&self, durable: Option<Position>) -> Option<f64> {
        let mut inner = self.lock();
        let now = self.since(inner.clock.or(inner.at_least))?;
        while inner.frames.front().is_some_and(|frame| durable.is_some_and(|d| frame.end <= d)) {
            inner.frames.pop_front();
        }
        let oldest = inner.frames.front().map(|frame| frame.oldest).or(inner.uncut);
        Some(oldest.map_or(0.0, |oldest| now.seconds_since(oldest).max(0.0)))
    }

    /// Forgets everything: the pipeline begins anew.
    pub fn reset(&self) {
        let mut inner = self.lock();
        inner.frames.clear();
        inner.uncut = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }
}

impl FrameProbe for LagProbe {
    fn received(&self, clock: Option<Timestamp>) {
        let mut inner = self.lock();
        if inner.uncut.is_none() {
            inner.uncut = clock;
        }
    }

    fn cut(&self, start: Position, raw: &[u8]) {
        let decoded =
            (raw.len() >= CATCH_UP_FRAME).then(|| self.commits.first(start.offset, raw)).flatten();
        let mut inner = self.lock();
        let sent = inner.uncut.take();
        let Some(oldest) = decoded.or(sent) else { return };
        let end = Position::new(start.epoch, Offset(start.offset.0 + raw.len() as u64));
        if inner.frames.len() >= FRAMES_MAX {
            join_neighbours(&mut inner.frames);
        }
        inner.frames.push_back(Waiting { end, oldest });
    }
}

/// Halves the list: two frames become one that is as old as the older and ends with the later.
fn join_neighbours(frames: &mut VecDeque<Waiting>) {
    let mut joined = VecDeque::with_capacity(frames.len() / 2 + 1);
    while let Some(first) = frames.pop_front() {
        joined.push_back(match frames.pop_front() {
            Some(second) => Waiting { end: second.end, oldest: first.oldest.min(second.oldest) },
            None => first,
        });
    }
    *frames = joined;
}

#[cfg(test)]
mod tests {
    use proto::position::Epoch;

    use super::*;

    #[derive(Debug)]
    struct Still;

    impl Clock for Still {
        fn wall(&self) -> Timestamp {
            Timestamp(0)
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    impl CommitTimes for Still {
        fn first(&self, _start: Offset, _raw: &[u8]) -> Option<Timestamp> {
            Some(Timestamp(1_000_000))
        }
    }

    fn at(offset: u64) -> Position {
        Position::new(Epoch(1), Offset(offset))
    }

    #[test]
    fn the_lag_is_the_age_of_the_oldest_byte_that_is_not_durable_and_zero_when_none_is() {
        let lag = LagProbe::new(Arc::new(Still), Arc::new(Still));
        lag.heard(Timestamp(10_000_000));
        assert_eq!(lag.seconds(None), Some(0.0));
        lag.received(Some(Timestamp(7_000_000)));
        assert_eq!(lag.seconds(Some(at(0))), Some(3.0));
        lag.cut(at(0), &[0; 10]);
        lag.received(Some(Timestamp(9_000_000)));
        lag.cut(at(10), &[0; 10]);
        assert_eq!(lag.seconds(Some(at(9))), Some(3.0));
        assert_eq!(lag.seconds(Some(at(10))), Some(1.0));
        assert_eq!(lag.seconds(Some(at(20))), Some(0.0));
    }

    #[test]
    fn what_only_the_spool_holds_counts_with_the_age_of_its_oldest_commit() {
        let lag = LagProbe::new(Arc::new(Still), Arc::new(Still));
        assert_eq!(lag.seconds(None), None);
        lag.holds(vec![(at(10), Timestamp(5_000_000)), (at(20), Timestamp(8_000_000))]);
        // The database is away: its clock shows at least what its last commit says.
        assert_eq!(lag.seconds(Some(at(0))), Some(3.0));
        lag.heard(Timestamp(20_000_000));
        assert_eq!(lag.seconds(Some(at(9))), Some(15.0));
        assert_eq!(lag.seconds(Some(at(10))), Some(12.0));
        assert_eq!(lag.seconds(Some(at(20))), Some(0.0));
    }

    #[test]
    fn catching_up_shows_the_age_of_the_commits_and_not_of_their_sending() {
        let lag = LagProbe::new(Arc::new(Still), Arc::new(Still));
        lag.heard(Timestamp(61_000_000));
        lag.received(Some(Timestamp(61_000_000)));
        lag.cut(at(0), &vec![0; CATCH_UP_FRAME]);
        assert_eq!(lag.seconds(Some(at(0))), Some(60.0));
    }
}
