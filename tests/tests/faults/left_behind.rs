//! Timelines that are not the archive's: an old primary that comes back, and another copy's future.

use anyhow::{Context, Result, ensure};
use proto::postgres::lsn::Timeline;
use tests::archive::Archive;
use tests::postgres::{Cluster, Stop};
use tests::programs::Pitrd;
use tests::scope;
use tests::wait::Deadline;

use super::promotion::{assert_timelines, await_timeline, hosts, primary};

/// However often the connection is lost, and after a restart: the first host answers, is a primary,
/// and is passed by.
#[test]
fn an_old_primary_that_comes_back_as_the_first_host_is_not_followed() -> Result<()> {
    let old = primary(scope::newest_postgres(), 1)?;
    let standby = old.standby()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = Pitrd::builder(&hosts(&old, &standby), archive.url())
        .args(["--no-base", "--flush", "100ms"])
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    old.add_rows(1000)?;
    standby.await_replay_of(&old)?;
    pitrd.wait_caught_up(&old)?;
    old.kill9()?;
    standby.promote()?;
    standby.add_rows(1000)?;
    await_timeline(&mut pitrd, 2)?;
    pitrd.wait_caught_up(&standby)?;
    let left_at = archive.log()?.end_of(Timeline(1))?;
    old.start()?;
    old.add_rows(1000)?;
    ensure!(old.value("postgres", "SELECT pg_is_in_recovery()")? == "f", "it is no primary");
    for round in ["cut off", "restarted"] {
        if round == "restarted" {
            pitrd.kill9()?;
            pitrd.start()?;
        } else {
            standby.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")?;
        }
        standby.add_rows(1000)?;
        pitrd.wait_caught_up(&standby).with_context(|| round.to_owned())?;
        ensure!(pitrd.is_running(), "{round}: it ended: {}", pitrd.log());
    }
    let found = assert_timelines(&archive, &standby, 2)?;
    ensure!(archive.log()?.end_of(Timeline(1))? == left_at, "the old primary was followed");
    archive.log()?.assert_equals_files(&standby.wal_dir())?;
    println!("the old primary at {} was passed by: {found}", old.flush_position()?);
    Ok(())
}

/// Two copies of one cluster, each promoted by itself: both are on timeline 2, and only one of them
/// is the archive's.
#[test]
fn the_same_timeline_number_with_another_history_is_refused() -> Result<()> {
    let first = primary(scope::newest_postgres(), 1)?;
    let (ours, other) = (first.standby()?, first.standby()?);
    let archive = Archive::in_folder()?;
    let mut pitrd = Pitrd::builder(&hosts(&first, &ours), archive.url())
        .args(["--no-base", "--flush", "100ms"])
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    first.add_rows(100)?;
    other.await_replay_of(&first)?;
    other.stop(Stop::Fast)?;
    first.add_rows(100)?;
    ours.await_replay_of(&first)?;
    pitrd.wait_caught_up(&first)?;
    first.kill9()?;
    ours.promote()?;
    ours.add_rows(100)?;
    await_timeline(&mut pitrd, 2)?;
    pitrd.wait_caught_up(&ours)?;
    ensure!(pitrd.sigterm(&Deadline::seconds(60))?.success(), "the end");
    other.start()?;
    other.promote()?;
    other.add_rows(100)?;
    let history = |cluster: &Cluster| std::fs::read(cluster.wal_dir().join("00000002.history"));
    ensure!(history(&ours)? != history(&other)?, "they branched at the same place");
    let before = archive.keys("")?;
    let mut wrong = Pitrd::builder(&other.replication_url(), archive.url())
        .args(["--no-base", "--take-over"])
        .start()?;
    let status = wrong.await_exit(&Deadline::seconds(120))?;
    let log = wrong.log();
    ensure!(status.code() == Some(6) && log.contains("error PITRD-W002"), "{status}:\n{log}");
    ensure!(log.contains("--new-lineage"), "the way out is not named: {log}");
    ensure!(archive.keys("")? == before, "something was written");
    let slots = other.value("postgres", "SELECT count(*) FROM pg_replication_slots")?;
    ensure!(slots == "0", "a slot was left behind");
    // The archive's own goes on.
    let mut again = Pitrd::builder(&ours.replication_url(), archive.url())
        .args(["--no-base", "--flush", "100ms", "--take-over"])
        .start()?;
    ours.add_rows(100)?;
    again.wait_caught_up(&ours)?;
    println!("{log}\n{}", assert_timelines(&archive, &ours, 2)?);
    Ok(())
}
