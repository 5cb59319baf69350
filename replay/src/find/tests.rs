//! The resolver on hand-made logs.

mod hand_made;

use proptest::prelude::*;
use proto::postgres::transaction::End;

use super::*;
use hand_made::{HandMade, PIECE, RECORD, at, base, meaning, quiet, record};

/// Resolves with and without an index; both must agree.
fn find(view: &HandMade, request: &Request) -> Result<Resolved, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let run = |view: &HandMade| match runtime.block_on(resolve(view, request)) {
        Ok(resolved) => Ok(resolved),
        Err(FindError::Refused(refusal)) => Err(refusal),
        Err(FindError::Log(error)) => panic!("{error}"),
    };
    let found = run(view);
    assert_eq!(run(&view.indexed()), found, "an index changes nothing");
    found
}

fn request(target: Target) -> Request {
    Request { target, exclusive: false, candidate: None }
}

fn time(seconds: f64) -> Request {
    request(Target::Time(at(seconds)))
}

fn before(number: u64) -> Stop {
    Stop::before(record(number))
}

fn after(number: u64) -> Stop {
    Stop::after(record(number))
}

fn stop(found: Result<Resolved, Refusal>) -> Stop {
    found.expect("restorable").stop
}

#[test]
fn a_time_between_two_commits_stops_before_the_later_one() {
    let view = quiet(100).commit(10, 10.0).commit(20, 20.0).commit(60, 30.0);
    let found = find(&view, &time(20.5)).expect("restorable");
    assert_eq!(found.stop, before(60));
    assert_eq!(found.last_kept.and_then(|c| c.xid), Some(720));
    assert_eq!(found.first_left_out.and_then(|c| c.xid), Some(760));
    assert_eq!((found.bases, found.notes), (vec!["first".to_owned()], vec![]));
}

#[test]
fn commits_within_the_same_microsecond_stay_together() {
    let view = quiet(100).commit(10, 10.0).commit(20, 20.0).commit(21, 20.0).commit(40, 20.0);
    let view = view.commit(50, 30.0);
    assert_eq!(stop(find(&view, &time(20.0))), before(50));
    let exclusive = Request { exclusive: true, ..time(20.0) };
    assert_eq!(stop(find(&view, &exclusive)), before(20));
}

#[test]
fn commits_a_moment_out_of_order_stop_at_the_first_later_one_and_it_is_said() {
    let view = quiet(100).commit(10, 10.0).commit(20, 20.0004).commit(21, 20.0001);
    let view = view.commit(50, 30.0);
    let found = find(&view, &time(20.0002)).expect("restorable");
    assert_eq!((found.stop, found.notes), (before(20), vec![Note::OutOfOrder { micros: 300 }]));
    assert_eq!(stop(find(&view, &time(20.0004))), before(50));
}

/// A clock that was set back by an hour after second 4000.
fn stepped() -> HandMade {
    let view = quiet(200).commit(10, 100.0).commit(20, 3000.0).commit(30, 4000.0);
    view.commit(40, 410.0).commit(50, 2900.0).commit(100, 3100.0).commit(150, 5000.0)
}

#[test]
fn a_clock_that_was_set_back_gives_candidates_and_never_a_guess() {
    let view = stepped();
    let Err(Refusal::Ambiguous { candidates, .. }) = find(&view, &time(3050.0)) else {
        panic!("two moments had this time");
    };
    let stops: Vec<_> = candidates.iter().map(|c| c.stop).collect();
    assert_eq!(stops, [before(30), before(100)]);
    assert_eq!(candidates[1].last_kept.map(|c| c.time), Some(at(2900.0)));
    for (candidate, expected) in [(1, before(30)), (2, before(100))] {
        let chosen = Request { candidate: Some(candidate), ..time(3050.0) };
        let found = find(&view, &chosen).expect("restorable");
        assert_eq!(found.stop, expected);
        assert_eq!(found.notes, [Note::Chosen { candidate, of: 2 }]);
    }
    for candidate in [0, 3] {
        let chosen = Request { candidate: Some(candidate), ..time(3050.0) };
        let refused = find(&view, &chosen);
        assert!(matches!(refused, Err(Refusal::NoSuchCandidate { count: 2, .. })));
    }
    assert_eq!(stop(find(&view, &time(4500.0))), before(150));
}

