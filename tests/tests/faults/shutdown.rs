//! The server's clean shutdown is never blocked by us, and never acknowledged early.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::postgres::lsn::Lsn;
use tests::archive::Archive;
use tests::postgres::{Cluster, Stop};
use tests::programs::Pitrd;
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::Deadline;

/// Expected within seconds: `shutdown_grace` is five.
fn limit() -> Deadline {
    Deadline::seconds(60)
}

/// After the stop: what the slot was told is in the archive. Then the same sidecar goes on.
fn assert_nothing_early(
    what: &str,
    cluster: &Cluster,
    pitrd: &mut Pitrd,
    archive: &Archive,
    back: impl FnOnce() -> Result<()>,
) -> Result<()> {
    pitrd.kill9()?;
    cluster.start()?;
    let slot = cluster.slot_restart("pitr")?.context("the slot outlives the restart")?;
    back()?;
    let (_, end) = archive.end()?;
    ensure!(slot <= end, "{what}: the slot is at {slot}, the archive ends at {end}");
    cluster.add_rows(10)?;
    pitrd.start()?;
    pitrd.wait_caught_up(cluster)?;
    let log = archive.log()?;
    let found = log.assert_unbroken()?;
    let files = log.assert_equals_files(&cluster.wal_dir())?;
    ensure!(log.gaps().is_empty(), "{what}: a gap");
    println!("{what}: slot {slot}, archive {end}; then {found}; {files} files equal");
    Ok(())
}

fn cluster(version: u32) -> Result<Cluster> {
    let cluster = Cluster::builder(version).segment_mb(4).conf("wal_keep_size", "4GB").start()?;
    cluster.pgbench_init("postgres", 1)?;
    Ok(cluster)
}

#[test]
fn a_server_that_we_stream_from_stops_at_once() -> Result<()> {
    for version in scope::postgres_versions() {
        let cluster = cluster(version)?;
        let archive = Archive::in_folder()?;
        let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
            .args(["--no-base"])
            .start()?;
        pitrd.wait_state("streaming", &Deadline::seconds(60))?;
        let load = cluster.pgbench_start("postgres", 2)?;
        pitrd.wait_caught_up(&cluster)?;
        cluster.stop_within(Stop::Fast, &limit())?;
        drop(load);
        let what = format!("PostgreSQL {version} attached");
        // The last record is the shutdown checkpoint: it was waited for, and it is in the archive.
        let durable = pitrd.durable().context("a position")?;
        let (_, end) = archive.end()?;
        ensure!(durable <= end, "{durable} was said durable, the archive ends at {end}");
        assert_nothing_early(&what, &cluster, &mut pitrd, &archive, || Ok(()))?;
    }
    Ok(())
}

#[test]
fn a_server_stops_at_once_while_the_store_is_away() -> Result<()> {
    let cluster = cluster(scope::newest_postgres())?;
    let seaweed = Seaweed::start_new()?;
    let archive = Archive::on_s3(&seaweed, "shutdown");
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base"])
        .envs(archive.environment())
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    cluster.add_rows(10)?;
    let durable = pitrd.wait_caught_up(&cluster)?;
    seaweed.kill9()?;
    let beyond = cluster.add_rows(1000)?;
    pitrd.wait("the bytes to be received", &Deadline::seconds(60), |pitrd| {
        Ok(pitrd.metrics()?.sum("pitr_received_position") >= Some(beyond.0 as f64))
    })?;
    cluster.stop_within(Stop::Fast, &limit())?;
    ensure!(pitrd.durable() < Some(beyond), "durable without a store");
    ensure!(pitrd.is_running(), "the sidecar must go on");
    println!("durable {durable}, written {beyond}");
    let back = || seaweed.start();
    assert_nothing_early("the store away", &cluster, &mut pitrd, &archive, back)
}

/// A sidecar that is held as soon as its store has missed 64 MiB.
fn with_a_small_spool(name: &str) -> Result<(Cluster, Seaweed, Archive, Pitrd)> {
    let cluster = cluster(scope::newest_postgres())?;
    let seaweed = Seaweed::start_new()?;
    let archive = Archive::on_s3(&seaweed, name);
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--spool-max", "64MiB", "--compression", "none"])
        .envs(archive.environment())
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    Ok((cluster, seaweed, archive, pitrd))
}

#[test]
fn a_server_stops_at_once_while_the_source_is_held() -> Result<()> {
    let (cluster, seaweed, archive, mut pitrd) = with_a_small_spool("held")?;
    cluster.add_rows(10)?;
    let durable = pitrd.wait_caught_up(&cluster)?;
    seaweed.kill9()?;
    let beyond = cluster.fill_log(110)?;
    pitrd.wait_state("held", &Deadline::seconds(120))?;
    let bytes = pitrd.metrics()?.sum("pitr_spool_bytes").context("pitr_spool_bytes")?;
    ensure!(bytes < f64::from(96 << 20), "the spool holds {bytes}");
    ensure!(pitrd.log().contains("held: the source is disconnected"), "it is not said why");
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'pitr'";
    ensure!(cluster.value("postgres", active)? == "f", "held means disconnected");
    cluster.stop_within(Stop::Fast, &limit())?;
    println!("durable {durable}, written {beyond}, spool {bytes}");
    let back = || seaweed.start();
    assert_nothing_early("held", &cluster, &mut pitrd, &archive, back)
}

#[test]
fn a_held_source_is_let_in_again_when_the_spool_has_room() -> Result<()> {
    let (cluster, seaweed, archive, mut pitrd) = with_a_small_spool("room")?;
    pitrd.wait_caught_up(&cluster)?;
    seaweed.pause()?;
    let target: Lsn = cluster.fill_log(110)?;
    pitrd.wait_state("held", &Deadline::seconds(120))?;
    let memory = pitrd.memory()?;
    std::thread::sleep(Duration::from_secs(2));
    seaweed.resume()?;
    pitrd.wait_durable_within(target, &Deadline::seconds(300))?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    let log = archive.log()?;
    log.assert_equals_files(&cluster.wal_dir())?;
    println!("{target}: {}; {memory:?}", log.assert_unbroken()?);
    Ok(())
}
