//! A sidecar beside every member: what a waiting one keeps ready, and what it writes when the old
//! machine is lost with its sidecar and its spool.

use anyhow::{Context, Result, ensure};
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize, Timeline};
use tests::archive::Archive;
use tests::gate::Gate;
use tests::postgres::{Builder, Cluster, Stop};
use tests::programs::{Pitrd, wait_for_status};
use tests::scope;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{self, Deadline};

use super::oplog_writers::{assert_nothing_was_written_over, objects, writers};
use super::promotion::{assert_timelines, await_timeline};

/// The same command beside every member.
pub(super) fn sidecar(member: &Cluster, archive: &Archive, more: &[&str]) -> Result<Pitrd> {
    let builder = Pitrd::builder(&member.replication_url(), archive.url());
    let builder = builder.envs(archive.environment()).args(["--flush", "100ms"]);
    builder.args(more.iter().copied()).start()
}

/// Keeps no log that nobody asks for, and can be rewound.
pub(super) fn forgetful(version: u32) -> Builder {
    let builder = Cluster::builder(version).segment_mb(1).checksums(true);
    builder.conf("max_wal_size", "4MB").conf("min_wal_size", "2MB")
}

pub(super) fn await_base(archive: &Archive) -> Result<()> {
    let environment = archive.environment();
    wait_for_status(archive.url(), &environment, "a base", &Deadline::seconds(300), |status| {
        status["bases"].as_array().is_some_and(|bases| !bases.is_empty())
    })
    .map(drop)
}

/// The file of the segment that the archive has no whole copy of.
fn open_segment(end: Lsn) -> Result<String> {
    let size = SegmentSize::try_from(1 << 20)?;
    Ok(SegmentId::containing(Timeline(1), end, size).name(size))
}

/// Writes log and lets every member forget what it may.
fn roll(primary: &Cluster, standbys: &[&Cluster]) -> Result<()> {
    for _ in 0..3 {
        primary.fill_log(6)?;
        primary.sql("CHECKPOINT")?;
        for standby in standbys {
            standby.await_replay_of(primary)?;
            standby.sql("CHECKPOINT")?;
        }
    }
    Ok(())
}

/// Beside a standby, the end of what its slot lets the server forget.
fn await_slot_behind(pitrd: &mut Pitrd, standby: &Cluster, at: Lsn) -> Result<()> {
    pitrd.wait("the standby's slot to follow the archive", &Deadline::seconds(200), |_| {
        Ok(standby.slot_restart("pitr")?.is_some_and(|restart| restart > at))
    })
}

fn lose_the_old_machine(version: u32) -> Result<()> {
    let primary = forgetful(version).start()?;
    primary.add_rows(1000)?;
    let (ours, other) = (primary.standby()?, primary.standby()?);
    let archive = Archive::in_folder()?;
    let mut first = sidecar(&primary, &archive, &[])?;
    await_base(&archive)?;
    let mut second = sidecar(&ours, &archive, &[])?;
    second.wait_state("waiting", &Deadline::seconds(60))?;
    await_slot_behind(&mut second, &ours, Lsn(0))?;
    let began = ours.slot_restart("pitr")?.context("a slot on the standby")?;
    let load = primary.pgbench_init("postgres", 1);
    let load = load.and_then(|()| primary.pgbench_start("postgres", 1))?;
    await_slot_behind(&mut second, &ours, began)?;
    let mut gate = Gate::new();
    gate.note(&primary)?;
    first.wait_caught_up(&primary)?;
    first.kill9()?;
    std::fs::remove_dir_all(first.spool()?)?;
    let (_, end) = archive.end()?;
    let needed = open_segment(end)?;
    roll(&primary, &[&ours, &other])?;
    // The control: what nobody kept for us is gone.
    wait::until(&Deadline::seconds(120), "a standby without our slot to forget", || {
        roll(&primary, &[&other])?;
        Ok((!other.wal_dir().join(&needed).exists()).then_some(()))
    })?;
    ensure!(ours.wal_dir().join(&needed).exists(), "{needed} is gone on the standby that waits");
    let kept = ours.slot_restart("pitr")?.context("the slot")?;
    ensure!(kept <= end, "the slot at {kept} has passed the archive's end {end}");
    gate.note(&primary)?;
    ours.await_replay_of(&primary)?;
    primary.kill9()?;
    drop((load, first));
    ours.promote()?;
    let promoted = Deadline::seconds(100);
    await_timeline(&mut second, 2)?;
    let took = promoted.elapsed().as_secs_f64();
    ours.add_rows(100)?;
    gate.note(&ours)?;
    second.wait_caught_up(&ours)?;
    let found = assert_timelines(&archive, &ours, 2)?;
    ensure!(archive.log()?.gaps().is_empty(), "a gap");
    ensure!(second.metrics()?.sum("pitr_gaps_total") == Some(0.0), "a gap was counted");
    println!("PostgreSQL {version}: timeline 2 archived {took:.1} s behind the promotion: {found}");
    gate.pass(&ours, &archive).map(drop)
}

