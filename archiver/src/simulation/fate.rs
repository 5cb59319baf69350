//! When the machine dies: after so many operations on its disk and its store. And when it stands
//! still for a while: a virtual machine that is moved, a process that is stopped.

use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// One life of the machine; shared by everything whose effects outlive it.
#[derive(Debug)]
pub(super) struct Fate {
    state: Mutex<State>,
    died: Notify,
}

#[derive(Debug)]
struct State {
    left: u64,
    dead: bool,
    still_until: Option<Instant>,
    rng: StdRng,
    /// A running hash of everything that was done, to compare two runs of a seed.
    trace: u64,
}

/// What becomes of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Done,
    /// The last one of this life; done, and nobody learns of it.
    DoneAndDead,
    Dead,
}

impl Fate {
    /// A machine that dies at operation number `left`.
    pub(super) fn new(left: u64, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let state = State { left, dead: false, still_until: None, rng, trace: 0 };
        Self { state: Mutex::new(state), died: Notify::new() }
    }

    /// Accounts for an operation on `what`.
    pub(super) fn step(&self, doing: &str, what: &str) -> Step {
        let mut state = self.state.lock().expect("no panic while held");
        if state.dead {
            return Step::Dead;
        }
        for byte in doing.bytes().chain(what.bytes()) {
            // FNV-1a.
            state.trace = (state.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        tracing::debug!(doing, what, "step");
        if state.left > 0 {
            state.left -= 1;
            return Step::Done;
        }
        state.dead = true;
        self.died.notify_waiters();
        if state.rng.random_bool(0.5) { Step::DoneAndDead } else { Step::Dead }
    }

    pub(super) fn kill(&self) {
        self.state.lock().expect("no panic while held").dead = true;
        self.died.notify_waiters();
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state.lock().expect("no panic while held").dead
    }

    pub(super) async fn death(&self) {
        let died = self.died.notified();
        if !self.is_dead() {
            died.await;
        }
    }

    /// Nothing leaves or reaches the machine until then.
    pub(super) fn stand_still(&self, until: Instant) {
        self.state.lock().expect("no panic while held").still_until = Some(until);
    }

    /// Waits while the machine stands still, and for ever once it is dead.
    pub(super) async fn awake(&self) {
        loop {
            let (dead, until) = {
                let state = self.state.lock().expect("no panic while held");
                (state.dead, state.still_until)
            };
            if dead {
                std::future::pending::<()>().await;
            }
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    }

    pub(super) fn trace(&self) -> u64 {
        self.state.lock().expect("no panic while held").trace
    }
}
