//! Log that the server removed while we were away.

use anyhow::{Context, Result, ensure};
use proto::archive::ledger::Event;
use tests::archive::Archive;
use tests::gate::Gate;
use tests::postgres::Cluster;
use tests::programs::{self, Pitrd};
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::Deadline;

use crate::flow::protected::{Place, Protected};

/// How the log is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    SlotDropped,
    /// Beyond max_slot_wal_keep_size.
    SlotInvalidated,
}

#[test]
fn log_that_was_removed_while_away_becomes_a_recorded_gap_and_a_new_base() -> Result<()> {
    for version in scope::postgres_versions() {
        lose(version, Loss::SlotDropped)?;
    }
    Ok(())
}

#[test]
fn a_slot_that_the_server_has_invalidated_is_renewed_and_the_gap_recorded() -> Result<()> {
    for version in scope::postgres_versions() {
        lose(version, Loss::SlotInvalidated)?;
    }
    Ok(())
}

fn lose(version: u32, loss: Loss) -> Result<()> {
    let builder = Cluster::builder(version).segment_mb(1).conf("max_wal_size", "4MB");
    let builder = builder.conf("min_wal_size", "2MB").conf("max_slot_wal_keep_size", "2MB");
    let mut protected = Protected::start(builder, Place::Folder, &["--flush", "100ms"])?;
    protected.await_base()?;
    protected.cluster.add_rows(100)?;
    let mut gate = Gate::new();
    gate.note(&protected.cluster)?;
    // The last moment before a gap is not the gap's beginning, which is a record's that is lost.
    protected.cluster.add_rows(1)?;
    let before = protected.await_everything()?;
    protected.pitrd.kill9()?;
    if loss == Loss::SlotDropped {
        tests::wait::until(&Deadline::seconds(60), "the slot to be free", || {
            Ok(protected.cluster.sql("SELECT pg_drop_replication_slot('pitr')").ok())
        })?;
    }
    protected.cluster.add_rows(10)?;
    gate.note_lost(&protected.cluster)?;
    for _ in 0..3 {
        protected.cluster.fill_log(8)?;
        protected.cluster.sql("CHECKPOINT")?;
    }
    let status = "SELECT coalesce(max(wal_status), 'gone') FROM pg_replication_slots";
    let status = protected.cluster.value("postgres", status)?;
    let expected = if loss == Loss::SlotDropped { "gone" } else { "lost" };
    ensure!(status == expected, "the slot is {status}");
    protected.pitrd.start()?;
    protected.pitrd.wait_for_log("GAP", &Deadline::seconds(120))?;
    protected.pitrd.wait_for_metrics("the gap counted", &Deadline::seconds(60), |metrics| {
        metrics.sum("pitr_gaps_total") == Some(1.0)
    })?;
    protected.cluster.add_rows(100)?;
    protected.await_everything()?;
    let archive = Archive::at(protected.archive.as_ref());
    let bases = || -> Result<usize> {
        let keys = archive.keys("lineage/1/base/")?;
        Ok(keys.iter().filter(|key| key.ends_with("/complete.json")).count())
    };
    protected.pitrd.wait("a new base", &Deadline::seconds(300), |_| Ok(bases()? == 2))?;
    let gap = archive.ledger()?.into_iter().find_map(|event| match event {
        Event::Gap { from, to, reason, .. } => Some((from, to, reason)),
        _ => None,
    });
    let (from, to, reason) = gap.context("no gap in the ledger")?;
    ensure!(from.offset.0 >= before.0 && to.offset > from.offset, "{from:?} {to:?}");
    // A restart finds the end behind the gap, and records no other.
    protected.pitrd.kill9()?;
    protected.pitrd.start()?;
    protected.cluster.add_rows(10)?;
    protected.await_everything()?;
    let log = archive.log()?;
    ensure!(log.gaps().len() == 1, "{:?}", log.gaps());
    let found = log.assert_unbroken()?;
    log.assert_equals_files(&protected.cluster.wal_dir())?;
    gate.note(&protected.cluster)?;
    protected.await_everything()?;
    println!("PostgreSQL {version} {loss:?}: gap {from:?} to {to:?} ({reason}); {found}");
    gate.pass(&protected.cluster, &archive).map(drop)
}