#[test]
fn a_failover_that_loses_the_old_machine_with_its_sidecar_and_spool_leaves_no_gap() -> Result<()> {
    let versions = scope::scale(vec![scope::newest_postgres()], scope::postgres_versions());
    versions.into_iter().try_for_each(lose_the_old_machine)
}

/// A standby's own limit on slots holds for ours too: what it invalidates is made anew, and the
/// archive is told nothing by a sidecar that only waits.
#[test]
fn a_slot_that_a_standby_has_invalidated_is_renewed_beside_it() -> Result<()> {
    let builder = forgetful(scope::newest_postgres()).conf("max_slot_wal_keep_size", "2MB");
    let primary = builder.start()?;
    primary.add_rows(10)?;
    // A slot of its own, so that the primary keeps for the standby what its limit would not.
    let standby = primary.standby()?;
    let archive = Archive::in_folder()?;
    let mut first = sidecar(&primary, &archive, &[])?;
    await_base(&archive)?;
    let mut second = sidecar(&standby, &archive, &[])?;
    await_slot_behind(&mut second, &standby, Lsn(0))?;
    second.kill9()?;
    let lost = "SELECT count(*) FROM pg_replication_slots WHERE wal_status = 'lost'";
    wait::until(&Deadline::seconds(120), "the slot to be lost", || {
        primary.fill_log(4)?;
        standby.await_replay_of(&primary)?;
        primary.sql("CHECKPOINT")?;
        standby.await_replay_of(&primary)?;
        standby.sql("CHECKPOINT")?;
        Ok((standby.value("postgres", lost)? == "1").then_some(()))
    })?;
    let mut gate = Gate::new();
    gate.note(&primary)?;
    second.start()?;
    let held =
        "SELECT count(*) FROM pg_replication_slots WHERE wal_status IN ('reserved', 'extended')";
    second.wait("the slot to be renewed", &Deadline::seconds(120), |_| {
        Ok(standby.value("postgres", held)? == "1")
    })?;
    ensure!(second.log().contains("invalidated"), "{}", second.log());
    first.wait_caught_up(&primary)?;
    ensure!(archive.log()?.gaps().is_empty(), "a gap was recorded beside a standby");
    gate.pass(&primary, &archive).map(drop)
}

