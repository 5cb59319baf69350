//! The lives of one machine: from its start, through bad weather, to its death; and a last, good one.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::clock::Clock;
use proto::position::{ByteCount, Position};
use proto::segment::{Codec, Engine};
use proto::store::Class;
use proto::store::fault::FaultStore;
use proto::timestamp::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::LIFE_MAX;
use super::client::Client;
use super::database::Database;
use super::disk::SimDisk;
use super::fate::Fate;
use super::followed::Followed;
use super::seen::{self, Seen};
use super::store::MemoryStore;
use super::streamed::Streamed;
use super::weather::{Weather, writes};
use crate::cli::writer::{self, Claim};
use crate::pipeline::{Ground, LastTail, Opened, PipelineError, Settings, start};
use crate::ship::AckFrom;
use crate::ship::health::Health;
use crate::source::Source;
use crate::spool::SpoolLevel;
use crate::testing::LogAlone;

/// Room on a disk that has enough of it.
pub(super) const ROOMY: u64 = 256 << 20;
/// Once faults heal, what is written is in the store within this.
pub(super) const LAG_MAX: Duration = Duration::from_secs(5);

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

/// What is decided once for a seed, and shared by its machines.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) store: Arc<MemoryStore>,
    pub(super) database: Arc<Database>,
    pub(super) codec: Codec,
    /// `--spool-max`, where each life does not have one of its own.
    pub(super) spool_max: Option<u64>,
}

/// What outlives a life.
pub(super) struct Machine {
    pub(super) world: World,
    pub(super) disk: SimDisk,
    pub(super) rng: StdRng,
    pub(super) seen: Seen,
}

/// How a life is led.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// It dies at this operation.
    pub(super) operations: u64,
    /// How likely a connection breaks at each message.
    pub(super) breaks: f64,
    /// `--take-over`.
    pub(super) take_over: bool,
}

/// One life's parts.
pub(super) struct Life {
    pub(super) fate: Arc<Fate>,
    pub(super) weather: Weather,
    /// Whether its pipeline runs.
    pub(super) writes: Cell<bool>,
    pub(super) fenced: Cell<u64>,
    rebuilt: Cell<u64>,
    ended_by_reads: Cell<u64>,
    take_over: bool,
    opened: Opened,
    ground: Ground,
    settings: Settings,
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}

impl Machine {
    pub(super) fn new(world: World, seed: u64) -> Self {
        let (disk, rng) = (SimDisk::default(), StdRng::seed_from_u64(seed));
        Self { world, disk, rng, seen: Seen::default() }
    }

    pub(super) fn boot(&mut self, manner: Manner) -> Life {
        let Manner { operations, breaks, take_over } = manner;
        let World { store, database, codec, spool_max } = self.world.clone();
        let fate = Arc::new(Fate::new(operations, self.rng.random()));
        let disk = self.disk.boot(fate.clone(), ROOMY);
        let client = Client { store: store.clone(), disk: disk.clone(), fate: fate.clone() };
        let (client, faults) = FaultStore::new(Arc::new(client), self.rng.random());
        let weather = Weather { store, disk: disk.clone(), faults };
        let (dir, disk) = (Path::new("spool"), Arc::new(disk));
        let max = [1 << 20, 3 << 20, 1 << 30][self.rng.random_range(0..3)];
        let max = spool_max.unwrap_or(max);
        let clock: Arc<dyn Clock> = Arc::new(SimClock(Instant::now()));
        let ground = Ground {
            store: client,
            disk: disk.clone(),
            clock: clock.clone(),
            health: Arc::new(Health::new(clock)),
            level: Arc::new(SpoolLevel::on(disk, dir, ByteCount(max))),
        };
        let (ack, opened) = (database.ack, database.opened());
        let settings = Settings {
            source: source(database, fate.clone(), breaks),
            spool: dir.to_owned(),
            codec,
            flush: Duration::from_millis([20, 200, 1000][self.rng.random_range(0..3)]),
            ack,
            new_lineage: false,
        };
        Life {
            fate,
            weather,
            writes: Cell::new(false),
            fenced: Cell::new(0),
            rebuilt: Cell::new(0),
            ended_by_reads: Cell::new(0),
            take_over,
            opened,
            ground,
            settings,
        }
    }

    /// Alone in bad weather until it dies, at an operation or at a moment.
    pub(super) fn live_and_die(&mut self) {
        let runtime = runtime();
        runtime.block_on(async {
            self.world.store.new_day();
            let writes = writes(self.world.database.clone(), 1, self.rng.random());
            let moment = Duration::from_millis(self.rng.random_range(100..60_000));
            let manner = Manner {
                operations: self.rng.random_range(1..1500),
                breaks: 0.02,
                take_over: self.rng.random_bool(0.8),
            };
            tokio::select! {
                biased;
                () = self.life(manner, moment, false) => {}
                () = writes => {}
            }
        });
        drop(runtime);
        // It is down for a while, and the database is not.
        let missed = self.rng.random_range(0..100_000);
        self.world.database.write_some(missed);
        self.world.database.promote(0.3);
        self.world.database.write_some(missed);
    }

    /// One life, at most so long; now and then it stands still, if it is to.
    pub(super) async fn life(&mut self, manner: Manner, moment: Duration, stills: bool) {
        let life = self.boot(manner);
        let blow = life.weather.clone().blow(self.rng.random());
        let stood = Cell::new(0);
        let stands = stands_still(&life.fate, stills, &stood, self.rng.random());
        let never = CancellationToken::new();
        tokio::select! {
            biased;
            () = life.fate.death() => {}
            () = life.run(&never) => {}
            () = blow => {}
            () = stands => {}
            () = sleep(moment) => life.fate.kill(),
        }
        self.seen.count(seen::STOOD_STILL, stood.get());
        self.seen.count(seen::DEATHS, 1);
        self.end(&life);
    }

