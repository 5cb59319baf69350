//! A network between sidecar and store that loses answers, cuts bodies, turns bits over, or is slow.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng;
use tests::archive::Archive;
use tests::mongod::ReplicaSet;
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::scope;
use tests::seaweed::Seaweed;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{self, Deadline};

use super::guarded::{Engine, Guarded};
use super::kills::await_flow;

fn behind(proxy: &TcpProxy, prefix: &str) -> Result<Archive> {
    let seaweed = Seaweed::shared()?;
    Ok(Archive::on_s3(seaweed, prefix).via(seaweed, proxy.port(), prefix))
}

fn counted(pitrd: &Pitrd, name: &str) -> Result<f64> {
    Ok(pitrd.metrics()?.sum(name).unwrap_or_default())
}

/// Until the proxy has done so many faults more.
fn await_faults(proxy: &TcpProxy, pitrd: &mut Pitrd, more: u64) -> Result<()> {
    let before = proxy.faults();
    pitrd.wait("the fault to happen", &Deadline::seconds(120), |_| {
        Ok(proxy.faults() >= before + more)
    })
}

fn lost_answers<E: Engine>(prefix: &str) -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let mut guarded = Guarded::<E>::start(behind(&proxy, prefix)?, |builder| builder)?;
    let load = guarded.server.load()?;
    // The control: where every answer comes, no put is in doubt.
    await_flow(&mut guarded.pitrd)?;
    let name = "pitr_put_ambiguous_total";
    ensure!(counted(&guarded.pitrd, name)? == 0.0, "in doubt without a fault");
    let rounds = scope::scale(5, 50);
    for _ in 0..rounds {
        guarded.note()?;
        await_flow(&mut guarded.pitrd)?;
        proxy.set(Behaviour::SwallowAnswer);
        await_faults(&proxy, &mut guarded.pitrd, 1)?;
        proxy.set(Behaviour::Pass);
    }
    await_flow(&mut guarded.pitrd)?;
    wait::until(&Deadline::seconds(120), "puts that were found done", || {
        Ok((counted(&guarded.pitrd, name)? >= 1.0).then_some(()))
    })?;
    drop(load);
    let doubts = counted(&guarded.pitrd, name)?;
    guarded.pass(&format!("{} answers lost, {doubts} puts found done", proxy.faults()))
}

#[test]
fn a_put_whose_answer_was_lost_is_found_done_and_counted() -> Result<()> {
    lost_answers::<Cluster>("lost-answers")
}

#[test]
fn a_lost_answer_costs_an_archived_oplog_nothing() -> Result<()> {
    lost_answers::<ReplicaSet>("lost-answers-oplog")
}

/// Each connection does this to what goes up, somewhere in the request.
fn in_the_body(prefix: &str, fault: fn(u64) -> Behaviour) -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let with = |codec: &'static str| {
        move |builder: tests::programs::PitrdBuilder| builder.args(["--compression", codec])
    };
    let mut guarded = Guarded::<Cluster>::start(behind(&proxy, prefix)?, with("none"))?;
    let load = guarded.server.load()?;
    for round in 0..scope::scale(6, 60) {
        guarded.note()?;
        await_flow(&mut guarded.pitrd)?;
        // Every connection is a new one, which has all of its bytes before it.
        proxy.set(Behaviour::Cut);
        await_faults(&proxy, &mut guarded.pitrd, 1)?;
        // Within a small tail's request, and deep in a sealed segment's.
        let most = if round % 2 == 0 { 20_000 } else { 1_000_000 };
        let before = proxy.faults();
        proxy.set(fault(rand::rng().random_range(0..most)));
        guarded.server.fill_log(3)?;
        guarded.pitrd.wait("the fault to happen", &Deadline::seconds(120), |_| {
            Ok(proxy.faults() > before)
        })?;
        proxy.set(Behaviour::Pass);
    }
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    let errors = counted(&guarded.pitrd, "pitr_store_errors_total")?;
    ensure!(errors > 0.0, "the sidecar saw no error");
    guarded.pass(&format!("{} faults, {errors} errors", proxy.faults()))
}

#[test]
fn a_body_that_is_cut_anywhere_leaves_no_short_object() -> Result<()> {
    in_the_body("cut-bodies", Behaviour::CutAfterUp)
}

#[test]
fn a_bit_that_flips_anywhere_on_its_way_up_is_never_acknowledged() -> Result<()> {
    in_the_body("flipped-bodies", Behaviour::FlipUp)
}

/// Tails that went up while so much of the load was done.
fn tails(guarded: &mut Guarded<Cluster>, uploads: f64) -> Result<f64> {
    let name = "pitr_upload_bytes_total";
    let count = "pitr_uploads_total";
    let before = (counted(&guarded.pitrd, count)?, counted(&guarded.pitrd, name)?);
    guarded.pitrd.wait("some uploads", &Deadline::seconds(300), |pitrd| {
        Ok(counted(pitrd, count)? >= before.0 + uploads)
    })?;
    let after = (counted(&guarded.pitrd, count)?, counted(&guarded.pitrd, name)?);
    Ok((after.1 - before.1) / (after.0 - before.0))
}

/// 1 Mbit/s and a round trip of two seconds: fewer and larger tails, and nothing is lost.
#[test]
fn a_slow_link_makes_larger_tails_and_loses_nothing() -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let archive = behind(&proxy, "slow-link")?;
    let mut guarded = Guarded::<Cluster>::start(archive, |builder| builder)?;
    let arguments = ["-c", "1", "-R", "20", "-T", "3600"];
    let load = guarded.server.pgbench_start_with("postgres", &arguments)?;
    await_flow(&mut guarded.pitrd)?;
    let quick = tails(&mut guarded, 20.0)?;
    guarded.note()?;
    proxy.set(Behaviour::Slow { latency: Duration::from_secs(2), rate: 125_000 });
    let slow = tails(&mut guarded, scope::scale(4.0, 60.0))?;
    guarded.note()?;
    ensure!(proxy.faults() > 0, "nothing was slow");
    ensure!(slow > quick * 2.0, "an upload has {slow} bytes over a slow link, {quick} before");
    proxy.set(Behaviour::Pass);
    guarded.pitrd.wait(
        "a lag under 5 s",
        &Deadline::seconds(50),
        |pitrd| Ok(pitrd.lag()? < 5.0),
    )?;
    load.stop()?;
    guarded.pass(&format!("{quick:.0} bytes an upload, {slow:.0} over a slow link"))
}