/// What the old primary wrote alone is archived, and nobody's past.
#[test]
fn what_an_old_primary_wrote_alone_stays_an_orphan_branch_and_is_never_replayed() -> Result<()> {
    let old = forgetful(scope::newest_postgres()).conf("wal_keep_size", "1GB").start()?;
    old.add_rows(100)?;
    let new = old.standby()?;
    let proxy = TcpProxy::start(old.port())?;
    let port = proxy.port();
    new.sql(&format!(
        "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 user=postgres port={port}'"
    ))?;
    new.reload()?;
    wait::until(&Deadline::seconds(60), "the standby to come through the proxy", || {
        Ok((proxy.connections() > 0).then_some(()))
    })?;
    new.await_streaming()?;
    let archive = Archive::in_folder()?;
    let mut first = sidecar(&old, &archive, &[])?;
    await_base(&archive)?;
    let mut second = sidecar(&new, &archive, &[])?;
    second.wait_state("waiting", &Deadline::seconds(60))?;
    let mut gate = Gate::new();
    gate.note(&old)?;
    new.await_replay_of(&old)?;
    proxy.set(Behaviour::Cut);
    old.sql("CREATE TABLE superseded AS SELECT 1 AS a")?;
    old.fill_log(2)?;
    first.wait_caught_up(&old)?;
    ensure!(proxy.faults() > 0, "the standby was not cut off");
    let (_, left) = archive.end()?;
    let before = objects(&archive)?;
    old.kill9()?;
    new.promote()?;
    await_timeline(&mut second, 2)?;
    new.add_rows(10)?;
    gate.note(&new)?;
    second.wait_caught_up(&new)?;
    // It is rewound, follows the new one, and is promoted again: its sidecar has waited.
    old.rewind_to(&new)?;
    ensure!(old.value("postgres", "SELECT to_regclass('superseded') IS NULL")? == "t", "no rewind");
    first.wait_state("waiting", &Deadline::seconds(60))?;
    ensure!(first.is_running(), "it ended: {}", first.log());
    // What its sidecar would ask for next is gone here, and in the archive: that is no gap.
    for member in [&old, &new] {
        member.sql("ALTER SYSTEM SET wal_keep_size = 0")?;
        member.reload()?;
    }
    let next = open_segment(left)?;
    wait::until(&Deadline::seconds(120), "the old primary to forget its own log", || {
        roll(&new, &[&old])?;
        Ok((!old.wal_dir().join(&next).exists()).then_some(()))
    })?;
    second.wait_caught_up(&new)?;
    old.await_replay_of(&new)?;
    new.stop(Stop::Fast)?;
    old.promote()?;
    await_timeline(&mut first, 3)?;
    ensure!(first.metrics()?.sum("pitr_gaps_total") == Some(0.0), "{}", first.log());
    old.add_rows(10)?;
    gate.note(&old)?;
    first.wait_caught_up(&old)?;
    let found = assert_timelines(&archive, &old, 3)?;
    let log = archive.log()?;
    let branch = log.histories[&Timeline(2)].entries[0].at;
    ensure!(log.gaps().is_empty() && left > branch, "{left} is not beyond the branch at {branch}");
    ensure!(log.end_of(Timeline(1))? >= left, "what the old primary wrote alone is not kept");
    assert_nothing_was_written_over(&before, &archive)?;
    println!("orphaned {branch}..{left}: {found}");
    gate.pass(&old, &archive).map(drop)
}

/// A copy of its folder that was taken before everything: the old primary as it was.
#[test]
fn an_old_primary_that_comes_back_from_an_old_snapshot_waits_and_writes_nothing() -> Result<()> {
    let old = forgetful(scope::newest_postgres()).conf("wal_keep_size", "1GB").start()?;
    old.add_rows(100)?;
    old.stop(Stop::Fast)?;
    let snapshot = old.scratch("snapshot")?;
    copy(old.data(), &snapshot)?;
    old.start()?;
    let new = old.standby()?;
    let archive = Archive::in_folder()?;
    let mut first = sidecar(&old, &archive, &[])?;
    await_base(&archive)?;
    let mut second = sidecar(&new, &archive, &[])?;
    let mut gate = Gate::new();
    old.fill_log(2)?;
    gate.note(&old)?;
    new.await_replay_of(&old)?;
    first.wait_caught_up(&old)?;
    old.kill9()?;
    new.promote()?;
    await_timeline(&mut second, 2)?;
    std::fs::remove_dir_all(old.data())?;
    copy(&snapshot, old.data())?;
    old.start()?;
    old.fill_log(5)?;
    ensure!(old.value("postgres", "SELECT pg_is_in_recovery()")? == "f", "it is no primary");
    let taken = writers(&archive)?;
    // Its own sidecar, and one that was just installed; not even one that is told to take over.
    let mut fresh = sidecar(&old, &archive, &["--take-over"])?;
    fresh.wait_for_log("left behind", &Deadline::seconds(60))?;
    fresh.wait_state("waiting", &Deadline::seconds(60))?;
    first.wait("the old sidecar to stand back", &Deadline::seconds(120), |pitrd| {
        let log = pitrd.log();
        Ok(log.contains("left behind") || log.contains("fenced"))
    })?;
    new.add_rows(100)?;
    gate.note(&new)?;
    second.wait_caught_up(&new)?;
    ensure!(first.is_running() && fresh.is_running(), "one beside the old primary ended");
    ensure!(writers(&archive)? == taken, "the snapshot's sidecar took a writer epoch");
    ensure!(!second.log().contains("fenced"), "{}", second.log());
    ensure!(archive.log()?.gaps().is_empty(), "a gap");
    println!("{}", assert_timelines(&archive, &new, 2)?);
    gate.pass(&new, &archive).map(drop)
}

/// As an administrator copies a data folder: owners and all.
fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let mut copy = std::process::Command::new("cp");
    copy.arg("-aT").arg(from).arg(to);
    tests::process::run(copy).map(drop)
}