#[test]
fn after_the_last_commit_of_an_idle_database_everything_is_replayed() {
    let view = quiet(100).commit(10, 10.0).commit(20, 20.0).watermark(500.0);
    for seconds in [20.0, 21.0, 499.0, 500.0] {
        let found = find(&view, &time(seconds)).expect("restorable");
        assert_eq!((found.stop, found.notes), (after(99), vec![Note::EndOfLog]), "{seconds}");
        assert_eq!(found.first_left_out, None);
    }
}

#[test]
fn a_time_beyond_the_watermark_is_refused_with_the_latest_moment() {
    let view = quiet(100).commit(10, 10.0).commit(20, 20.0).watermark(500.0);
    let Err(Refusal::TooLate { proven, nearest, .. }) = find(&view, &time(500.000_001)) else {
        panic!("nothing proves it");
    };
    assert_eq!(proven, Some(at(500.0)));
    assert_eq!(nearest.before.and_then(|m| m.time), Some(at(500.0)));
    let view = quiet(100).commit(10, 10.0).commit(20, 20.0);
    assert_eq!(stop(find(&view, &time(20.0))), after(99));
    assert!(matches!(find(&view, &time(20.1)), Err(Refusal::TooLate { .. })));
}

#[test]
fn a_time_before_the_first_base_is_refused_with_the_earliest_moment() {
    let view = quiet(100).commit(2, -8.0).commit(10, 10.0).commit(20, 20.0);
    for seconds in [-3000.0, -20.0, -8.5] {
        let Err(Refusal::TooEarly { nearest, .. }) = find(&view, &time(seconds)) else {
            panic!("{seconds} lies before the base");
        };
        let first = Moment { lsn: Lsn(64), time: Some(at(0.0)) };
        assert_eq!((nearest.before, nearest.after), (None, Some(first)));
    }
    // Nothing was committed from the copy's start to its end, and then again to second 10.
    assert_eq!(stop(find(&view, &time(0.0))), before(10));
    assert_eq!(stop(find(&view, &time(9.0))), before(10));
}

#[test]
fn a_time_while_the_base_was_copied_needs_an_older_base() {
    let mut view = quiet(100).commit(10, 10.0).commit(20, 20.0).commit(30, 30.0);
    view.bases = vec![base("second", 15, 25, 15.0, 25.0)];
    assert!(matches!(find(&view, &time(19.0)), Err(Refusal::TooEarly { .. })));
    assert_eq!(stop(find(&view, &time(25.0))), before(30));
    view.bases.push(base("first", 1, 4, -10.0, 0.0));
    let found = find(&view, &time(19.0)).expect("restorable");
    assert_eq!((found.stop, found.bases), (before(20), vec!["first".to_owned()]));
    let found = find(&view, &time(27.0)).expect("restorable");
    assert_eq!(found.bases, ["second", "first"]);
}

/// Pieces 2 and 3 (records 32 to 63) are lost; a new base follows, with records 70 to 74.
fn holed() -> HandMade {
    let view = quiet(120).commit(10, 10.0).commit(20, 20.0).commit(40, 40.0);
    let mut view = view.commit(80, 80.0).commit(90, 90.0).watermark(200.0).lose(2, 4);
    view.bases.push(base("second", 70, 74, 60.0, 70.0));
    view
}

#[test]
fn a_time_inside_a_gap_is_refused_with_the_moments_on_both_sides() {
    let view = holed();
    for seconds in [20.5, 40.0, 59.0] {
        let Err(Refusal::InGap { gap, nearest, .. }) = find(&view, &time(seconds)) else {
            panic!("{seconds} lies in the gap");
        };
        assert_eq!(gap.reason, "slot lost");
        assert_eq!(nearest.before.and_then(|m| m.time), Some(at(20.0)));
        assert_eq!(nearest.after.and_then(|m| m.time), Some(at(70.0)));
    }
    assert_eq!(stop(find(&view, &time(15.0))), before(20));
    let found = find(&view, &time(70.0)).expect("the second base proves it");
    assert_eq!((found.stop, found.bases), (before(80), vec!["second".to_owned()]));
    assert_eq!(stop(find(&view, &time(85.0))), before(90));
    assert_eq!(stop(find(&view, &time(150.0))), after(119));
}

#[test]
fn behind_a_gap_nothing_is_restorable_until_a_new_base() {
    let mut view = holed();
    view.bases.pop();
    // Whether it lies in the gap or behind it, nothing can tell.
    assert!(matches!(find(&view, &time(70.0)), Err(Refusal::InGap { .. })));
    for seconds in [85.0, 150.0] {
        let refused = find(&view, &time(seconds));
        assert!(matches!(refused, Err(Refusal::BehindGap { .. })), "{seconds}: {refused:?}");
    }
    assert!(matches!(find(&view, &request(Target::Latest)), Err(Refusal::BehindGap { .. })));
}

