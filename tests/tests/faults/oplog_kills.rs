//! `kill -9` of a sidecar that follows a replica set, and of the set's own members beside it.

use anyhow::{Result, ensure};
use tests::archive::Archive;
use tests::mongod::{Load, ReplicaSet};
use tests::scope;
use tests::wait::Deadline;

use super::kills::{await_flow, kill_at_random};
use crate::flow::oplog_capture::{await_archived, more, pitrd};

#[test]
fn nothing_of_an_oplog_is_lost_by_kills_at_random_moments() -> Result<()> {
    let set = ReplicaSet::single()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = pitrd(&set.url(), &archive).args(["--flush", "100ms"]).start()?;
    let load = Load::start(&set, 2)?;
    let kills = scope::scale(10, 30);
    kill_at_random(&mut pitrd, kills)?;
    load.stop();
    let archived = await_archived(&set, &archive)?;
    let found = archived.assert_is_of(set.primary()?)?;
    ensure!(archived.gaps == 0, "{} gaps", archived.gaps);
    println!("{kills} kills: {found}");
    Ok(())
}

#[test]
fn a_spool_that_is_lost_with_the_machine_costs_an_archived_oplog_nothing() -> Result<()> {
    let set = ReplicaSet::single()?;
    let archive = Archive::in_folder()?;
    let mut pitrd =
        pitrd(&set.url(), &archive).args(["--flush", "100ms", "--take-over"]).start()?;
    // What tells that the archive's writer was we is lost with the spool.
    let load = Load::start(&set, 2)?;
    for _ in 0..scope::scale(3, 15) {
        await_flow(&mut pitrd)?;
        pitrd.kill9()?;
        for entry in std::fs::read_dir(pitrd.spool()?)? {
            std::fs::remove_file(entry?.path())?;
        }
        pitrd.start()?;
    }
    await_flow(&mut pitrd)?;
    load.stop();
    let archived = await_archived(&set, &archive)?;
    archived.assert_is_of(set.primary()?)?;
    ensure!(archived.gaps == 0, "{} gaps", archived.gaps);
    Ok(())
}

#[test]
fn elections_and_deaths_of_members_leave_no_hole_in_the_archive() -> Result<()> {
    let set = ReplicaSet::three()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = pitrd(&set.url(), &archive).start()?;
    let load = Load::start(&set, 2)?;
    for round in 0..scope::scale(1, 8) {
        await_flow(&mut pitrd)?;
        set.step_down()?;
        more(&load, 50)?;
        let victim = set.primary()?;
        victim.kill9()?;
        more(&load, 50)?;
        if round % 2 == 0 {
            pitrd.kill9()?;
            pitrd.start()?;
        }
        victim.start()?;
        set.await_members(&Deadline::seconds(120))?;
    }
    load.stop();
    let archived = await_archived(&set, &archive)?;
    let found = archived.assert_is_of(set.primary()?)?;
    ensure!(archived.gaps == 0, "{} gaps", archived.gaps);
    println!("{found}");
    Ok(())
}
