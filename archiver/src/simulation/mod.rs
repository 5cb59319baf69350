//! The whole capture pipeline, as it is, over a simulated database, disk, store and clock: faults and
//! deaths by the hundred, each from a seed that gives the same history again.
//!
//! A seed is several lives of one machine. In each the pipeline runs while connections break, the
//! store is away, slow or silent after it did what it was asked, the disk is full or fails an fsync,
//! until the machine dies in the middle of an operation. Then a last life without faults. At every
//! step: no piece in the store differs from what the database wrote, nothing is acknowledged that
//! is not durable, nothing is asked for that was let go. At the end: all of it is in the store, and
//! lag is short again.
//!
//! `PITR_SEED=17 cargo test -p archiver simulation` runs one seed alone.

mod database;
mod disk;
mod fate;
mod life;
mod store;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::archive::chain;
use proto::archive::identity::{FORMAT_VERSION, Identity, PostgresIdentity};
use proto::archive::layout::Lineage;
use proto::position::Offset;
use proto::segment::{Codec, Engine, Hash, read_sealed};
use proto::store::{Range, Store, list_all};
use proto::timestamp::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::pipeline::Opened;
use crate::ship::AckFrom;
use database::{BEGIN, Database, SEGMENT, history};
use disk::SimDisk;
use life::{Machine, Seen};
use store::MemoryStore;

/// In CI.
const SEEDS: u64 = 200;
/// Under `PITR_SOAK=1`.
const SEEDS_SOAK: u64 = 20_000;

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is a simulation's.
pub(crate) fn is_running() -> bool {
    RUNNING.get()
}

fn opened() -> Opened {
    let postgres = PostgresIdentity {
        segment_bytes: database::size(),
        version_num: 180_000,
        first: database::first(),
        first_timeline: proto::postgres::lsn::Timeline(1),
    };
    let identity = Identity {
        format: FORMAT_VERSION,
        engine: Engine::Postgresql,
        cluster: "simulated".to_owned(),
        created: Timestamp(0),
        postgres: Some(postgres),
        mongodb: None,
    };
    Opened { lineage: Lineage(1), identity, fresh: false }
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
    let bytes = rng.random_range(SEGMENT..4 * SEGMENT);
    let ack = if rng.random_bool(0.25) { AckFrom::Spool } else { AckFrom::Store };
    let codec = [Codec::Lz4, Codec::Lz4, Codec::None, Codec::Zstd { level: 1 }];
    let codec = codec[rng.random_range(0..codec.len())];
    let disk = SimDisk::default();
    let history = history(seed, usize::try_from(bytes).expect("small"));
    let store = Arc::new(MemoryStore::new(disk.clone(), history.clone(), BEGIN));
    let database = Database::new(history, store.clone(), ack, rng.random());
    let seen = Seen::default();
    let spool_max = None;
    let mut machine = Machine { disk, store, database, ack, codec, spool_max, rng, seen };
    let lives = machine.rng.random_range(2..8);
    for _ in 0..lives {
        machine.live_and_die();
    }
    machine.live_well();
    let seen = machine.check();
    RUNNING.set(false);
    seen
}

/// What the archive holds, found by names, starts and hashes alone.
async fn archived(store: &dyn Store) -> Vec<u8> {
    let mut raw: Vec<u8> = Vec::new();
    let mut previous = Hash::NONE;
    for object in list_all(store, &Lineage(1).log()).await.expect("listed") {
        let bytes = store.get(&object.key, Range::All).await.expect("read");
        let (footer, piece) = read_sealed(&bytes).expect("whole");
        assert!(!footer.partial, "{} is partial", object.key);
        assert_eq!(footer.head.start, Offset(BEGIN + raw.len() as u64), "{}", object.key);
        assert_eq!(footer.head.previous, previous, "{}", object.key);
        previous = footer.hash;
        raw.extend(piece);
    }
    let opened = opened();
    let end = crate::source::postgres::end::find_end(store, opened.lineage, opened.postgres());
    let end = end.await.expect("an end");
    let name = &end.store.slot.as_ref().expect("a place").name.name;
    let open = chain::follow(store, Lineage(1), name).await.expect("a chain");
    assert_eq!(open.raw_len(), end.store.raw.len() as u64);
    assert_eq!(end.store.start, Offset(BEGIN + raw.len() as u64));
    raw.extend(end.store.raw);
    raw
}

fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = std::env::var("PITR_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return seed..seed + 1;
    }
    0..if std::env::var_os("PITR_SOAK").is_some() { SEEDS_SOAK } else { SEEDS }
}

#[test]
fn whatever_dies_and_fails_the_archive_is_what_the_database_wrote() {
    let seeds = seeds();
    let single = seeds.end - seeds.start == 1;
    let next = AtomicU64::new(seeds.start);
    let some = || {
        let mut all = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return all;
            }
            match std::panic::catch_unwind(|| run(seed)) {
                Ok(seen) => all.add(&seen),
                Err(panic) => {
                    eprintln!("failed: PITR_SEED={seed} cargo test -p archiver simulation");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut all = Seen::default();
    std::thread::scope(|scope| {
        for thread in (0..cores).map(|_| scope.spawn(some)).collect::<Vec<_>>() {
            match thread.join() {
                Ok(seen) => all.add(&seen),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("{all:?}");
    if !single {
        all.assert_that_everything_happened();
    }
}

#[test]
fn a_spool_with_less_room_than_a_segment_does_not_hold_the_source_for_ever() {
    RUNNING.set(true);
    let disk = SimDisk::default();
    let history = history(1, usize::try_from(3 * SEGMENT).expect("small"));
    let store = Arc::new(MemoryStore::new(disk.clone(), history.clone(), BEGIN));
    let (ack, codec, spool_max) = (AckFrom::Store, Codec::None, Some(SEGMENT));
    let database = Database::new(history, store.clone(), ack, 1);
    let (rng, seen) = (StdRng::seed_from_u64(1), Seen::default());
    let mut machine = Machine { disk, store, database, ack, codec, spool_max, rng, seen };
    // All of the segment but its last record: as stored frames that is more than the limit.
    machine.live_well_behind(SEGMENT - 8);
    machine.check();
    RUNNING.set(false);
}

#[test]
fn a_seed_gives_the_same_history_each_time() {
    for seed in [3, 1009] {
        let (once, again) = (run(seed), run(seed));
        assert_eq!(once, again, "seed {seed}");
    }
}

/// How long one life may last, by its own clock.
const LIFE_MAX: Duration = Duration::from_secs(120);
