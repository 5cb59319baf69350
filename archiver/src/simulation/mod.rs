//! The whole capture pipeline, as it is, over a simulated database, disk, store and clock: faults and
//! deaths by the hundred, each from a seed that gives the same history again.
//!
//! A seed is a PostgreSQL whose standbys are promoted now and then, or an oplog, and several lives of one
//! machine, or of two that share an archive. In each the pipeline runs
//! while connections break, the store is away, slow, overrun, silent after it did what it was asked, or
//! does it much later, bodies are cut and bits turned over on their way, listings lack the newest keys,
//! the disk is full or fails an fsync, the machine stands still for minutes, until it dies in the
//! middle of an operation. Then a last life without faults. At every step: no piece in the store differs
//! from what the database wrote, no chain forks, nothing is acknowledged that is not durable, nothing is
//! asked for that was let go. At the end: all of it is in the store, and lag is short again.
//!
//! `PITR_SEED=17 cargo test -p archiver simulation` runs one seed alone.

mod check;
mod client;
mod database;
mod disk;
mod fate;
mod followed;
mod life;
mod race;
mod seen;
mod store;
mod streamed;
mod weather;
mod written;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::segment::{Codec, Engine};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::ship::AckFrom;
use client::Client;
use database::{BEGIN, Database, SEGMENT, bytes};
use fate::Fate;
use life::{Machine, World, runtime};
use seen::Seen;
use store::MemoryStore;
use written::Written;

/// In CI.
const SEEDS: u64 = 200;
/// Under `PITR_SOAK=1`.
const SEEDS_SOAK: u64 = 20_000;
/// Enough to look into, where so many seeds were asked for (`PITR_SEEDS`); else the first one ends it.
const FAILED_MAX: usize = 20;

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is a simulation's.
pub(crate) fn is_running() -> bool {
    RUNNING.get()
}

/// A world with this to write.
fn world(
    seed: u64,
    log: Arc<Written>,
    ack: AckFrom,
    codec: Codec,
    spool_max: Option<u64>,
) -> World {
    let engine = if log.begin == BEGIN { Engine::Postgresql } else { Engine::Mongodb };
    let store = MemoryStore::new(log.clone(), seed);
    let database = Database::new(engine, log, store.clone(), ack, seed);
    World { store, database, codec, spool_max }
}

/// So many bytes of a PostgreSQL log.
fn wal(seed: u64, len: u64) -> Arc<Written> {
    Written::new(BEGIN, SEGMENT, bytes(seed, len))
}

/// Everything that a seed decides at its beginning.
fn run(seed: u64) -> Seen {
    RUNNING.set(true);
    if std::env::var_os("PITR_SEED").is_some() {
        // What the pipeline says of one seed.
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_test_writer()
            .without_time()
            .try_init();
    }
    proto::store::retry::repeatable_from(seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let len = rng.random_range(SEGMENT..4 * SEGMENT);
    let oplog = rng.random_bool(0.3);
    let log = if oplog {
        let (bytes, ends) = followed::oplog(seed, len);
        Written::records(bytes, ends)
    } else {
        wal(seed, len)
    };
    let two = rng.random_bool(0.2);
    // What is acknowledged from the spool of a machine is lost with that machine.
    let ack = if !two && !oplog && rng.random_bool(0.4) { AckFrom::Spool } else { AckFrom::Store };
    let codec = [Codec::Lz4, Codec::Lz4, Codec::None, Codec::Zstd { level: 1 }];
    let world = world(seed, log, ack, codec[rng.random_range(0..codec.len())], None);
    let mut machines = [world.clone(), world].map(|world| Machine::new(world, rng.random()));
    if two {
        race::race(&mut machines);
        race::zombie(&mut machines);
    } else {
        for _ in 0..rng.random_range(2..8) {
            machines[0].live_and_die();
        }
    }
    // With a spool of its own, or with none.
    let survivor = if ack == AckFrom::Store { rng.random_range(0..2) } else { 0 };
    machines[survivor].live_well();
    let seen = check(&machines);
    RUNNING.set(false);
    seen
}

/// Reads the archive as a stranger would, and adds up what happened.
fn check(machines: &[Machine]) -> Seen {
    let World { store, database, .. } = &machines[0].world;
    assert_eq!(store.wrong(), None);
    let mut seen = store.seen();
    seen.add(&database.seen());
    for machine in machines {
        seen.add(&machine.seen);
        seen.trace = seen.trace.rotate_left(7) ^ machine.seen.trace;
        let (failed_syncs, full_writes) = machine.disk.faults();
        seen.count(seen::FAILED_SYNCS, failed_syncs);
        seen.count(seen::FULL_WRITES, full_writes);
    }
    let fate = Arc::new(Fate::new(u64::MAX, 0));
    let disk = machines[0].disk.boot(fate.clone(), 0);
    let client = Client { store: store.clone(), disk, fate };
    let found = runtime().block_on(check::archived(&client, database));
    let written = database.log.line(database.epoch()).bytes;
    assert_eq!(found.len(), written.len());
    assert!(found == *written, "the archive is not what the database wrote");
    seen
}

fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = std::env::var("PITR_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return seed..seed + 1;
    }
    let many = std::env::var("PITR_SEEDS").ok().and_then(|many| many.parse().ok());
    0..many.unwrap_or(if std::env::var_os("PITR_SOAK").is_some() { SEEDS_SOAK } else { SEEDS })
}

#[test]
fn whatever_dies_and_fails_the_archive_is_what_the_database_wrote() {
    let seeds = seeds();
    let few = seeds.end - seeds.start < SEEDS;
    let most = if std::env::var_os("PITR_SEEDS").is_some() { FAILED_MAX } else { 1 };
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let some = || {
        let mut all = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = failed.lock().expect("no panic while held").len() >= most;
            if seed >= seeds.end || enough {
                return all;
            }
            match std::panic::catch_unwind(|| run(seed)) {
                Ok(seen) => all.add(&seen),
                Err(_) => {
                    eprintln!("failed: PITR_SEED={seed} cargo test -p archiver simulation");
                    failed.lock().expect("no panic while held").push(seed);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut all = Seen::default();
    std::thread::scope(|scope| {
        for thread in (0..cores).map(|_| scope.spawn(some)).collect::<Vec<_>>() {
            all.add(&thread.join().expect("seeds fail, not threads"));
        }
    });
    let failed = failed.into_inner().expect("no panic while held");
    assert!(failed.is_empty(), "failed: PITR_SEED={failed:?}, each alone");
    println!("{all:?}");
    if !few {
        all.assert_that_everything_happened();
    }
}

#[test]
fn a_spool_with_less_room_than_a_segment_does_not_hold_the_source_for_ever() {
    RUNNING.set(true);
    let world = world(1, wal(1, 3 * SEGMENT), AckFrom::Store, Codec::None, Some(SEGMENT));
    let mut machine = Machine::new(world, 1);
    // All of the segment but its last record: as stored frames that is more than the limit.
    machine.live_well_behind(SEGMENT - 8);
    check(&[machine]);
    RUNNING.set(false);
}

#[test]
fn a_seed_gives_the_same_history_each_time() {
    for seed in [3, 9, 1009] {
        let (once, again) = (run(seed), run(seed));
        assert_eq!(once, again, "seed {seed}");
    }
}

/// How long one life may last, by its own clock.
const LIFE_MAX: Duration = Duration::from_secs(300);
