//! A sidecar that stands still while another one takes over, and then goes on as if nothing had
//! happened: it writes over nothing, and waits.

use anyhow::{Context, Result, ensure};
use tests::archive::Archive;
use tests::gate::Gate;
use tests::mongod::Load;
use tests::process::Signal;
use tests::programs::Pitrd;
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::{self, Deadline};

use super::kills::await_flow;
use super::members::{await_base, forgetful};
use super::oplog_writers::{self, assert_nothing_was_written_over, fences, objects, writers};
use crate::flow::oplog_capture::more;

/// Stops it where it is, in the middle of its work.
fn freeze(pitrd: &Pitrd) -> Result<()> {
    pitrd.signal(Signal::STOP)?;
    let stat = format!("/proc/{}/stat", pitrd.pid()?);
    wait::until(&Deadline::seconds(10), "the process to stand still", || {
        let text = std::fs::read_to_string(&stat)?;
        let state = text.rsplit_once(')').context("a state")?.1.trim_start().to_owned();
        Ok(state.starts_with('T').then_some(()))
    })
}

/// It has met the newer writer, waits, and has not begun anew.
fn assert_stands_back(pitrd: &mut Pitrd, archive: &Archive) -> Result<()> {
    pitrd.wait_state("fenced", &Deadline::seconds(120))?;
    ensure!(pitrd.log().contains("has taken over"), "{}", pitrd.log());
    ensure!(pitrd.log().matches("continuing").count() == 1, "{}", pitrd.log());
    ensure!(pitrd.is_running(), "a fenced one waits");
    ensure!(writers(archive)? == 2, "{} writers", writers(archive)?);
    Ok(())
}

#[test]
fn a_frozen_sidecar_that_wakes_behind_its_successor_writes_over_nothing() -> Result<()> {
    for s3 in [false, true] {
        // The successor needs the slot, and the server lets go of a client that is silent.
        let cluster = forgetful(scope::newest_postgres()).conf("wal_sender_timeout", "3s");
        let cluster = cluster.conf("wal_keep_size", "1GB").start()?;
        cluster.pgbench_init("postgres", 1)?;
        let archive = match s3 {
            true => Archive::on_s3(Seaweed::shared()?, "frozen"),
            false => Archive::in_folder()?,
        };
        let start = |more: &[&str]| super::members::sidecar(&cluster, &archive, more);
        let mut first = start(&[])?;
        await_base(&archive)?;
        let load = cluster.pgbench_start("postgres", 2)?;
        let mut gate = Gate::new();
        gate.note(&cluster)?;
        await_flow(&mut first)?;
        freeze(&first)?;
        let before = objects(&archive)?;
        let mut second = start(&["--take-over"])?;
        second.wait_state("streaming", &Deadline::seconds(120))?;
        await_flow(&mut second)?;
        gate.note(&cluster)?;
        let between = objects(&archive)?;
        first.signal(Signal::CONT)?;
        assert_stands_back(&mut first, &archive)?;
        gate.note(&cluster)?;
        load.stop()?;
        second.wait_caught_up(&cluster)?;
        for seen in [&before, &between] {
            assert_nothing_was_written_over(seen, &archive)?;
        }
        let log = archive.log()?;
        ensure!(log.gaps().is_empty(), "a gap");
        println!("{}; {}", log.assert_unbroken()?, log.assert_equals_files(&cluster.wal_dir())?);
        gate.pass(&cluster, &archive)?;
    }
    Ok(())
}

#[test]
fn a_frozen_sidecar_of_a_set_that_wakes_behind_its_successor_writes_over_nothing() -> Result<()> {
    let (set, archive) = (oplog_writers::source()?, Archive::in_folder()?);
    let load = Load::start(&set, 2)?;
    let mut first = oplog_writers::protected(&set, &archive)?;
    await_flow(&mut first)?;
    let mut gate = Gate::new();
    gate.note(&set)?;
    freeze(&first)?;
    let before = objects(&archive)?;
    let mut second = oplog_writers::sidecar(&set, &archive, &["--take-over"])?;
    second.wait_state("streaming", &Deadline::seconds(120))?;
    more(&load, 200)?;
    await_flow(&mut second)?;
    gate.note(&set)?;
    let between = objects(&archive)?;
    first.signal(Signal::CONT)?;
    assert_stands_back(&mut first, &archive)?;
    more(&load, 200)?;
    gate.note(&set)?;
    ensure!(load.stop().failed == 0, "the load has ended");
    for seen in [&before, &between] {
        assert_nothing_was_written_over(seen, &archive)?;
    }
    ensure!(fences(&archive)? >= 1, "no fence");
    gate.pass(&set, &archive).map(drop)
}
