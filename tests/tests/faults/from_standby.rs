//! Streaming from a standby of a standby: the primary is not touched, and nothing is missing.

use anyhow::{Result, ensure};
use tests::archive::Archive;
use tests::gate::Gate;
use tests::programs::wait_for_status;
use tests::scope;
use tests::wait::Deadline;

use super::members::{await_base, sidecar};
use super::promotion::primary;

#[test]
fn what_is_streamed_from_a_cascading_standby_is_the_primarys_log_and_is_restored() -> Result<()> {
    let primary = primary(scope::newest_postgres(), 1)?;
    primary.pgbench_init("postgres", 1)?;
    let between = primary.standby()?;
    let last = between.standby()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = sidecar(&last, &archive, &["--from-standby"])?;
    await_base(&archive)?;
    let load = primary.pgbench_start("postgres", 2)?;
    let mut gate = Gate::new();
    for _ in 0..3 {
        primary.fill_log(2)?;
        gate.note(&primary)?;
    }
    load.stop()?;
    primary.add_rows(10)?;
    gate.note(&primary)?;
    let target = primary.flush_position()?;
    last.await_replay_of(&primary)?;
    pitrd.wait_durable_within(target, &Deadline::seconds(120))?;
    for cluster in [&primary, &between] {
        let slots = cluster.value("postgres", "SELECT count(*) FROM pg_replication_slots")?;
        ensure!(slots == "0", "a slot was made elsewhere");
    }
    ensure!(last.value("postgres", "SELECT pg_is_in_recovery()")? == "t", "it is no standby");
    let log = archive.log()?;
    println!("{}; {} files", log.assert_unbroken()?, log.assert_equals_files(&primary.wal_dir())?);
    let status =
        wait_for_status(archive.url(), &[], "a window", &Deadline::seconds(60), |status| {
            status["windows"].as_array().is_some_and(|windows| windows.len() == 1)
        })?;
    ensure!(status["gaps"].as_array().is_none_or(Vec::is_empty), "{status}");
    gate.pass(&primary, &archive).map(drop)
}
