//! When a base is due.
//!
//! Enters: the bases that are complete, the gaps, the database's clock and place. Leaves: now, and
//! why; or when to ask again. Decides only: no clock, no store.

use std::time::Duration;

use proto::archive::base::Complete;
use proto::postgres::history::History;
use proto::postgres::lsn::{Lsn, Timeline};
use proto::timestamp::Timestamp;

/// What matters of a complete base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub start: Lsn,
    pub timeline: Timeline,
    pub stop: Lsn,
    pub stop_timeline: Timeline,
    /// By the database's clock.
    pub finished: Timestamp,
    pub damaged: bool,
}

impl From<&Complete> for Taken {
    fn from(complete: &Complete) -> Self {
        let postgres = complete.postgres();
        Self {
            start: postgres.start,
            timeline: postgres.timeline,
            stop: postgres.stop,
            stop_timeline: postgres.stop_timeline,
            finished: complete.finished,
            damaged: !complete.damaged.is_empty(),
        }
    }
}

/// A stretch of log that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub timeline: Timeline,
    pub from: Lsn,
    pub to: Lsn,
}

/// Where the database stands.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    /// The history of the timeline that is archived now.
    pub history: &'a History,
    /// The database's clock.
    pub now: Timestamp,
    /// How often a base is wanted; `None`: only where there is no usable one.
    pub every: Option<Duration>,
    /// When the last attempt failed, and how many have failed in a row.
    pub failed: Option<(Timestamp, u32)>,
}

/// Why a base is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The lineage has none.
    First,
    /// None from which the log leads here: every one stands before a gap or on another branch.
    Unreachable,
    /// From the last on, the log does not carry a collection.
    Lacking,
    /// The last is older than wanted.
    Age,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Now(Reason),
    /// Not before then, by the database's clock.
    At(Timestamp),
    /// Not until something changes.
    Never,
}

impl Reason {
    /// Whether waiting for a spread checkpoint would leave the database unprotected.
    pub const fn is_urgent(self) -> bool {
        matches!(self, Self::First | Self::Unreachable | Self::Lacking)
    }
}

const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Decides from all complete bases of the lineage and all its gaps.
pub fn due(bases: &[Taken], gaps: &[Gap], present: &Present<'_>) -> Due {
    let usable = bases.iter().filter(|base| leads_here(base, gaps, present.history));
    let usable = usable.map(|base| base.finished).max();
    let known = Known { any: !bases.is_empty(), usable, lacking: false };
    due_of(known, present.now, present.every, present.failed)
}

/// What is known of a lineage's bases, whatever its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Whether it has any.
    pub any: bool,
    /// When the newest was finished from which the log leads to the present.
    pub usable: Option<Timestamp>,
    /// Whether the log behind that one lacks a collection, which a new one would hold.
    pub lacking: bool,
}

/// Decides from what is known: by the database's clock, how often one is wanted, and what failed.
pub fn due_of(
    known: Known,
    now: Timestamp,
    every: Option<Duration>,
    failed: Option<(Timestamp, u32)>,
) -> Due {
    let wanted = match (known.usable, every) {
        (None, _) if !known.any => Due::Now(Reason::First),
        (None, _) => Due::Now(Reason::Unreachable),
        (Some(_), _) if known.lacking => Due::Now(Reason::Lacking),
        (Some(_), None) => Due::Never,
        (Some(newest), Some(every)) => {
            let at = plus(newest, every);
            if at <= now { Due::Now(Reason::Age) } else { Due::At(at) }
        }
    };
    match (wanted, failed) {
        (Due::Now(reason), Some((at, failures))) => {
            let again = plus(at, pause(failures));
            // A clock that was set back must not hold a base up.
            let soon = again <= now || at > now;
            if soon { Due::Now(reason) } else { Due::At(again) }
        }
        (wanted, _) => wanted,
    }
}

/// Whether recovery from `base` can follow the log to the present: its stop stands on the present
/// timeline's path, and no gap lies behind its start.
pub fn leads_here(base: &Taken, gaps: &[Gap], history: &History) -> bool {
    let on_path = history.contains(base.stop_timeline, base.stop);
    let crosses = |gap: &&Gap| gap.to > base.start && history.contains(gap.timeline, gap.from);
    on_path && !gaps.iter().any(|gap| crosses(&gap))
}

