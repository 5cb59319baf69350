//! What happened in a run, by name: a fault that never happens proves nothing.

use std::collections::BTreeMap;

/// Counts, and the trace of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    counts: BTreeMap<&'static str, u64>,
    pub(super) trace: u64,
}

/// Everything that must happen in a run of all seeds.
pub(super) const EVERYTHING: [&str; 22] = [
    DEATHS,
    RECONNECTS,
    REBUILT,
    FAILED_SYNCS,
    FULL_WRITES,
    STORE_AWAY,
    STORE_FAILED,
    ANSWERS_LOST,
    ANSWERS_SLOW,
    STORMS,
    LATE_PUTS,
    SPOILT_PUTS,
    SPOILT_READS,
    ENDED_BY_READS,
    LAGGING_LISTS,
    FENCED,
    STOOD_STILL,
    ZOMBIES,
    ROTTEN,
    CURSORS,
    PROMOTIONS,
    PROMOTIONS_BELOW,
];

pub(super) const DEATHS: &str = "deaths";
pub(super) const RECONNECTS: &str = "reconnects";
/// Pipelines that were built anew without a death.
pub(super) const REBUILT: &str = "rebuilt";
pub(super) const FAILED_SYNCS: &str = "failed fsyncs";
/// Writes that found no room.
pub(super) const FULL_WRITES: &str = "full writes";
/// Requests while the store was away.
pub(super) const STORE_AWAY: &str = "requests without a store";
pub(super) const STORE_FAILED: &str = "requests that failed";
pub(super) const ANSWERS_LOST: &str = "answers lost";
pub(super) const ANSWERS_SLOW: &str = "slow answers";
/// Seconds and more in which nearly every request is told to come later.
pub(super) const STORMS: &str = "storms of 429 and 503";
/// Puts that are done long after whoever asked was told of a failure, or died.
pub(super) const LATE_PUTS: &str = "late puts";
/// Bodies that were cut or had a bit turned over on their way, and were refused.
pub(super) const SPOILT_PUTS: &str = "spoilt puts";
pub(super) const SPOILT_READS: &str = "spoilt reads";
/// Runs that ended with an error because of those.
pub(super) const ENDED_BY_READS: &str = "ended by spoilt reads";
/// Listings that lacked something.
pub(super) const LAGGING_LISTS: &str = "lagging listings";
/// Asked for what the database had let go of, because another writer had archived it (seldom).
pub(super) const ARCHIVED: &str = "already archived";
/// Spool files in which a bit turned over between two lives.
pub(super) const ROTTEN: &str = "rotten files";
/// Of oplogs.
pub(super) const CURSORS: &str = "cursors";
pub(super) const PROMOTIONS: &str = "promotions";
/// Those at a position below what was in the store.
pub(super) const PROMOTIONS_BELOW: &str = "promotions below what is archived";
pub(super) const FENCED: &str = "fenced";
pub(super) const STOOD_STILL: &str = "stood still";
/// Machines that woke up in good weather when another one had taken over.
pub(super) const ZOMBIES: &str = "zombies";

impl Seen {
    pub(super) fn count(&mut self, what: &'static str, times: u64) {
        *self.counts.entry(what).or_default() += times;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (what, times) in &other.counts {
            self.count(what, *times);
        }
    }

    pub(super) fn assert_that_everything_happened(&self) {
        let never = |what: &&str| self.counts.get(*what).is_none_or(|times| *times == 0);
        let missing: Vec<_> = EVERYTHING.iter().copied().filter(never).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}; {self:?}");
    }
}
