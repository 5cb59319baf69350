//! The lives of one machine: from its start, through bad weather, to its death; and a last, good one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::clock::Clock;
use proto::position::ByteCount;
use proto::segment::Codec;
use proto::store::fault::{Fault, FaultStore, Faults, Kind};
use proto::store::{Class, Store};
use proto::timestamp::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::database::{Database, Streamed};
use super::disk::SimDisk;
use super::fate::Fate;
use super::store::MemoryStore;
use super::{LIFE_MAX, archived, opened};
use crate::pipeline::{Ground, LastTail, PipelineError, Settings, start};
use crate::ship::AckFrom;
use crate::ship::health::Health;
use crate::ship::resume::take_writer;
use crate::spool::SpoolLevel;
use crate::testing::LogAlone;

/// Room on a disk that has enough of it.
const ROOMY: u64 = 256 << 20;
/// Once faults heal, what is written is in the store within this.
const LAG_MAX: Duration = Duration::from_secs(5);

/// What happened in a run, and the trace of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) deaths: u64,
    pub(super) reconnects: u64,
    pub(super) rebuilt: u64,
    pub(super) failed_syncs: u64,
    pub(super) full_writes: u64,
    pub(super) store_away: u64,
    pub(super) store_failed: u64,
    pub(super) answers_lost: u64,
    pub(super) trace: u64,
}

impl Seen {
    pub(super) fn add(&mut self, other: &Self) {
        self.deaths += other.deaths;
        self.reconnects += other.reconnects;
        self.rebuilt += other.rebuilt;
        self.failed_syncs += other.failed_syncs;
        self.full_writes += other.full_writes;
        self.store_away += other.store_away;
        self.store_failed += other.store_failed;
        self.answers_lost += other.answers_lost;
    }

    pub(super) fn assert_that_everything_happened(&self) {
        let Self { deaths, reconnects, rebuilt, failed_syncs, full_writes, .. } = *self;
        let machine = [deaths, reconnects, rebuilt, failed_syncs, full_writes];
        let store = [self.store_away, self.store_failed, self.answers_lost];
        let happened = machine.iter().chain(&store).all(|count| *count > 0);
        assert!(happened, "a fault that never happens proves nothing: {self:?}");
    }
}

/// Simulated time, from one moment for all.
#[derive(Debug)]
struct SimClock(Instant);