fn pause(failures: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MAX)
}

fn plus(time: Timestamp, by: Duration) -> Timestamp {
    time.plus_micros(i64::try_from(by.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn taken(start: u64, timeline: u32, finished_hours: i64) -> Taken {
        Taken {
            start: Lsn(start),
            timeline: Timeline(timeline),
            stop: Lsn(start + 100),
            stop_timeline: Timeline(timeline),
            finished: hours(finished_hours),
            damaged: false,
        }
    }

    fn hours(hours: i64) -> Timestamp {
        Timestamp(hours * 3_600_000_000)
    }

    fn present(history: &History, now: Timestamp) -> Present<'_> {
        Present { history, now, every: Some(DAY), failed: None }
    }

    #[test]
    fn the_first_base_is_due_at_once_and_the_next_a_day_later() {
        let history = History::first(Timeline(1));
        assert_eq!(due(&[], &[], &present(&history, hours(0))), Due::Now(Reason::First));
        let bases = [taken(1000, 1, 0), taken(2000, 1, 5)];
        assert_eq!(due(&bases, &[], &present(&history, hours(28))), Due::At(hours(29)));
        assert_eq!(due(&bases, &[], &present(&history, hours(29))), Due::Now(Reason::Age));
        let once = Present { every: None, ..present(&history, hours(900)) };
        assert_eq!(due(&bases, &[], &once), Due::Never);
    }

    #[test]
    fn a_gap_behind_the_last_base_makes_one_due() {
        let history = History::first(Timeline(1));
        let gap = |from, to| Gap { timeline: Timeline(1), from: Lsn(from), to: Lsn(to) };
        let at = |gap| due(&[taken(1000, 1, 0)], &[gap], &present(&history, hours(1)));
        assert_eq!(at(gap(2000, 3000)), Due::Now(Reason::Unreachable));
        assert_eq!(at(gap(500, 900)), Due::At(hours(24)));
        assert!(Reason::Unreachable.is_urgent() && !Reason::Age.is_urgent());
    }

    #[test]
    fn a_collection_that_the_log_does_not_carry_makes_one_due() {
        let of = |lacking, failed| {
            let known = Known { any: true, usable: Some(hours(0)), lacking };
            due_of(known, hours(1), Some(DAY), failed)
        };
        assert_eq!(of(true, None), Due::Now(Reason::Lacking));
        assert_eq!(of(false, None), Due::At(hours(24)));
        let soon = hours(1).plus_micros(10_000_000);
        assert_eq!(of(true, Some((hours(1), 1))), Due::At(soon));
    }

    #[test]
    fn a_base_of_another_branch_does_not_count() {
        let raw = bytes::Bytes::from_static(b"1\t0/7D0\tno recovery target specified\n");
        let history = History::parse(Timeline(2), raw).expect("a history");
        let present = present(&history, hours(1));
        // 0x7D0 = 2000: the first stops before the branch, the second behind it.
        assert_eq!(due(&[taken(1000, 1, 0)], &[], &present), Due::At(hours(24)));
        assert_eq!(due(&[taken(3000, 1, 0)], &[], &present), Due::Now(Reason::Unreachable));
        // A gap on the abandoned part of timeline 1 is nobody's.
        let gap = Gap { timeline: Timeline(1), from: Lsn(2500), to: Lsn(2600) };
        assert_eq!(due(&[taken(1000, 1, 0)], &[gap], &present), Due::At(hours(24)));
    }

    #[test]
    fn attempts_that_fail_are_spaced_out_and_never_for_ever() {
        let history = History::first(Timeline(1));
        let after = |failures, seconds: i64| {
            let now = hours(0).plus_micros(seconds * 1_000_000);
            let failed = Some((hours(0), failures));
            due(&[], &[], &Present { failed, ..present(&history, now) })
        };
        assert_eq!(after(1, 10), Due::Now(Reason::First));
        assert_eq!(after(3, 10), Due::At(hours(0).plus_micros(40_000_000)));
        assert_eq!(after(300, 600), Due::Now(Reason::First));
        assert_eq!(after(3, -5), Due::Now(Reason::First), "the clock was set back");
    }
}
