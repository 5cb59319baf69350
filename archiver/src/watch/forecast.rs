//! What is about to happen if nothing changes: when the spool is full, when the slot reaches
//! `--slot-max`, when the oplog runs past us (DESIGN §5.5).
//!
//! Enters: a look at the figures, now and then. Leaves: times that are left, as metrics and as one
//! line a minute. Rates are smoothed, so that a burst or one upload is no alarm.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use proto::clock::Clock;
use proto::position::ByteCount;
use tokio_util::sync::CancellationToken;

use super::state::State;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(60);
/// A rate forgets what was so long ago: about three of these.
const SMOOTH: Duration = Duration::from_secs(20);
/// Before so much was seen, a rate is a guess.
const SEEN_MIN: Duration = Duration::from_secs(5);
/// What is further away is no news.
const HORIZON: Duration = Duration::from_secs(24 * 3600);
/// A spool that holds less than this part of its limit breathes: it fills and is emptied.
const BREATH: u64 = 50;

/// The smoothed rate of a figure, in units a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Trend {
    last: Option<(Duration, f64)>,
    seen: Duration,
    rate: f64,
}

impl Trend {
    /// The figure at a moment of a clock that only goes forward.
    pub fn look(&mut self, now: Duration, value: f64) {
        let Some((then, before)) = self.last.replace((now, value)) else { return };
        let passed = now.saturating_sub(then);
        if passed.is_zero() {
            return;
        }
        let rate = (value - before) / passed.as_secs_f64();
        if self.seen.is_zero() {
            self.rate = rate;
        }
        // Of what little was seen at first, then of the last while: a look that covers more weighs more.
        self.seen += passed;
        let window = self.seen.min(SMOOTH).as_secs_f64();
        let weight = 1.0 - (-passed.as_secs_f64() / window).exp();
        self.rate += (rate - self.rate) * weight;
    }

    /// Units a second; `None` before enough was seen.
    pub fn rate(&self) -> Option<f64> {
        (self.seen >= SEEN_MIN).then_some(self.rate)
    }

    /// How long it takes to grow by so much; `None` when it does not grow, or not within a day.
    fn until(&self, room: f64) -> Option<Duration> {
        let rate = self.rate().filter(|rate| *rate > 0.0)?;
        let left = Duration::try_from_secs_f64((room / rate).max(0.0)).ok()?;
        (left <= HORIZON).then_some(left)
    }
}

/// The figures at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Look {
    pub spool: ByteCount,
    pub spool_max: ByteCount,
    /// What the spool's disk has left for it, where that is known.
    pub disk_room: Option<ByteCount>,
    /// What the slot holds back, and what it may; `None`: there is none.
    pub slot: Option<(ByteCount, ByteCount)>,
    /// The end of the server's log.
    pub end: Option<u64>,
    pub held: bool,
    /// Seconds between the oldest entry of the oplog and us.
    pub window: Option<f64>,
}

/// What is left until something happens; `None`: it does not, as far as can be seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    pub spool_full: Option<Duration>,
    pub slot_max: Option<Duration>,
    pub oplog_past: Option<Duration>,
}

/// The rates behind a forecast.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forecast {
    spool: Trend,
    log: Trend,
    window: Trend,
}

impl Forecast {
    /// Takes the figures of a moment, and says what is left.
    pub fn look(&mut self, now: Duration, look: &Look) -> Left {
        self.spool.look(now, look.spool.0 as f64);
        if let Some(end) = look.end {
            self.log.look(now, end as f64);
        }
        if let Some(window) = look.window {
            self.window.look(now, -window);
        }
        let spool_full = self.spool_full(look);
        let slot_max = look.slot.and_then(|(held, max)| self.slot_max(look, spool_full, held, max));
        let window = look.window.filter(|_| self.window.rate().is_some_and(|rate| rate > 0.1));
        Left { spool_full, slot_max, oplog_past: window.and_then(|left| self.window.until(left)) }
    }

    fn spool_full(&self, look: &Look) -> Option<Duration> {
        let room = look.spool_max.0.saturating_sub(look.spool.0);
        let room = look.disk_room.map_or(room, |disk| room.min(disk.0));
        if look.held || room == 0 {
            return Some(Duration::ZERO);
        }
        if look.spool.0 < look.spool_max.0 / BREATH {
            return None;
        }
        self.spool.until(room as f64)
    }

    /// While the spool takes the log in, the slot is let go of what that holds: only once it is full
    /// does the slot grow by what the server writes.
    fn slot_max(
        &self,
        look: &Look,
        spool_full: Option<Duration>,
        held: ByteCount,
        max: ByteCount,
    ) -> Option<Duration> {
        let full = spool_full?;
        let held = if look.held { held.0 } else { 0 };
        let then = self.log.until(max.0.saturating_sub(held) as f64)?;
        Some(full + then).filter(|left| *left <= HORIZON)
    }
}

impl Left {
    /// One line of what is about to happen; `None`: nothing.
    pub fn told(&self) -> Option<String> {
        let mut told = String::new();
        let whats = [
            ("spool full", self.spool_full),
            ("slot-max reached", self.slot_max),
            ("oplog runs past us", self.oplog_past),
        ];
        for (what, left) in whats {
            if let Some(left) = left {
                let comma = if told.is_empty() { "" } else { ", " };
                let _ = match rough(left) {
                    Some(left) => write!(told, "{comma}{what} in {left}"),
                    None => write!(told, "{comma}{what} now"),
                };
            }
        }
        (!told.is_empty()).then_some(told)
    }
}

/// As people say it; `None` for now.
fn rough(left: Duration) -> Option<String> {
    match left.as_secs() {
        0 => None,
        seconds @ 1..120 => Some(format!("{seconds} s")),
        seconds @ 120..7200 => Some(format!("{} min", seconds / 60)),
        seconds => Some(format!("{} h", seconds / 3600)),
    }
}

/// Looks every second, and says once a minute what is about to happen, until stopped.
pub async fn tend(state: Arc<State>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let (mut forecast, mut told) = (Forecast::default(), None::<Duration>);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = clock.monotonic();
        let left = forecast.look(now, &state.look());
        state.forecast(left);
        let Some(what) = left.told() else { continue };
        if told.is_none_or(|then| now.saturating_sub(then) >= TELL_EVERY) {
            told = Some(now);
            tracing::warn!(
                state = %state.phase(),
                spool = %ByteCount(state.level.bytes()),
                slot = %state.slot.figures().held.unwrap_or_default(),
                store = if state.health.is_away() { "away" } else { "ok" },
                "forecast: {what}"
            );
        }
    }
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
