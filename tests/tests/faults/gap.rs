//! Log that the server removed while we were away.

use anyhow::{Context, Result, ensure};
use proto::archive::ledger::Event;
use tests::gate::Gate;
use tests::postgres::Cluster;
use tests::scope;
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
    let archive = tests::archive::Archive::at(protected.archive.as_ref());
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