#[test]
fn an_lsn_is_compared_with_where_records_begin() {
    let view = quiet(100).commit(10, 10.0).commit(20, 20.0);
    let lsn = |lsn: u64| request(Target::Lsn(Lsn(lsn)));
    let exclusive = |lsn: u64| Request { exclusive: true, ..request(Target::Lsn(Lsn(lsn))) };
    assert_eq!(stop(find(&view, &lsn(15 * RECORD))), after(15));
    assert_eq!(stop(find(&view, &exclusive(15 * RECORD))), before(15));
    assert_eq!(stop(find(&view, &lsn(15 * RECORD + 1))), after(16));
    let found = find(&view, &lsn(20 * RECORD)).expect("restorable");
    assert!(matches!(found.notes[..], [Note::IncludesCommit { .. }]));
    assert_eq!(found.last_kept.and_then(|c| c.xid), Some(720));
    let found = find(&view, &exclusive(20 * RECORD)).expect("restorable");
    assert_eq!(found.last_kept.and_then(|c| c.xid), Some(710));
}

#[test]
fn the_lsn_of_the_end_of_the_log_is_its_last_record() {
    let view = quiet(100).commit(10, 10.0);
    for exclusive in [false, true] {
        let end = Request { exclusive, ..request(Target::Lsn(Lsn(100 * RECORD))) };
        let found = find(&view, &end).expect("restorable");
        assert_eq!((found.stop, found.notes), (after(99), vec![Note::EndOfLog]));
    }
    let beyond = request(Target::Lsn(Lsn(100 * RECORD + 1)));
    assert!(matches!(find(&view, &beyond), Err(Refusal::TooLate { .. })));
}

#[test]
fn an_lsn_before_a_base_or_in_a_gap_is_refused() {
    let lsn = |number: u64| request(Target::Lsn(record(number).start));
    let view = holed();
    assert!(matches!(find(&view, &lsn(2)), Err(Refusal::TooEarly { .. })));
    assert_eq!(stop(find(&view, &lsn(3))), after(3));
    let Err(Refusal::InGap { nearest, .. }) = find(&view, &lsn(40)) else { panic!("in the gap") };
    assert_eq!(nearest.before.map(|m| m.lsn), Some(Lsn(2 * PIECE)));
    assert_eq!(nearest.after.map(|m| m.lsn), Some(record(74).start));
    assert!(matches!(find(&view, &lsn(66)), Err(Refusal::BehindGap { .. })));
}

#[test]
fn a_transaction_is_found_by_its_number() {
    let view = quiet(100).commit(10, 10.0).commit(20, 20.0).commit(30, 30.0);
    let view = view
        .event(40, meaning(End::CommitPrepared, 40.0, 5000))
        .event(50, meaning(End::Abort, 50.0, 6000));
    let xid = |xid| request(Target::Xid(xid));
    assert_eq!(stop(find(&view, &xid(720))), after(20));
    assert_eq!(stop(find(&view, &Request { exclusive: true, ..xid(720) })), before(20));
    assert_eq!(stop(find(&view, &xid(5000))), after(40));
    let found = find(&view, &xid(6000)).expect("restorable");
    assert_eq!((found.stop, found.notes), (after(50), vec![Note::Aborted { xid: 6000 }]));
    let unknown = find(&view, &xid(721));
    assert_eq!(unknown, Err(Refusal::UnknownXid { xid: 721, seen: Some((710, 6000)) }));
}

#[test]
fn a_number_that_came_again_after_a_wraparound_gives_candidates() {
    let view = quiet(100).event(10, meaning(End::Commit, 10.0, 900));
    let view = view.event(60, meaning(End::Commit, 60.0, 900)).commit(70, 70.0);
    let Err(Refusal::Ambiguous { candidates, .. }) = find(&view, &request(Target::Xid(900))) else {
        panic!("two transactions had this number");
    };
    assert_eq!(candidates.iter().map(|c| c.stop).collect::<Vec<_>>(), [after(10), after(60)]);
    let second = Request { candidate: Some(2), ..request(Target::Xid(900)) };
    assert_eq!(stop(find(&view, &second)), after(60));

    let mut view = view;
    view.bases = vec![base("late", 20, 30, 20.0, 30.0)];
    let found = find(&view, &request(Target::Xid(900))).expect("one of them");
    assert_eq!(found.stop, after(60));
    assert_eq!(found.notes, [Note::OthersNotRestorable { count: 1 }]);
}

