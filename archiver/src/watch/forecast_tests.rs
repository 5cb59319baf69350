//! Forecasts by a clock of our own.

use super::*;

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// A spool of 1000 MiB and a slot of 600 MiB.
fn at(spool: u64, held: u64, end: u64) -> Look {
    Look {
        spool: ByteCount(spool * MIB),
        spool_max: ByteCount(1000 * MIB),
        slot: Some((ByteCount(held * MIB), ByteCount(600 * MIB))),
        end: Some(end * MIB),
        ..Look::default()
    }
}

/// Looks every second for so long.
fn watched(forecast: &mut Forecast, seconds: u64, figures: impl Fn(u64) -> Look) -> Left {
    let mut left = Left::default();
    for second in 0..seconds {
        left = forecast.look(SECOND * u32::try_from(second).expect("small"), &figures(second));
    }
    left
}

fn about(left: Option<Duration>, seconds: f64) -> bool {
    left.is_some_and(|left| (left.as_secs_f64() - seconds).abs() <= seconds * 0.1 + 1.0)
}

#[test]
fn a_spool_that_fills_tells_when_it_is_full_and_when_the_slot_follows() {
    // 1 MiB a second into the spool, of 2 MiB a second of log.
    let left = watched(&mut Forecast::default(), 160, |s| at(s, 2 * s, 2 * s));
    assert!(about(left.spool_full, 840.0), "{left:?}");
    assert!(about(left.slot_max, 840.0 + 300.0), "{left:?}");
    let told = left.told().expect("it is told");
    assert_eq!(told, "spool full in 14 min, slot-max reached in 19 min");
}

#[test]
fn what_breathes_is_no_forecast() {
    // Filled for four seconds, emptied in one.
    let left = watched(&mut Forecast::default(), 300, |s| at(s % 5 * 4, 1, s));
    assert_eq!(left.told(), None, "{left:?}");
    // The same around half of what it takes.
    let left = watched(&mut Forecast::default(), 300, |s| at(500 + s % 5, 1, s));
    assert!(left.spool_full.is_none_or(|left| left > Duration::from_secs(900)), "{left:?}");
}

#[test]
fn nothing_is_told_before_enough_was_seen_nor_of_what_is_days_away() {
    let left = watched(&mut Forecast::default(), 4, |s| at(100 + 100 * s, 0, s));
    assert_eq!(left.spool_full, None);
    // 1 MiB in 200 s: two days.
    let slow = |s: u64| Look { spool: ByteCount(100 * MIB + s * MIB / 200), ..at(0, 0, s) };
    assert_eq!(watched(&mut Forecast::default(), 400, slow).told(), None);
}

#[test]
fn a_source_that_is_held_tells_how_long_the_slot_lasts() {
    let held = |s: u64| Look { held: true, ..at(1000, 100 + 4 * s, 4 * s) };
    let left = watched(&mut Forecast::default(), 25, held);
    assert_eq!(left.spool_full, Some(Duration::ZERO));
    assert!(about(left.slot_max, (600.0 - 196.0) / 4.0), "{left:?}");
    assert_eq!(left.told().as_deref(), Some("spool full now, slot-max reached in 101 s"));
}

#[test]
fn a_disk_that_others_fill_ends_a_spool_sooner() {
    let shared = |s: u64| Look { disk_room: Some(ByteCount(60 * MIB)), ..at(100 + s, 0, s) };
    let left = watched(&mut Forecast::default(), 60, shared);
    assert!(about(left.spool_full, 60.0), "{left:?}");
}

#[test]
fn a_store_that_is_back_ends_the_alarm() {
    let mut forecast = Forecast::default();
    let up_and_down = |s: u64| at(if s < 100 { 100 + s } else { 200 - (s - 100) }, 0, s);
    assert!(watched(&mut forecast, 100, up_and_down).spool_full.is_some());
    let mut forecast = Forecast::default();
    assert_eq!(watched(&mut forecast, 160, up_and_down).spool_full, None);
}

#[test]
fn an_oplog_that_runs_faster_than_we_read_is_told() {
    // The oldest entry goes forward by three seconds a second, and we by two.
    let left = watched(&mut Forecast::default(), 60, |s| Look {
        window: Some(600.0 - s as f64),
        ..at(0, 0, 0)
    });
    assert!(about(left.oplog_past, 541.0), "{left:?}");
    let still =
        watched(&mut Forecast::default(), 60, |_| Look { window: Some(60.0), ..at(0, 0, 0) });
    assert_eq!(still.told(), None);
}

#[test]
fn one_burst_is_no_trend() {
    let burst = |s: u64| at(if s < 100 { 100 } else { 130 }, 0, s);
    let left = watched(&mut Forecast::default(), 180, burst);
    assert!(left.spool_full.is_none_or(|left| left > Duration::from_secs(3600)), "{left:?}");
}
