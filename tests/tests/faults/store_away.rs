//! A store that is away for a while: nothing is lost, the database goes on, the lag tells the truth.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::postgres::lsn::Lsn;
use tests::archive::Archive;
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::scope;
use tests::seaweed::Seaweed;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{self, Deadline};

fn cluster() -> Result<Cluster> {
    let version = scope::newest_postgres();
    let cluster = Cluster::builder(version).segment_mb(4).conf("wal_keep_size", "4GB").start()?;
    cluster.pgbench_init("postgres", 1)?;
    Ok(cluster)
}

/// Rows that committed so far.
fn commits(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.value("postgres", "SELECT count(*) FROM pgbench_history")?.parse()?)
}

#[test]
fn nothing_is_lost_while_the_store_is_away_and_the_lag_tells_the_truth() -> Result<()> {
    let cluster = cluster()?;
    let seaweed = Seaweed::start_new()?;
    let archive = Archive::on_s3(&seaweed, "away");
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "200ms"])
        .envs(archive.environment())
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    let load = cluster.pgbench_start_with("postgres", &["-c", "2", "-R", "100", "-T", "3600"])?;
    pitrd.wait_caught_up(&cluster)?;
    let before = commits(&cluster)?;
    seaweed.kill9()?;
    let mut lags = Vec::new();
    for _ in 0..scope::scale(3, 12) {
        std::thread::sleep(Duration::from_secs(5));
        lags.push(pitrd.lag()?);
    }
    let held = pitrd.durable().context("a position")?;
    ensure!(lags.windows(2).all(|pair| pair[1] > pair[0] + 2.0), "the lag did not grow: {lags:?}");
    ensure!(pitrd.metrics()?.sum("pitr_store_away") == Some(1.0), "the store is not told away");
    ensure!(pitrd.health()?.trim_end() == "ok", "a store that is away would restart the sidecar");
    ensure!(pitrd.metrics()?.sum("pitr_store_errors_total") > Some(0.0), "no request failed");
    ensure!(commits(&cluster)? > before + 100, "the database did not go on");
    let memory = pitrd.memory()?;
    ensure!(memory.peak < 192 << 20, "{memory:?}");
    seaweed.start()?;
    pitrd.wait("a lag under 5 s", &Deadline::seconds(50), |pitrd| Ok(pitrd.lag()? < 5.0))?;
    load.stop()?;
    let end = pitrd.wait_caught_up(&cluster)?;
    let log = archive.log()?;
    let found = log.assert_unbroken()?;
    let files = log.assert_equals_files(&cluster.wal_dir())?;
    println!("held at {held}, lags {lags:?}, then {end}: {found}; {files} files equal; {memory:?}");
    Ok(())
}

#[test]
fn a_store_that_hangs_stops_nothing_but_itself() -> Result<()> {
    let cluster = cluster()?;
    let seaweed = Seaweed::start_new()?;
    let archive = Archive::on_s3(&seaweed, "hangs");
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "200ms"])
        .envs(archive.environment())
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    cluster.add_rows(10)?;
    let durable = pitrd.wait_caught_up(&cluster)?;
    seaweed.pause()?;
    let before = cluster.add_rows(10_000)?;
    pitrd.wait("the bytes to be received", &Deadline::seconds(60), |pitrd| {
        Ok(pitrd.metrics()?.sum("pitr_received_position") >= Some(before.0 as f64))
    })?;
    std::thread::sleep(Duration::from_secs(scope::scale(8, 60)));
    ensure!(pitrd.durable() < Some(before), "durable without a store");
    ensure!(pitrd.lag()? > 4.0, "{}", pitrd.lag()?);
    seaweed.resume()?;
    let end = pitrd.wait_caught_up(&cluster)?;
    pitrd.wait("a lag under 5 s", &Deadline::seconds(50), |pitrd| Ok(pitrd.lag()? < 5.0))?;
    let log = archive.log()?;
    log.assert_equals_files(&cluster.wal_dir())?;
    println!("hung at {durable}, then {end}: {}", log.assert_unbroken()?);
    Ok(())
}

/// The slot moves only behind the archive, however slow that is.
#[test]
fn the_slot_never_passes_what_the_archive_holds() -> Result<()> {
    let cluster = cluster()?;
    let seaweed = Seaweed::shared()?;
    let proxy = TcpProxy::start(seaweed.port())?;
    proxy.set(Behaviour::Latency(Duration::from_millis(80)));
    let archive = Archive::on_s3(seaweed, "behind").via(seaweed, proxy.port(), "behind");
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "100ms"])
        .envs(archive.environment())
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    // A slot begins at the last checkpoint, before anything was acknowledged.
    pitrd.wait_caught_up(&cluster)?;
    let load = cluster.pgbench_start("postgres", 2)?;
    let mut samples: Vec<(Lsn, Lsn)> = Vec::new();
    for _ in 0..scope::scale(12, 200) {
        // The slot first: the archive only grows.
        let slot = cluster.slot_restart("pitr")?.context("a slot that holds something")?;
        let (_, end) = archive.end()?;
        ensure!(slot <= end, "the slot is at {slot}, the archive ends at {end}");
        samples.push((slot, end));
    }
    load.stop()?;
    let moved = samples.first().map(|s| s.0) < samples.last().map(|s| s.0);
    ensure!(moved, "the slot did not move: {samples:?}");
    pitrd.wait_caught_up(&cluster)?;
    println!("{} samples, the last {:?}", samples.len(), samples.last());
    Ok(())
}

#[test]
fn a_slot_released_by_the_spool_passes_the_store_but_never_the_spool() -> Result<()> {
    let cluster = cluster()?;
    let seaweed = Seaweed::start_new()?;
    let archive = Archive::on_s3(&seaweed, "spooled");
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "100ms", "--ack", "spool"])
        .envs(archive.environment())
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    cluster.add_rows(10)?;
    let stored = pitrd.wait_caught_up(&cluster)?;
    seaweed.kill9()?;
    let target = cluster.fill_log(12)?;
    wait::until(&Deadline::seconds(60), "the slot to move", || {
        Ok(cluster.slot_restart("pitr")?.filter(|slot| *slot > stored).map(drop))
    })?;
    pitrd.kill9()?;
    let slot = cluster.slot_restart("pitr")?.context("a slot")?;
    let spooled = super::spooled(&pitrd.spool()?)?;
    ensure!(slot <= spooled, "the slot is at {slot}, and the spool holds up to {spooled}");
    pitrd.start()?;
    seaweed.start()?;
    pitrd.wait_durable(target)?;
    let log = archive.log()?;
    log.assert_equals_files(&cluster.wal_dir())?;
    println!("stored {stored}, slot {slot}, spool {spooled}: {}", log.assert_unbroken()?);
    Ok(())
}
