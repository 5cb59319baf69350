//! What the ledger tells of a slot that was under pressure, as far as the log has not caught up since.
//!
//! Enters: the ledger, and where the archive's log ends. Leaves: what only the sidecar's spool holds,
//! and a slot that was dropped. What the log has passed since is history and not shown.

use serde::Serialize;

use super::postgres::Place;
use crate::cli::show;
use proto::archive::ledger::{Entry, Event};
use proto::position::Position;
use proto::timestamp::Timestamp;

/// The states of a sidecar that show in an archive: a store that is away cannot tell its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::cli) struct Slot {
    /// `slot-under-pressure`, `released`; null: neither.
    pub(in crate::cli) state: Option<&'static str>,
    /// The range of the log that the database was told to let go of and that the archive lacks.
    pub(in crate::cli) spool_only: Option<SpoolOnly>,
    pub(in crate::cli) released: Option<Released>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(in crate::cli) struct SpoolOnly {
    pub(in crate::cli) from: Place,
    pub(in crate::cli) to: Place,
    pub(in crate::cli) recorded: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::cli) struct Released {
    pub(in crate::cli) at: Place,
    pub(in crate::cli) reason: String,
    pub(in crate::cli) recorded: Timestamp,
}

impl Slot {
    /// `end`: of the archive's log.
    pub(in crate::cli) fn of(ledger: &[Entry], end: Option<Position>) -> Self {
        let beyond = |at: Position| end.is_none_or(|end| at > end);
        let spool_only = ledger.iter().rev().find_map(|entry| match entry.event {
            Event::Spooled { from, to } => Some((from, to, entry.time)),
            _ => None,
        });
        let spool_only = spool_only.filter(|(_, to, _)| beyond(*to)).map(|(from, to, recorded)| {
            let from = end.map_or(from, |end| end.max(from));
            SpoolOnly { from: Place::of(from), to: Place::of(to), recorded }
        });
        // A gap behind it says what came of it; log behind it, that nothing did.
        let released = ledger.iter().rev().find_map(|entry| match &entry.event {
            Event::SlotReleased { at, reason } => Some(Some((*at, reason.clone(), entry.time))),
            Event::Gap { .. } => Some(None),
            _ => None,
        });
        let released =
            released.flatten().filter(|(at, ..)| *at == end.unwrap_or(*at) || beyond(*at));
        let released =
            released.map(|(at, reason, recorded)| Released { at: Place::of(at), reason, recorded });
        let state = match (&released, &spool_only) {
            (Some(_), _) => Some("released"),
            (None, Some(_)) => Some("slot-under-pressure"),
            (None, None) => None,
        };
        Self { state, spool_only, released }
    }

    pub(in crate::cli) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(Released { at, reason, recorded }) = &self.released {
            lines.push(format!("RELEASED at {at} ({}): {reason}", show::time(*recorded)));
        }
        if let Some(SpoolOnly { from, to, recorded }) = &self.spool_only {
            lines.push(format!(
                "SPOOL    {from} .. {to} is held only in the sidecar's spool (slot under pressure, {})",
                show::time(*recorded)
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use proto::position::{Epoch, Offset};

    use super::*;

    fn at(offset: u64) -> Position {
        Position::new(Epoch(1), Offset(offset))
    }

    fn ledger(events: Vec<Event>) -> Vec<Entry> {
        let entry = |(seq, event)| Entry { version: 1, seq, time: Timestamp(seq as i64), event };
        (1..).zip(events).map(entry).collect()
    }

    #[test]
    fn what_only_the_spool_holds_is_shown_until_the_log_has_it() {
        let ledger = ledger(vec![
            Event::Spooled { from: at(10), to: at(20) },
            Event::Spooled { from: at(12), to: at(40) },
        ]);
        let slot = Slot::of(&ledger, Some(at(30)));
        assert_eq!(slot.state, Some("slot-under-pressure"));
        let shown = slot.spool_only.expect("it is shown");
        assert_eq!((shown.from, shown.to), (Place::of(at(30)), Place::of(at(40))));
        assert_eq!(Slot::of(&ledger, Some(at(40))).lines(), Vec::<String>::new());
    }

    #[test]
    fn a_released_slot_is_shown_until_a_gap_or_newer_log_says_what_came_of_it() {
        let released = Event::SlotReleased { at: at(50), reason: "full".to_owned() };
        let mut events = vec![Event::Spooled { from: at(10), to: at(50) }, released];
        let slot = Slot::of(&ledger(events.clone()), Some(at(30)));
        assert_eq!(slot.state, Some("released"));
        assert_eq!(slot.lines().len(), 2, "{:?}", slot.lines());
        assert_eq!(Slot::of(&ledger(events.clone()), Some(at(50))).state, Some("released"));
        assert_eq!(Slot::of(&ledger(events.clone()), Some(at(51))).state, None);
        let (from, to, reason) = (at(50), at(60), "lost".to_owned());
        events.push(Event::Gap { from, to, reason, oplog: None });
        assert_eq!(Slot::of(&ledger(events), Some(at(50))).state, None);
    }
}
