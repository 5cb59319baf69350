//! How much log the replication slot holds back on the server, and when that becomes pressure
//! (DESIGN §5.5).
//!
//! Enters: the server's end, what is stored, what is acknowledged, `--slot-max`. Leaves: whether to
//! acknowledge from the spool, and when a slot must be released. Nothing is kept.

use std::sync::{Mutex, MutexGuard};

use proto::position::{ByteCount, Offset};
use tokio::sync::watch;

/// Shared by the source, which measures, and the ship stage, which acknowledges.
#[derive(Debug)]
pub struct Slot {
    figures: Mutex<Figures>,
    pressed: watch::Sender<bool>,
}

/// Of one slot, as far as they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// The end of the server's log.
    pub end: Option<Offset>,
    /// What the slot keeps from being removed.
    pub held: Option<ByteCount>,
    /// `--slot-max`; `None`: there is no slot.
    pub max: Option<ByteCount>,
    /// The least that it held since we came: what an earlier absence left is no fault of now.
    lowest: Option<ByteCount>,
    pub released: bool,
}

impl Default for Slot {
    fn default() -> Self {
        Self { figures: Mutex::default(), pressed: watch::Sender::new(false) }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().expect("no holder panics")
    }

    pub fn figures(&self) -> Figures {
        *self.lock()
    }

    /// `--slot-max`, or what the server's settings make of it.
    pub fn limit(&self, max: ByteCount) {
        self.lock().max = Some(max);
    }

    /// Follows [`Self::is_pressed`].
    pub fn pressure(&self) -> watch::Receiver<bool> {
        self.pressed.subscribe()
    }

    /// Whether the spool's word is to be passed on: the store is too far behind.
    pub fn is_pressed(&self) -> bool {
        *self.pressed.borrow()
    }

    /// The server's log ends at `end`; the store has it up to `stored`, and the slot lets go of what
    /// is before `acknowledged`.
    pub fn measure(&self, end: Offset, stored: Offset, acknowledged: Offset) {
        let max = {
            let mut figures = self.lock();
            let held = end.since(acknowledged);
            figures.end = Some(end);
            figures.held = Some(held);
            figures.lowest = Some(figures.lowest.map_or(held, |lowest| lowest.min(held)));
            figures.released = false;
            figures.max
        };
        let Some(max) = max else { return };
        let behind = end.since(stored);
        let change = self.pressed.send_if_modified(|was| {
            let now = presses(*was, behind, max);
            std::mem::replace(was, now) != now
        });
        match (change, self.is_pressed()) {
            (true, true) => tracing::warn!(
                %behind, slot_max = %max,
                "slot under pressure: the store is behind by more than half of --slot-max; what the spool has fsynced is acknowledged until it has caught up"
            ),
            (true, false) => {
                tracing::info!(%behind, "the store has caught up: the slot waits for it again");
            }
            (false, _) => {}
        }
    }

    /// The same while nothing is streamed: the server told where its log ends and what the slot
    /// holds. Gives by how much that is beyond what it may hold.
    pub fn looked(&self, end: Offset, held: ByteCount) -> Option<Beyond> {
        let mut figures = self.lock();
        figures.end = Some(end);
        figures.held = Some(held);
        let lowest = figures.lowest.map_or(held, |lowest| lowest.min(held));
        figures.lowest = Some(lowest);
        let max = figures.max?;
        (held > allowed(max, lowest)).then_some(Beyond { held, max })
    }

    /// The slot was dropped to protect the server's disk.
    pub fn release(&self) {
        let mut figures = self.lock();
        (figures.held, figures.lowest, figures.released) = (Some(ByteCount(0)), None, true);
    }
}

/// A slot that holds more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beyond {
    pub held: ByteCount,
    pub max: ByteCount,
}

/// Above a half pressure begins, below a quarter it ends.
const fn presses(was: bool, behind: ByteCount, max: ByteCount) -> bool {
    let limit = if was { max.0 / 4 } else { max.0 / 2 };
    behind.0 > limit
}

/// What a slot may hold. One that held more when we came (an earlier absence) is worked off, not
/// dropped: it may grow by a quarter of `--slot-max` meanwhile.
fn allowed(max: ByteCount, lowest: ByteCount) -> ByteCount {
    if lowest > max { ByteCount(lowest.0.saturating_add(max.0 / 4)) } else { max }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: ByteCount = ByteCount(100);

    fn slot() -> Slot {
        let slot = Slot::default();
        slot.limit(MAX);
        slot
    }

    fn measured(slot: &Slot, end: u64, stored: u64, acknowledged: u64) -> bool {
        slot.measure(Offset(end), Offset(stored), Offset(acknowledged));
        slot.is_pressed()
    }

    #[test]
    fn pressure_begins_above_half_of_slot_max_and_ends_below_a_quarter() {
        let slot = slot();
        assert!(!measured(&slot, 1050, 1000, 1000), "exactly half");
        assert!(measured(&slot, 1051, 1000, 1000));
        // What the spool has is let go of, and the store is still behind.
        assert!(measured(&slot, 1060, 1010, 1060), "the store decides, not the slot");
        assert!(measured(&slot, 1060, 1034, 1060));
        assert!(!measured(&slot, 1060, 1035, 1060));
        assert_eq!(slot.figures().held, Some(ByteCount(0)));
    }

    #[test]
    fn without_a_limit_nothing_presses() {
        let slot = Slot::default();
        assert!(!measured(&slot, u64::MAX, 0, 0));
        assert_eq!(slot.looked(Offset(u64::MAX), ByteCount(u64::MAX)), None);
    }

    #[test]
    fn a_slot_is_beyond_its_limit_only_by_what_it_took_since_we_came() {
        let slot = slot();
        assert_eq!(slot.looked(Offset(1), ByteCount(100)), None);
        let beyond = slot.looked(Offset(2), ByteCount(101));
        assert_eq!(beyond, Some(Beyond { held: ByteCount(101), max: MAX }));
        // One that was left behind by a long absence is worked off.
        let inherited = self::slot();
        assert!(measured(&inherited, 1000, 700, 700));
        assert_eq!(inherited.looked(Offset(1020), ByteCount(320)), None);
        assert!(inherited.looked(Offset(1026), ByteCount(326)).is_some());
        measured(&inherited, 1026, 1000, 1000);
        assert!(inherited.looked(Offset(1101), ByteCount(101)).is_some(), "it was worked off");
    }

    #[test]
    fn a_slot_that_was_released_holds_nothing() {
        let slot = slot();
        slot.looked(Offset(500), ByteCount(500));
        slot.release();
        let figures = slot.figures();
        assert!(figures.released && figures.held == Some(ByteCount(0)));
        measured(&slot, 600, 600, 600);
        assert!(!slot.figures().released, "a new one is there");
    }
}
