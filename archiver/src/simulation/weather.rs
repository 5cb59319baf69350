//! What befalls a machine's disk and its store: something new every few seconds. And how the
//! database writes meanwhile.

use std::sync::Arc;
use std::time::Duration;

use proto::store::Class;
use proto::store::fault::{Fault, Faults, Kind, Op};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use super::database::Database;
use super::disk::SimDisk;
use super::life::ROOMY;
use super::seen::{
    ANSWERS_LOST, ANSWERS_SLOW, SPOILT_READS, STORE_AWAY, STORE_FAILED, STORMS, Seen,
};
use super::store::{Lag, MemoryStore};

/// Requests of one machine in a storm: so many at once, and so many a second, at the most.
const STORM_BURST: u64 = 60;
const STORM_RATE: u64 = 30;

/// One machine's share of the weather.
#[derive(Debug, Clone)]
pub(super) struct Weather {
    pub(super) store: Arc<MemoryStore>,
    pub(super) disk: SimDisk,
    pub(super) faults: Faults,
}

impl Weather {
    pub(super) fn clear_up(&self) {
        self.faults.heal();
        self.store.heal();
        self.disk.set_capacity(ROOMY);
        self.disk.fail_syncs(0);
    }

    /// Runs until it is dropped.
    pub(super) async fn blow(self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        loop {
            // What is wrong with the store outlives a machine.
            let storm = self.change(&mut rng);
            let (began, asked) = (Instant::now(), self.requests());
            sleep(Duration::from_millis(rng.random_range(50..8000))).await;
            if storm {
                let most = STORM_BURST + STORM_RATE * began.elapsed().as_secs().max(1);
                let asked = self.requests() - asked;
                assert!(asked <= most, "{asked} requests in {:?} of 503", began.elapsed());
                self.store.note(STORMS);
            }
            self.clear_up();
        }
    }

    fn requests(&self) -> u64 {
        let all = [Op::Put, Op::Get, Op::Head, Op::List, Op::Folders, Op::Delete];
        all.into_iter().map(|op| self.faults.calls(op)).sum()
    }

    /// Whether it is a storm now.
    fn change(&self, rng: &mut StdRng) -> bool {
        match rng.random_range(0..12) {
            0 => self.faults.set_away(true),
            1 => {
                let chance = rng.random_range(0.05..0.5);
                self.faults.set_chances(vec![
                    (chance, Fault::FailBefore(Class::Retry)),
                    (chance, Fault::FailAfter(Class::Retry)),
                    (chance, Fault::Delay(Duration::from_millis(rng.random_range(1..3000)))),
                ]);
            }
            2 => self.disk.fail_syncs(rng.random_range(1..3)),
            // Below the reserve: held. Far below: writes find no room.
            3 => self.disk.set_capacity(rng.random_range(0..40 << 20)),
            4 => self.disk.set_capacity(rng.random_range(0..1 << 20)),
            5 => {
                self.faults.set_chances(vec![(0.98, Fault::FailBefore(Class::Retry))]);
                return true;
            }
            6 => self.store.lag(Lag { newest: rng.random_range(1..40), holes: rng.random() }),
            7 => self.store.spoil(rng.random_range(0.05..0.7)),
            8 => self.store.delay(rng.random_range(0.05..0.7)),
            9 => {
                let chance = rng.random_range(0.01..0.2);
                self.faults.set_chances(vec![(chance, Fault::Short), (chance, Fault::Flip)]);
            }
            _ => {}
        }
        false
    }

    /// What of it came through.
    pub(super) fn count(&self, seen: &mut Seen) {
        let fired = |kind| self.faults.fired(kind);
        seen.count(STORE_AWAY, fired(Kind::Away));
        seen.count(STORE_FAILED, fired(Kind::FailBefore));
        seen.count(ANSWERS_LOST, fired(Kind::FailAfter));
        seen.count(ANSWERS_SLOW, fired(Kind::Delay));
        seen.count(SPOILT_READS, fired(Kind::Short) + fired(Kind::Flip));
    }

    /// Reads that came back other than they are.
    pub(super) fn spoilt_reads(&self) -> u64 {
        self.faults.fired(Kind::Short) + self.faults.fired(Kind::Flip)
    }
}

/// The database writes: nothing for a while, or a little, or a lot; `calm` times as seldom.
pub(super) async fn writes(database: Arc<Database>, calm: u64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        let most = [1, 500, 20_000, 300_000][rng.random_range(0..4)];
        database.write_some(rng.random_range(0..most));
        database.promote(0.01);
        sleep(Duration::from_millis(rng.random_range(1..1000) * calm)).await;
    }
}
