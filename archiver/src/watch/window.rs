//! How far in front of what a member removes from its oplog we stand. Nothing pins an oplog: its
//! window is the time that a sidecar may be away (DESIGN §6).
//!
//! Enters: the oldest entry, ours, and the newest. Leaves: seconds, and whether they are few. Nothing
//! is kept.

use std::sync::{Mutex, MutexGuard};

use proto::mongodb::OplogTs;

#[derive(Debug, Default)]
pub struct Window(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    seconds: Option<u32>,
    oldest: Option<OplogTs>,
    /// The oldest entry was seen to go: an oplog that has never been full removes nothing.
    moves: bool,
    pressed: bool,
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder panics")
    }

    /// A member's oplog goes from `oldest` to `newest`, and we hold it up to `ours`. `true`: it has
    /// come under pressure by that.
    pub fn measure(&self, oldest: OplogTs, ours: OplogTs, newest: OplogTs) -> bool {
        let left = ours.seconds().saturating_sub(oldest.seconds());
        let whole = newest.seconds().saturating_sub(oldest.seconds());
        let mut inner = self.lock();
        inner.moves |= inner.oldest.is_some_and(|before| oldest > before);
        inner.oldest = Some(oldest);
        inner.seconds = Some(left);
        let was = inner.pressed;
        // Below a quarter of what the oplog spans pressure begins, above a half it ends.
        let limit = if was { whole / 2 } else { whole / 4 };
        inner.pressed = inner.moves && left <= limit && ours < newest;
        metrics::gauge!("pitr_oplog_window_seconds").set(f64::from(left));
        inner.pressed && !was
    }

    /// Between what is removed next and us.
    pub fn seconds(&self) -> Option<f64> {
        self.lock().seconds.map(f64::from)
    }

    pub fn is_pressed(&self) -> bool {
        self.lock().pressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> OplogTs {
        OplogTs(seconds << 32)
    }

    #[test]
    fn an_oplog_presses_once_it_removes_and_three_quarters_of_it_lie_before_us() {
        let window = Window::default();
        assert!(!window.measure(at(100), at(110), at(200)), "it may never have been full");
        assert!(!window.measure(at(110), at(140), at(210)), "30 of 100 seconds are left");
        assert!(window.measure(at(120), at(145), at(220)), "25 of 100");
        assert!(!window.measure(at(120), at(150), at(220)) && window.is_pressed(), "not twice");
        assert_eq!(window.seconds(), Some(30.0));
        window.measure(at(120), at(171), at(220));
        assert!(!window.is_pressed(), "more than half is in front again");
    }

    #[test]
    fn who_has_everything_is_under_no_pressure() {
        let window = Window::default();
        window.measure(at(100), at(100), at(100));
        assert!(!window.measure(at(101), at(101), at(101)));
    }
}
