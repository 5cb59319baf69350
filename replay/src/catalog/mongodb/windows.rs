//! Which moments of a replica set can be restored.
//!
//! Enters: the bases, the gaps that the ledger names, and where the log ends. Leaves: the windows.
//! Nothing is read: a hole that nobody recorded is for `pitr verify` and for a plan to find.

use proto::archive::ledger::Event;
use proto::mongodb::{OpTime, OplogTs};
use proto::timestamp::Timestamp;

use super::OplogArchive;

/// A stretch of the oplog that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OplogGap {
    /// The entry before it, and the first one behind it.
    pub last: OpTime,
    pub first: OpTime,
    pub reason: String,
    /// When it was recorded, by the writer's clock.
    pub recorded: Timestamp,
}

/// Every moment from one timestamp to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OplogWindow {
    pub from: OplogTs,
    pub to: OplogTs,
}

/// A collection that is left out of what is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    pub collection: String,
    /// From this moment on.
    pub at: OplogTs,
    /// Up to the earliest moment of the first base behind it.
    pub until: Option<OplogTs>,
    pub reason: String,
}

impl OplogArchive {
    /// What the log does not carry, as the ledger names it. A kill may have had it recorded twice.
    pub fn lacks(&self) -> Vec<Lack> {
        let until = |at: OplogTs| {
            let behind = self.bases.iter().map(|base| base.mongodb());
            behind.filter(|base| base.start.ts >= at).map(|base| base.stop).min()
        };
        let mut lacks: Vec<Lack> = Vec::new();
        for entry in &self.ledger {
            let Event::NotCarried { at, collection, reason } = &entry.event else { continue };
            if lacks.iter().any(|lack| lack.at == *at && lack.collection == *collection) {
                continue;
            }
            let (collection, reason) = (collection.clone(), reason.clone());
            lacks.push(Lack { collection, at: *at, until: until(*at), reason });
        }
        lacks
    }

    /// The ledger's gaps, in the order of the log.
    pub fn gaps(&self) -> Vec<OplogGap> {
        let gap = |entry: &proto::archive::ledger::Entry| match &entry.event {
            Event::Gap { oplog: Some([last, first]), reason, .. } => Some(OplogGap {
                last: *last,
                first: *first,
                reason: reason.clone(),
                recorded: entry.time,
            }),
            _ => None,
        };
        let mut gaps: Vec<_> = self.ledger.iter().filter_map(gap).collect();
        gaps.sort_by_key(|gap| gap.first);
        gaps
    }

    /// The windows of a log that ends with the entry at `end`.
    pub fn windows(&self, end: OplogTs) -> Vec<OplogWindow> {
        let bases: Vec<_> =
            self.bases.iter().map(|base| (base.mongodb().start.ts, base.mongodb().stop)).collect();
        windows(&self.gaps(), &bases, end)
    }
}

/// `bases`: where the replay of each begins, and the earliest moment that it leads to.
fn windows(gaps: &[OplogGap], bases: &[(OplogTs, OplogTs)], end: OplogTs) -> Vec<OplogWindow> {
    let begins = std::iter::once(OplogTs(0)).chain(gaps.iter().map(|gap| gap.first.ts));
    let ends = gaps.iter().map(|gap| gap.last.ts).chain([end]);
    let window = |(begin, to): (OplogTs, OplogTs)| {
        let usable = bases.iter().filter(|(start, stop)| *start >= begin && *stop <= to);
        usable.map(|(_, stop)| *stop).min().map(|from| OplogWindow { from, to })
    };
    begins.zip(ends).filter_map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(last: u64, first: u64) -> OplogGap {
        let at = |ts| OplogTs(ts).at(1);
        let (last, first) = (at(last), at(first));
        OplogGap { last, first, reason: String::new(), recorded: Timestamp(0) }
    }

    #[test]
    fn a_window_begins_at_a_base_and_ends_at_a_gap_or_with_the_log() {
        let at = |from, to| OplogWindow { from: OplogTs(from), to: OplogTs(to) };
        let of = |gaps: &[OplogGap], bases: &[(u64, u64)]| {
            let bases: Vec<_> = bases.iter().map(|(a, b)| (OplogTs(*a), OplogTs(*b))).collect();
            windows(gaps, &bases, OplogTs(100))
        };
        assert_eq!(of(&[], &[]), []);
        assert_eq!(of(&[], &[(20, 25), (10, 15)]), [at(15, 100)]);
        let lost = [gap(40, 60)];
        assert_eq!(of(&lost, &[(10, 15)]), [at(15, 40)]);
        assert_eq!(of(&lost, &[(10, 15), (60, 70)]), [at(15, 40), at(70, 100)]);
        // One whose log is cut through leads nowhere.
        assert_eq!(of(&lost, &[(39, 61)]), []);
    }
}