#[test]
fn a_restore_point_is_found_by_its_name() {
    let view = quiet(100).point(10, "one").point(20, "twice").point(60, "twice").point(2, "early");
    let name = |name: &str| request(Target::Name(name.to_owned()));
    assert_eq!(stop(find(&view, &name("one"))), after(10));
    assert_eq!(stop(find(&view, &Request { exclusive: true, ..name("one") })), before(10));
    let twice = find(&view, &name("twice"));
    assert!(matches!(&twice, Err(Refusal::Ambiguous { candidates, .. }) if candidates.len() == 2));
    let second = Request { candidate: Some(2), ..name("twice") };
    assert_eq!(stop(find(&view, &second)), after(60));
    assert!(matches!(find(&view, &name("early")), Err(Refusal::TooEarly { .. })));
    let Err(Refusal::UnknownName { known, .. }) = find(&view, &name("One")) else {
        panic!("names are exact");
    };
    assert!(known.contains(&"one".to_owned()));
}

#[test]
fn the_latest_moment_is_behind_the_last_complete_record() {
    let view = quiet(100).commit(10, 10.0);
    assert_eq!(stop(find(&view, &request(Target::Latest))), after(99));
}

#[test]
fn without_log_or_base_nothing_is_restorable() {
    let mut view = quiet(100);
    view.bases.clear();
    assert_eq!(find(&view, &time(1.0)), Err(Refusal::NoBase));
    view.end = None;
    assert_eq!(find(&view, &time(1.0)), Err(Refusal::NoLog));
}

#[test]
fn a_refusal_names_what_can_be_restored() {
    let view = holed();
    let shown = find(&view, &time(30.0)).expect_err("in the gap").to_string();
    assert!(shown.contains("slot lost") && shown.contains(" before it and "), "{shown}");
    let shown = find(&stepped(), &time(3050.0)).expect_err("ambiguous").to_string();
    assert!(shown.contains("\n  1: before the record at 0/000001E0, with"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What is restored holds every commit up to the moment and no other, or it is said.
    #[test]
    fn a_resolved_time_holds_exactly_the_commits_up_to_it(
        steps in prop::collection::vec((1_u64..9, -3.0_f64..20.0), 1..40),
        asked in 0.0_f64..300.0,
        exclusive: bool,
    ) {
        let (mut number, mut clock) = (4, 1.0);
        let mut view = quiet(400);
        for (records, seconds) in steps {
            number += records;
            clock += seconds;
            view = view.commit(number, clock);
        }
        let view = view.watermark(clock);
        let wanted = Request { exclusive, ..time(asked) };
        let kept = |t: Timestamp| if exclusive { t < at(asked) } else { t <= at(asked) };
        match find(&view, &wanted) {
            Ok(found) => {
                let jitter = found.notes.iter().any(|n| matches!(n, Note::OutOfOrder { .. }));
                for commit in view.events.iter().filter_map(commit_of) {
                    let replayed = commit.end <= found.stop.position();
                    prop_assert!(replayed == kept(commit.time) || jitter);
                    prop_assert!(!replayed || kept(commit.time));
                }
            }
            Err(Refusal::Ambiguous { candidates, .. }) => prop_assert!(candidates.len() > 1),
            Err(Refusal::TooLate { .. }) => prop_assert!(at(asked) > at(clock)),
            Err(refusal) => prop_assert!(false, "{}", refusal),
        }
    }
}

/// Only a time, a number or a name can stand anywhere; where the end and a position lie is known.
#[test]
fn the_end_and_a_position_are_found_without_an_index_by_reading_only_where_they_lie() {
    let view = quiet(1600).commit(10, 10.0).commit(800, 20.0).commit(1590, 30.0);
    for (target, most) in [(Target::Latest, 2), (Target::Lsn(record(800).start), 60)] {
        view.read.lock().expect("no holder panics").clear();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let found = runtime.block_on(resolve(&view, &request(target.clone())));
        assert!(found.is_ok(), "{target:?}");
        let mut read = view.read.lock().expect("no holder panics").clone();
        read.sort_unstable();
        read.dedup();
        assert!(read.len() <= most, "{target:?} of {} pieces: {read:?}", view.pieces.len());
    }
}