impl Clock for SimClock {
    fn wall(&self) -> Timestamp {
        Timestamp(1_800_000_000_000_000 + self.0.elapsed().as_micros() as i64)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// What is decided once for a seed, and what outlives a life.
pub(super) struct Machine {
    pub(super) disk: SimDisk,
    pub(super) store: Arc<MemoryStore>,
    pub(super) database: Arc<Database>,
    pub(super) ack: AckFrom,
    pub(super) codec: Codec,
    /// `--spool-max`, where each life does not have one of its own.
    pub(super) spool_max: Option<u64>,
    pub(super) rng: StdRng,
    pub(super) seen: Seen,
}

/// One life's parts.
struct Life {
    fate: Arc<Fate>,
    faults: Faults,
    ground: Ground,
    settings: Settings,
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}

impl Machine {
    fn boot(&mut self, operations: u64, breaks: f64) -> Life {
        let fate = Arc::new(Fate::new(operations, self.rng.random()));
        self.disk.boot(fate.clone(), ROOMY);
        self.store.boot(fate.clone());
        let (store, faults) = FaultStore::new(self.store.clone(), self.rng.random());
        let disk: Arc<dyn proto::disk::Disk> = Arc::new(self.disk.clone());
        let dir = Path::new("spool");
        let max = [1 << 20, 3 << 20, 1 << 30][self.rng.random_range(0..3)];
        let max = self.spool_max.unwrap_or(max);
        let clock: Arc<dyn Clock> = Arc::new(SimClock(Instant::now()));
        let ground = Ground {
            store,
            disk: disk.clone(),
            clock: clock.clone(),
            health: Arc::new(Health::new(clock)),
            level: Arc::new(SpoolLevel::on(disk, dir, ByteCount(max))),
        };
        let settings = Settings {
            source: Arc::new(LogAlone(Streamed { database: self.database.clone(), breaks })),
            spool: dir.to_owned(),
            codec: self.codec,
            flush: Duration::from_millis([20, 200, 1000][self.rng.random_range(0..3)]),
            ack: self.ack,
            new_lineage: false,
        };
        Life { fate, faults, ground, settings }
    }

    /// Runs in bad weather until it dies, at an operation or at a moment.
    pub(super) fn live_and_die(&mut self) {
        let runtime = runtime();
        let operations = self.rng.random_range(1..1500);
        let (fate, faults, rebuilt) = runtime.block_on(async {
            let life = self.boot(operations, 0.02);
            let (fate, faults) = (life.fate.clone(), life.faults.clone());
            let weather = weather(self.disk.clone(), faults.clone(), self.rng.random());
            let writes = writes(self.database.clone(), self.rng.random());
            let moment = Duration::from_millis(self.rng.random_range(100..60_000));
            let (never, mut rebuilt) = (CancellationToken::new(), 0);
            tokio::select! {
                biased;
                () = fate.death() => {}
                () = life.run(&never, &mut rebuilt) => {}
                () = weather => {}
                () = writes => {}
                () = sleep(moment) => fate.kill(),
            }
            (fate, faults, rebuilt)
        });
        drop(runtime);
        self.disk.crash(&mut self.rng);
        self.count(&fate, &faults, rebuilt);
        self.seen.deaths += 1;
        // It is down for a while, and the database is not.
        let missed = self.rng.random_range(0..100_000);
        self.database.write(missed);
    }

    /// No faults any more: everything comes into the store, and what is written from then on soon.
    pub(super) fn live_well(&mut self) {
        let rest = self.database.end() - self.database.written();
        self.live_well_behind(rest / 2);
    }

    /// The same, with so many bytes written before it looks.
    pub(super) fn live_well_behind(&mut self, at_once: u64) {
        let (database, store) = (self.database.clone(), self.store.clone());
        let rest = database.end() - database.written();
        let later = (rest - at_once) / 8;
        let runtime = runtime();
        let (fate, faults, rebuilt) = runtime.block_on(async {
            let life = self.boot(u64::MAX, 0.0);
            let (fate, faults) = (life.fate.clone(), life.faults.clone());
            let (stop, mut rebuilt) = (CancellationToken::new(), 0);
            let witness = async {
                database.write(at_once);
                let reached = reaches(&store, database.written());
                timeout(LIFE_MAX, reached).await.expect("everything comes into the store");
                for n in 0..=8 {
                    database.write(if n < 8 { later } else { rest });
                    let reached = timeout(LAG_MAX, reaches(&store, database.written())).await;
                    reached.expect("lag stays below five seconds once faults heal");
                }
                stop.cancel();
            };
            let run = life.run(&stop, &mut rebuilt);
            tokio::join!(biased; run, witness);
            (fate, faults, rebuilt)
        });
        self.count(&fate, &faults, rebuilt);
    }

    fn count(&mut self, fate: &Fate, faults: &Faults, rebuilt: u64) {
        self.seen.rebuilt += rebuilt;
        self.seen.store_away += faults.fired(Kind::Away);
        self.seen.store_failed += faults.fired(Kind::FailBefore);
        self.seen.answers_lost += faults.fired(Kind::FailAfter);
        self.seen.trace = self.seen.trace.rotate_left(7) ^ fate.trace();
    }

    /// Reads the archive as a stranger would.
    pub(super) fn check(mut self) -> Seen {
        (self.seen.failed_syncs, self.seen.full_writes) = self.disk.faults();
        self.seen.reconnects = self.database.reconnects();
        let found = runtime().block_on(archived(&*self.store));
        assert_eq!(found.len(), self.database.history.len());
        assert!(found == *self.database.history, "the archive is not what the database wrote");
        self.seen
    }
}

impl Life {
    /// Builds the pipeline, and builds it anew as long as that may help, as `pitrd run` does.
    async fn run(&self, stop: &CancellationToken, rebuilt: &mut u64) {
        loop {
            match self.once(stop).await {
                Ok(()) => return,
                Err(_) if self.fate.is_dead() => std::future::pending().await,
                Err(error) if may_pass(&error) => {
                    *rebuilt += 1;
                    sleep(Duration::from_millis(500)).await;
                }
                Err(error) => panic!("{}", proto::cli::causes(&error)),
            }
        }
    }

    async fn once(&self, stop: &CancellationToken) -> Result<(), PipelineError> {
        let opened = opened();
        let store: &dyn Store = &*self.ground.store;
        let clock = &*self.ground.clock;
        let writer = take_writer(store, opened.lineage, clock, "here".to_owned()).await?;
        let running = start(&self.ground, &self.settings, &opened, writer, stop.clone()).await?;
        running.finish(LastTail::Awaited).await
    }
}

fn may_pass(error: &PipelineError) -> bool {
    let away = matches!(error, PipelineError::Archive(error) if error.class() == Class::Retry);
    away || error.is_retryable()
}

async fn reaches(store: &MemoryStore, offset: u64) {
    while store.covered() < offset {
        sleep(Duration::from_millis(10)).await;
    }
}

/// The database writes: nothing for a while, or a little, or a lot.
async fn writes(database: Arc<Database>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        let most = [1, 500, 20_000, 300_000][rng.random_range(0..4)];
        database.write(rng.random_range(0..most));
        sleep(Duration::from_millis(rng.random_range(1..1000))).await;
    }
}

/// What befalls disk and store: something new every few seconds.
async fn weather(disk: SimDisk, faults: Faults, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        faults.heal();
        disk.set_capacity(ROOMY);
        match rng.random_range(0..6) {
            0 => faults.set_away(true),
            1 => {
                let chance = rng.random_range(0.05..0.5);
                faults.set_chances(vec![
                    (chance, Fault::FailBefore(Class::Retry)),
                    (chance, Fault::FailAfter(Class::Retry)),
                    (chance, Fault::Delay(Duration::from_millis(rng.random_range(1..3000)))),
                ]);
            }
            2 => disk.fail_syncs(rng.random_range(1..3)),
            // Below the reserve: held. Far below: writes find no room.
            3 => disk.set_capacity(rng.random_range(0..40 << 20)),
            _ => {}
        }
        sleep(Duration::from_millis(rng.random_range(50..8000))).await;
    }
}
