//! The scanner against what real servers wrote and `pg_waldump` read.

use super::super::testdata::Capture;
use super::super::transaction::{End, Meaning};
use super::{Event, Scanner};

fn scan(capture: &Capture) -> (Vec<Event>, Scanner) {
    let mut scanner = Scanner::new(capture.start, capture.size);
    let mut events = Vec::new();
    for piece in capture.wal.chunks(100_003) {
        scanner.feed(piece, &mut |event| events.push(event));
    }
    (events, scanner)
}

#[test]
fn every_end_of_a_transaction_has_the_xid_and_time_that_pg_waldump_shows() {
    for capture in Capture::all() {
        let version = capture.version;
        let (events, _) = scan(&capture);
        let mut found = events.iter().filter_map(|e| match &e.meaning {
            Meaning::Transaction(t) => Some((e.start, t)),
            _ => None,
        });
        let mut kinds = [0; 4];
        for line in capture.dump.iter().filter(|l| l.manager == "Transaction") {
            let (end, rest) = match line.description.split_once(' ') {
                Some(("COMMIT", rest)) => (End::Commit, rest),
                Some(("ABORT", rest)) => (End::Abort, rest),
                Some(("COMMIT_PREPARED", rest)) => (End::CommitPrepared, rest),
                Some(("ABORT_PREPARED", rest)) => (End::AbortPrepared, rest),
                _ => continue,
            };
            kinds[end as usize] += 1;
            let (start, t) = found.next().expect("as many as pg_waldump found");
            assert_eq!((start, t.end), (line.lsn, end), "{version}");
            assert_eq!(Some(t.time.to_string()), line.time(), "{version}: {start}");
            let xid = match end {
                End::Commit | End::Abort => line.xid,
                _ => rest.split(':').next().and_then(|x| x.parse().ok()).expect("an xid"),
            };
            assert_eq!(t.xid, Some(xid), "{version}: {start}");
            let subtransactions = line
                .description
                .split_once("subxacts: ")
                .map_or(0, |(_, list)| list.split(';').next().unwrap_or("").split(' ').count());
            assert_eq!(t.subtransactions as usize, subtransactions, "{version}: {start}");
        }
        assert_eq!(found.count(), 0, "{version}");
        assert!(kinds.iter().all(|n| *n > 0), "{version}: {kinds:?}");
        let dropped = |e: &Event| matches!(&e.meaning, Meaning::Transaction(t) if t.dropped_relations > 0 && t.has_invalidations);
        assert!(events.iter().any(dropped), "{version}: the drop and the truncate");
    }
}

#[test]
fn restore_points_and_prepares_carry_their_names() {
    for capture in Capture::all() {
        let (events, _) = scan(&capture);
        let points: Vec<_> = events
            .iter()
            .filter_map(|e| match &e.meaning {
                Meaning::RestorePoint { name, .. } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(points, ["before the drop", "after ünïcode", "twice", "twice"]);
        let lines = capture.dump.iter().filter(|l| l.description.starts_with("RESTORE_POINT"));
        assert_eq!(lines.count(), points.len());
        let prepares: Vec<_> = events
            .iter()
            .filter_map(|e| match &e.meaning {
                Meaning::Prepare(p) => Some((p.xid, p.gid.as_str())),
                _ => None,
            })
            .collect();
        assert_eq!(prepares.iter().map(|p| p.1).collect::<Vec<_>>(), ["gid one", "gid two"]);
        for (xid, gid) in prepares {
            let line = capture.dump.iter().find(|l| l.description.contains(gid)).expect("a line");
            assert_eq!(line.xid, xid);
        }
    }
}

#[test]
fn checkpoints_name_their_redo_position_and_timeline() {
    for capture in Capture::all() {
        let (events, _) = scan(&capture);
        let mut checkpoints = events.iter().filter_map(|e| match &e.meaning {
            Meaning::Checkpoint(c) => Some((e.start, c)),
            _ => None,
        });
        let (start, checkpoint) = checkpoints.next_back().expect("a checkpoint");
        assert!(checkpoint.redo <= start && checkpoint.redo > capture.start);
        assert_eq!(checkpoint.timeline.0, 1);
        assert!(checkpoint.next_xid > 700 && checkpoint.next_xid < 2000);
    }
}

#[test]
fn the_summary_holds_the_last_complete_record_and_the_end() {
    for capture in Capture::all() {
        let (_, scanner) = scan(&capture);
        let seen = scanner.seen();
        let last = seen.last.expect("records");
        assert_eq!(Some(last.start), capture.dump.last().map(|l| l.lsn));
        assert_eq!(seen.ended, Some(last.end), "{}", capture.version);
        assert_eq!(seen.records as usize, capture.dump.len());
        assert!(seen.unknown.is_empty());
        assert_eq!(seen.anomaly_count, 0);
    }
}
