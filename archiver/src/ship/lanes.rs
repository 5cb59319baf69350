//! How many sealed segments go up side by side.
//!
//! Enters: attempts to put. Leaves: the same, one fewer at once behind each that failed, down to a
//! single one, and one more behind a run that went well. A link that several bodies share may be too
//! slow for any of them to come through in time, and each would be sent anew for ever.

use std::sync::Mutex;

use tokio::sync::Semaphore;

/// Sealed segments on their way at once.
pub(super) const LANES_MAX: usize = 4;
/// Attempts in a row that went well before another lane is opened.
const WELL: u32 = 4;

#[derive(Debug)]
pub(super) struct Lanes {
    free: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: usize,
    well: u32,
}

impl Lanes {
    pub(super) const fn new() -> Self {
        let state = Mutex::new(State { open: LANES_MAX, well: 0 });
        Self { free: Semaphore::const_new(LANES_MAX), state }
    }

    /// Makes an attempt when a lane is free. Cancel-safe when `attempt` is.
    pub(super) async fn through<T, E>(
        &self,
        attempt: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let lane = self.free.acquire().await.expect("never closed");
        let done = attempt.await;
        let mut state = self.state.lock().expect("no panic while held");
        if done.is_ok() {
            state.well += 1;
            if state.well >= WELL && state.open < LANES_MAX {
                *state = State { open: state.open + 1, well: 0 };
                self.free.add_permits(1);
            }
        } else {
            state.well = 0;
            if state.open > 1 {
                state.open -= 1;
                lane.forget();
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    /// A link that carries a body in ten seconds, or several at once in so many times ten. An attempt
    /// that takes longer than twenty-five is given up.
    async fn attempt(under_way: &AtomicU32) -> Result<(), ()> {
        under_way.fetch_add(1, Ordering::Relaxed);
        let mut left = Duration::from_secs(10);
        let mut waited = Duration::ZERO;
        let step = Duration::from_millis(100);
        while !left.is_zero() && waited < Duration::from_secs(25) {
            tokio::time::sleep(step).await;
            waited += step;
            left = left.saturating_sub(step / under_way.load(Ordering::Relaxed));
        }
        under_way.fetch_sub(1, Ordering::Relaxed);
        if left.is_zero() { Ok(()) } else { Err(()) }
    }

    async fn bring_up(bodies: u32, through: impl AsyncFn(&AtomicU32) -> Result<(), ()>) -> u32 {
        let under_way = AtomicU32::new(0);
        let done = AtomicU32::new(0);
        let bodies = (0..bodies).map(|_| async {
            while through(&under_way).await.is_err() {}
            done.fetch_add(1, Ordering::Relaxed);
        });
        let all = futures_util::future::join_all(bodies);
        let _ = tokio::time::timeout(Duration::from_secs(600), all).await;
        done.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_share_a_slow_link_come_through_one_after_the_other() {
        let lanes = Arc::new(Lanes::new());
        let through = async |link: &AtomicU32| lanes.through(attempt(link)).await;
        assert_eq!(bring_up(20, through).await, 20);
        // All at once, as many as there are lanes: none ever comes through.
        assert_eq!(bring_up(4, async |link: &AtomicU32| attempt(link).await).await, 0);
    }

    #[tokio::test]
    async fn a_link_that_is_quick_again_has_all_its_lanes_again() {
        let lanes = Lanes::new();
        for _ in 0..20 {
            let _ = lanes.through(async { Err::<(), ()>(()) }).await;
        }
        assert_eq!(lanes.free.available_permits(), 1);
        for _ in 0..WELL as usize * LANES_MAX {
            let _ = lanes.through(async { Ok::<(), ()>(()) }).await;
        }
        assert_eq!(lanes.free.available_permits(), LANES_MAX);
    }
}