    /// The end of a life: what was not fsynced is left to chance.
    pub(super) fn end(&mut self, life: &Life) {
        life.fate.kill();
        self.disk.crash(&mut self.rng);
        let seen = &mut self.seen;
        // What the spool alone holds cannot be mended.
        let mends = self.world.database.ack == AckFrom::Store;
        if mends && self.rng.random_bool(0.3) && self.disk.rot(&mut self.rng) {
            seen.count(seen::ROTTEN, 1);
        }
        life.weather.count(seen);
        seen.count(seen::REBUILT, life.rebuilt.get());
        seen.count(seen::FENCED, life.fenced.get());
        seen.count(seen::ENDED_BY_READS, life.ended_by_reads.get());
        seen.trace = seen.trace.rotate_left(7) ^ life.fate.trace();
    }

    /// No faults any more: everything comes into the store, and what is written from then on soon.
    pub(super) fn live_well(&mut self) {
        let rest = self.world.database.rest();
        self.live_well_behind(rest / 2);
    }

    /// The same, with so many bytes written before it looks.
    pub(super) fn live_well_behind(&mut self, at_once: u64) {
        let runtime = runtime();
        runtime.block_on(async {
            let take_over = self.rng.random();
            let life = self.boot(Manner { operations: u64::MAX, breaks: 0.0, take_over });
            life.weather.clear_up();
            let stop = CancellationToken::new();
            let witness = async {
                self.world.database.write(at_once);
                self.world.catches_up(LIFE_MAX).await;
                self.world.keeps_up().await;
                stop.cancel();
            };
            tokio::join!(biased; life.run(&stop), witness);
            self.end(&life);
        });
    }
}

impl World {
    /// Everything that is written comes into the store.
    pub(super) async fn catches_up(&self, within: Duration) {
        let reached = reaches(&self.store, self.database.written());
        timeout(within, reached).await.expect("everything comes into the store");
    }

    /// What is written comes into the store soon.
    pub(super) async fn keeps_up(&self) {
        let later = self.database.rest() / 8;
        for n in 0..=8 {
            self.database.write(if n < 8 { later } else { u64::MAX >> 1 });
            let reached = timeout(LAG_MAX, reaches(&self.store, self.database.written())).await;
            reached.expect("lag stays below five seconds once faults heal");
        }
    }
}

impl Life {
    /// Takes its turn as the writer, builds the pipeline, and builds it anew as long as that may
    /// help, as `pitrd run` does; and is started anew where that ends, as its supervisor does.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let (mut mine, mut taken) = (None, false);
        loop {
            let spoilt = self.weather.spoilt_reads();
            let ended = self.once(stop, &mut mine, &mut taken).await;
            self.writes.set(false);
            match ended {
                Ok(()) => return,
                Err(_) if self.fate.is_dead() => std::future::pending().await,
                Err(error) if error.is_fenced() => {
                    self.fenced.set(self.fenced.get() + 1);
                    mine = None;
                }
                Err(error) if may_pass(&error) => {
                    self.rebuilt.set(self.rebuilt.get() + 1);
                    sleep(Duration::from_millis(500)).await;
                }
                Err(error) if self.weather.spoilt_reads() > spoilt => {
                    tracing::info!(%error, "ended by what it read");
                    self.ended_by_reads.set(self.ended_by_reads.get() + 1);
                    (mine, taken) = (None, false);
                    sleep(Duration::from_secs(1)).await;
                }
                Err(error) => panic!("{}", proto::cli::causes(&error)),
            }
        }
    }

    async fn once(
        &self,
        stop: &CancellationToken,
        mine: &mut Option<u64>,
        taken: &mut bool,
    ) -> Result<(), PipelineError> {
        let (ground, settings, opened) = (&self.ground, &self.settings, &self.opened);
        let claim = Claim { at_once: self.take_over && !*taken, mine: *mine };
        let writer = writer::take(ground, settings, opened, claim, &|| {}, stop).await?;
        let Some(writer) = writer else { return Ok(()) };
        (*mine, *taken) = (Some(writer), true);
        let running = start(ground, settings, opened, writer, stop.clone()).await?;
        self.writes.set(true);
        running.finish(LastTail::Awaited).await
    }
}

fn source(database: Arc<Database>, fate: Arc<Fate>, breaks: f64) -> Arc<dyn Source> {
    match database.engine {
        Engine::Postgresql => Arc::new(LogAlone(Streamed { database, fate, breaks })),
        Engine::Mongodb => Arc::new(LogAlone(Followed { database, fate, breaks })),
    }
}

fn may_pass(error: &PipelineError) -> bool {
    let away = matches!(error, PipelineError::Archive(error) if error.class() == Class::Retry);
    away || error.is_retryable()
}

pub(super) async fn reaches(store: &MemoryStore, to: Position) {
    while !store.holds(to) {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Stands still for seconds or minutes, every now and then.
async fn stands_still(fate: &Fate, ever: bool, stood: &Cell<u64>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    if !ever {
        std::future::pending::<()>().await;
    }
    loop {
        sleep(Duration::from_millis(rng.random_range(100..60_000))).await;
        let most = [2_000, 20_000, 250_000][rng.random_range(0..3)];
        let wait = Duration::from_millis(rng.random_range(100..most));
        fate.stand_still(Instant::now() + wait);
        stood.set(stood.get() + 1);
        sleep(wait).await;
    }
}
