//! Ctrl-C and SIGTERM: once, it ends in order; twice, it ends now. A stop is told from a success.

use anyhow::{Context, Result, ensure};
use tests::postgres::Cluster;
use tests::process::Signal;
use tests::programs::Pitrd;
use tests::scope;
use tests::scratch::Folder;
use tests::seaweed::{BUCKET, Identity, Seaweed};
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::Deadline;

const INTERRUPTED: i32 = 5;

fn seconds() -> Deadline {
    Deadline::seconds(60)
}

#[test]
fn one_signal_ends_in_order_and_a_second_one_at_once() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let seaweed = Seaweed::shared()?;
    let proxy = TcpProxy::start(seaweed.port())?;
    let archive = seaweed.url_via(proxy.port(), BUCKET, "stopping");
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), &archive)
        .envs(Identity::Writer.environment())
        .arg("--no-base")
        .start()?;
    let durable = |pitrd: &mut Pitrd, cluster: &Cluster| -> Result<()> {
        let lsn = cluster.flush_position()?;
        pitrd.wait_for_metrics("everything to be durable", &seconds(), |metrics| {
            metrics.sum("pitr_durable_position").is_some_and(|at| at >= lsn.0 as f64)
        })
    };
    cluster.sql("CREATE TABLE t (n int)")?;
    durable(&mut pitrd, &cluster)?;
    pitrd.signal(Signal::INT)?;
    let status = pitrd.await_exit(&seconds())?;
    ensure!(status.code() == Some(0), "{status}: {}", pitrd.log());

    // A store that takes nothing any more: the first signal would wait for the last bytes.
    pitrd.start()?;
    pitrd.wait("the second start", &seconds(), |pitrd| {
        Ok(pitrd.log().matches("state=streaming").count() >= 2)
    })?;
    proxy.set(Behaviour::Blackhole);
    cluster.sql("INSERT INTO t SELECT generate_series(1, 1000)")?;
    pitrd.wait_for_metrics("unsaved bytes", &seconds(), |metrics| {
        metrics.sum("pitr_rpo_lag_seconds").is_some_and(|lag| lag > 1.0)
    })?;
    pitrd.signal(Signal::TERM)?;
    pitrd.wait("the first signal to be heard", &seconds(), |pitrd| {
        Ok(pitrd.log().matches("stopping: ").count() >= 2)
    })?;
    pitrd.signal(Signal::TERM)?;
    let status = pitrd.await_exit(&seconds())?;
    ensure!(status.code() == Some(INTERRUPTED), "{status}: {}", pitrd.log());

    // Nothing of it is lost.
    proxy.set(Behaviour::Pass);
    pitrd.start()?;
    durable(&mut pitrd, &cluster)
}

#[test]
fn once_says_when_it_was_stopped_before_it_was_done() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("stopped")?;
    let archive = folder.path().join("archive").display().to_string();
    let builder = || Pitrd::builder(&cluster.replication_url(), &archive).arg("--no-base");
    let mut first = builder().start()?;
    first.wait_for_log("state=streaming", &seconds())?;
    first.kill9()?;
    // With a spool of its own it must wait until the other has stood still.
    let mut once = builder().arg("--once").start()?;
    once.wait_for_log("waiting until it stands still", &seconds())?;
    once.signal(Signal::TERM)?;
    let status = once.await_exit(&seconds())?;
    ensure!(status.code() == Some(INTERRUPTED), "{status}: {}", once.log());
    let log = once.log();
    let told = log.lines().find(|line| line.starts_with("error ")).context("an error is told")?;
    ensure!(told.starts_with("error PITRD-I001: stopped before"), "{log}");
    // Its own writer's spool goes on at once, and to the end.
    let mut again = first;
    again.start()?;
    again.wait("the second start", &seconds(), |pitrd| {
        Ok(pitrd.log().matches("state=streaming").count() >= 2)
    })?;
    // Beside a running writer it only waits for that one.
    let mut beside = builder().arg("--once").start()?;
    let status = beside.await_exit(&seconds())?;
    ensure!(status.code() == Some(0), "{status}: {}", beside.log());
    Ok(())
}