/// What can be restored is told in two ranges, with the gap between them.
fn assert_split(archive: &Archive) -> Result<()> {
    let environment = archive.environment();
    let status =
        programs::run("pitr", &["status", "--json", "--archive", archive.url()], &environment)?;
    let status = status.json()?;
    let count = |name: &str| status[name].as_array().map_or(0, Vec::len);
    ensure!((count("windows"), count("gaps")) == (2, 1), "{status}");
    Ok(())
}

/// With `--ack spool` the server lets go of what the store does not have yet. When the spool's disk is
/// lost then, that is said; with the disk everything is there.
#[test]
fn a_spool_that_is_lost_with_what_it_had_acknowledged_is_a_recorded_gap_and_a_new_base()
-> Result<()> {
    for lost in [false, true] {
        acknowledged_from_the_spool(lost)?;
    }
    Ok(())
}

fn acknowledged_from_the_spool(lost: bool) -> Result<()> {
    let builder = Cluster::builder(scope::newest_postgres()).segment_mb(1);
    let builder = builder.conf("max_wal_size", "4MB").conf("min_wal_size", "2MB");
    let cluster = builder.start()?;
    let seaweed = Seaweed::start_new()?;
    let archive = Archive::on_s3(&seaweed, "spool-lost");
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .envs(archive.environment())
        .args(["--flush", "100ms", "--ack", "spool", "--take-over"])
        .start()?;
    pitrd.wait_for_log("base complete", &Deadline::seconds(300))?;
    cluster.add_rows(100)?;
    let mut gate = Gate::new();
    gate.note(&cluster)?;
    cluster.add_rows(100)?;
    pitrd.wait_caught_up(&cluster)?;
    seaweed.kill9()?;
    // Not of the segment that the store holds a part of.
    cluster.fill_log(3)?;
    cluster.add_rows(10)?;
    if lost {
        gate.note_lost(&cluster)?
    } else {
        gate.note(&cluster)?
    };
    let target = cluster.fill_log(10)?;
    pitrd.wait("the spool to be acknowledged", &Deadline::seconds(120), |_| {
        Ok(cluster.slot_restart("pitr")?.is_some_and(|restart| restart >= target))
    })?;
    for _ in 0..3 {
        cluster.fill_log(6)?;
        cluster.sql("CHECKPOINT")?;
    }
    pitrd.kill9()?;
    if lost {
        std::fs::remove_dir_all(pitrd.spool()?)?;
    }
    seaweed.start()?;
    pitrd.start()?;
    cluster.add_rows(100)?;
    pitrd.wait_caught_up(&cluster)?;
    let bases = || -> Result<usize> {
        let keys = archive.keys("lineage/1/base/")?;
        Ok(keys.iter().filter(|key| key.ends_with("/complete.json")).count())
    };
    if lost {
        pitrd.wait("a new base", &Deadline::seconds(300), |_| Ok(bases()? == 2))?;
        let gaps = pitrd.metrics()?.sum("pitr_gaps_total");
        ensure!(gaps == Some(1.0) && pitrd.log().contains("GAP"), "{gaps:?} gaps: {}", pitrd.log());
        assert_split(&archive)?;
    }
    let log = archive.log()?;
    ensure!(log.gaps().len() == usize::from(lost), "{:?}", log.gaps());
    println!("spool lost: {lost}: {}", log.assert_unbroken()?);
    gate.note(&cluster)?;
    pitrd.wait_caught_up(&cluster)?;
    gate.pass(&cluster, &archive).map(drop)
}
