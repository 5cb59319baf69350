//! Two machines on one archive: they die, stand still, wake up and take over from each other; and in
//! the end, in good weather, one writes and the other knows that it does not.

use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::life::{Machine, Manner, World, reaches, runtime};
use super::seen::ZOMBIES;
use super::weather::writes;

/// A takeover beside a silent writer: the rule's longest wait, and what comes before it.
const TAKEOVER_MAX: Duration = Duration::from_secs(400);
/// How long a newer writer needs to be noticed (`ship::newest`), many times.
const NOTICED: Duration = Duration::from_secs(60);

/// A day on which everything goes wrong, for both.
pub(super) fn race(machines: &mut [Machine; 2]) {
    let runtime = runtime();
    let [one, other] = machines;
    let lasts = Duration::from_secs(one.rng.random_range(60..600));
    runtime.block_on(async {
        one.world.store.new_day();
        let writes = writes(one.world.database.clone(), 8, one.rng.random());
        tokio::select! {
            biased;
            _ = async { tokio::join!(biased; lives(one, lasts), lives(other, lasts)) } => {}
            () = writes => {}
        }
    });
}

/// One life after the other.
async fn lives(machine: &mut Machine, lasts: Duration) {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        let manner = Manner {
            operations: machine.rng.random_range(1..3000),
            breaks: 0.02,
            take_over: machine.rng.random_bool(0.5),
        };
        let left = (until - Instant::now()).as_millis() as u64;
        let moment = machine.rng.random_range(1..=left.clamp(1, 200_000));
        machine.life(manner, Duration::from_millis(moment), true).await;
        let down = machine.rng.random_range(0..20_000);
        sleep(Duration::from_millis(down)).await;
    }
}

/// In good weather: the one that writes stands still, the other takes over, the first wakes up.
pub(super) fn zombie(machines: &mut [Machine; 2]) {
    let runtime = runtime();
    let [one, other] = machines;
    runtime.block_on(async {
        let manner = Manner { operations: u64::MAX, breaks: 0.0, take_over: false };
        let lives = [one.boot(manner), other.boot(manner)];
        lives.iter().for_each(|life| life.weather.clear_up());
        let (stop, world) = (CancellationToken::new(), one.world.clone());
        let some = world.database.rest() / 12;
        let witness = async {
            write_some(&world, some);
            world.catches_up(TAKEOVER_MAX).await;
            // A takeover may still be under way.
            sleep(NOTICED).await;
            let writer = lives.iter().position(|life| life.writes.get()).expect("one writes");
            let (zombie, heir) = (&lives[writer], &lives[1 - writer]);
            zombie.fate.stand_still(Instant::now() + TAKEOVER_MAX * 2);
            let wakes = Instant::now() + TAKEOVER_MAX * 2;
            sleep(Duration::from_secs(1)).await;
            write_some(&world, some);
            let reached = reaches(&world.store, world.database.written());
            timeout(TAKEOVER_MAX, reached).await.expect("the other one takes over");
            assert!(heir.writes.get());
            while Instant::now() < wakes + NOTICED {
                world.database.write(some / 20);
                sleep(Duration::from_secs(10)).await;
            }
            let holds_slot = world.database.is_streamed().is_none();
            assert!(!zombie.writes.get() || !holds_slot, "the zombie goes on writing");
            assert!(heir.writes.get(), "who took over was put out by a zombie");
            world.catches_up(super::life::LAG_MAX).await;
            stop.cancel();
        };
        tokio::join!(biased; lives[0].run(&stop), lives[1].run(&stop), witness);
        let [first, second] = lives;
        one.end(&first);
        other.end(&second);
        one.seen.count(ZOMBIES, 1);
    });
}

/// So much, or as much more as a whole record takes.
fn write_some(world: &World, bytes: u64) {
    let before = world.database.written();
    while world.database.written() == before {
        world.database.write(bytes);
    }
}
