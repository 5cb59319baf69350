//! Disks that run full because a store is away: the spool's, and the server's own pg_wal. The
//! database never dies of us.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::archive::ledger::Event;
use tests::postgres::Builder;
use tests::scratch::Folder;
use tests::wait::{self, Deadline};

use super::pressure::{MIB, Pressed, builder, minute};

/// pg_wal on a disk of 128 MiB: more than a slot of 24 MiB may hold, less than one without limit does.
fn on_a_small_disk() -> Builder {
    let builder = builder().conf("max_wal_size", "16MB").conf("min_wal_size", "8MB");
    builder.conf("wal_init_zero", "off").conf("wal_recycle", "off").wal_disk_mb(128)
}

const LIMITS: [&str; 4] = ["--slot-max", "24MiB", "--spool-max", "64MiB"];

/// Four MiB of log, and whatever the server may remove removed. `false`: it has died.
fn write(it: &Pressed) -> bool {
    std::thread::sleep(Duration::from_millis(200));
    it.cluster.fill_log(4).is_ok() && it.cluster.sql("CHECKPOINT").is_ok()
}

#[test]
fn a_server_whose_pg_wal_fills_is_saved_by_releasing_the_slot_and_a_new_base_follows() -> Result<()>
{
    let mut it = Pressed::start("release", on_a_small_disk(), &LIMITS)?;
    it.seaweed.kill9()?;
    for _ in 0..6 {
        ensure!(write(&it), "{}", it.cluster.log());
    }
    // What the spool takes before it is full is not lost.
    it.note()?;
    let position = it.cluster.flush_position()?;
    it.await_received(position)?;
    wait::until(&Deadline::seconds(120), "the slot to be released", || {
        ensure!(write(&it), "the server died:\n{}", it.cluster.log());
        Ok(it.pitrd.log().contains("SLOT RELEASED").then_some(()))
    })?;
    it.pitrd.wait_state("released", &minute())?;
    let slots = it.cluster.value("postgres", "SELECT count(*) FROM pg_replication_slots")?;
    ensure!(slots == "0", "{slots} slots");
    it.cluster.add_rows(20)?;
    it.gate.note_lost(&it.cluster)?;
    // More than the disk could hold: the fault that we save the server from.
    for _ in 0..30 {
        ensure!(write(&it), "the server died:\n{}", it.cluster.log());
    }
    ensure!(!it.cluster.log().contains("PANIC"), "{}", it.cluster.log());
    let metrics = it.pitrd.metrics()?;
    ensure!(metrics.sum("pitr_slot_released_total") == Some(1.0), "{}", metrics.text());
    ensure!(it.pitrd.memory()?.peak < 192 * MIB, "{:?}", it.pitrd.memory()?);
    it.seaweed.start()?;
    it.pitrd.wait_for_log("GAP: a stretch of log is lost", &Deadline::seconds(120))?;
    // The keeper was told of the gap before the ledger was, and looked again five minutes later.
    it.pitrd.wait("a new base by itself", &Deadline::seconds(120), |pitrd| {
        Ok(pitrd.log().matches("base complete").count() == 2)
    })?;
    let ledger = it.archive.ledger()?;
    let reason = ledger.iter().find_map(|event| match event {
        Event::Gap { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let reason = reason.context("no gap in the ledger")?;
    ensure!(reason.contains("the slot was released"), "{reason}");
    let released = |event: &&Event| matches!(event, Event::SlotReleased { .. });
    ensure!(ledger.iter().filter(released).count() == 1, "{ledger:?}");
    it.recovers(&format!("released, gap: {reason}"))
}

/// The control: the same server, the same writes, and a slot that is not released.
#[test]
fn a_server_whose_slot_is_held_on_purpose_runs_out_of_the_same_disk() -> Result<()> {
    let arguments = [&LIMITS[..], &["--on-slot-max", "hold"]].concat();
    let it = Pressed::start("hold", on_a_small_disk(), &arguments)?;
    it.seaweed.kill9()?;
    let died = (0..80).any(|_| !write(&it));
    ensure!(died, "the disk was never full: {}", it.pitrd.log());
    ensure!(it.cluster.log().contains("No space left on device"), "{}", it.cluster.log());
    ensure!(it.pitrd.log().contains("SLOT BEYOND ITS LIMIT"), "{}", it.pitrd.log());
    Ok(())
}

#[test]
fn a_spool_on_a_full_disk_holds_the_source_and_the_database_goes_on() -> Result<()> {
    let folder = Folder::new("small")?;
    let spool = folder.sub("spool")?;
    let mut it = Pressed::start_as("full", builder(), |pitrd| {
        let pitrd = pitrd.args(["--spool", &spool.display().to_string()]);
        Ok(super::spool::on_small_disk(pitrd, &spool, "size=100m"))
    })?;
    // Its own view of the folder is reached through its process.
    let inside = format!("/proc/{}/root{}", it.pitrd.pid()?, spool.display());
    let filler = std::path::Path::new(&inside).join("filler");
    it.proxy.set(tests::tcp_proxy::Behaviour::Blackhole);
    std::fs::write(&filler, vec![1; 50 << 20])?;
    it.cluster.fill_log(40)?;
    it.pitrd.wait_state("held", &minute())?;
    it.note()?;
    let uploads = it.pitrd.metrics()?.sum("pitr_uploads_total");
    it.proxy.set(tests::tcp_proxy::Behaviour::Pass);
    // What is there goes up while the source is held.
    it.pitrd.wait_for_metrics("uploads to go on", &Deadline::seconds(120), |metrics| {
        metrics.sum("pitr_uploads_total") > uploads
    })?;
    std::fs::remove_file(&filler)?;
    it.recovers("a full disk")
}
