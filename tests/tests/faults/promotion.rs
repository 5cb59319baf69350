//! Promotions: under load, one after the other, while the sidecar was away, and below what it has.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use proto::postgres::lsn::Timeline;
use tests::archive::Archive;
use tests::postgres::{Cluster, Stop};
use tests::programs::Pitrd;
use tests::scope;
use tests::seaweed::Seaweed;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{self, Deadline};

use crate::flow::protected::{Place, Protected};

/// Both hosts in one URL, as libpq takes them.
pub(super) fn hosts(first: &Cluster, second: &Cluster) -> String {
    let (one, two) = (first.port(), second.port());
    format!("postgresql://postgres@127.0.0.1:{one},127.0.0.1:{two}/postgres")
}

pub(super) fn primary(version: u32, segment_mb: u32) -> Result<Cluster> {
    let builder = Cluster::builder(version).segment_mb(segment_mb);
    builder.conf("wal_keep_size", "4GB").conf("wal_level", "replica").start()
}

/// Ends recovery of a server that was its own standby: the shortest way to a new timeline.
fn promote_itself(cluster: &Cluster) -> Result<()> {
    cluster.stop(Stop::Fast)?;
    std::fs::write(cluster.data().join("standby.signal"), "")?;
    tests::user::hand_over(&cluster.data().join("standby.signal"))?;
    cluster.start()?;
    cluster.promote()
}

pub(super) fn await_timeline(pitrd: &mut Pitrd, timeline: u32) -> Result<()> {
    let what = format!("timeline {timeline} in the archive");
    pitrd.wait_for_metrics(&what, &Deadline::seconds(120), |metrics| {
        metrics.sum("pitr_epoch") == Some(f64::from(timeline))
    })
}

/// Every timeline's history stands in the archive, raw, and came before its first segment; a partial
/// segment is nowhere under the plain name.
pub(super) fn assert_timelines(
    archive: &Archive,
    cluster: &Cluster,
    newest: u32,
) -> Result<String> {
    let log = archive.log()?;
    let found = log.assert_unbroken()?;
    ensure!(log.timelines().last() == Some(&Timeline(newest)), "{:?}", log.timelines());
    for timeline in log.timelines().into_iter().filter(|timeline| timeline.0 > 1) {
        let history =
            log.histories.get(&timeline).with_context(|| format!("history of {timeline}"))?;
        let file = cluster.wal_dir().join(format!("{:08X}.history", timeline.0));
        if file.exists() {
            ensure!(std::fs::read(&file)? == history.raw, "the history of {timeline} differs");
        }
    }
    for (timeline, history) in &log.histories {
        let branch = history.branch().context("a parent")?;
        let number = log.size.segment_of(branch.at);
        let id = proto::postgres::lsn::SegmentId { timeline: branch.parent, number };
        let inside = log.size.offset_in(branch.at) > 0 && log.first(branch.parent).is_some();
        ensure!(
            !inside || log.partial.contains_key(&id) || log.sealed.contains_key(&id),
            "{} before timeline {timeline} was not sealed",
            id.name(log.size)
        );
    }
    for id in log.partial.keys() {
        let name = id.name(log.size);
        ensure!(!log.sealed.contains_key(id), "{name} is partial and sealed");
    }
    Ok(found)
}

/// In a folder the order of creation can be seen.
fn assert_history_came_first(archive: &Path, timeline: u32) -> Result<()> {
    let lineage = archive.join("lineage/1");
    let history = lineage.join(format!("epochs/{timeline:08X}.history"));
    let history = std::fs::metadata(&history)?.modified()?;
    let mut folders = vec![lineage.join("tail"), lineage.join(format!("log/{timeline:08X}"))];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let text = path.display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if text.contains(&format!("/{timeline:08X}0")) {
                let made = entry.metadata()?.modified()?;
                ensure!(made >= history, "{text} is older than its timeline's history");
                seen += 1;
            }
        }
    }
    ensure!(seen > 0, "nothing of timeline {timeline} was looked at");
    Ok(())
}

fn a_promotion_under_load(version: u32, place: Place) -> Result<()> {
    let primary = primary(version, 1)?;
    primary.pgbench_init("postgres", 1)?;
    let standby = primary.standby()?;
    let url = hosts(&primary, &standby);
    let mut protected = Protected::around_at(primary, &url, place, &["--flush", "200ms"])?;
    protected.await_base()?;
    let load = protected.cluster.pgbench_start("postgres", 2)?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    protected.await_everything()?;
    protected.cluster.kill9()?;
    drop(load);
    standby.promote()?;
    let load = standby.pgbench_start("postgres", 2)?;
    await_timeline(&mut protected.pitrd, 2)?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    load.stop()?;
    let moment = standby.record("postgres")?;
    protected.pitrd.wait_caught_up(&standby)?;
    let archive = match place {
        Place::Folder => Archive::at(protected.archive.as_ref()),
        Place::S3 => {
            let name = protected.folder.path().file_name().context("a name")?;
            Archive::on_s3(Seaweed::shared()?, &name.to_string_lossy())
        }
    };
    let found = assert_timelines(&archive, &standby, 2)?;
    let files = archive.log()?.assert_equals_files(&standby.wal_dir())?;
    if place == Place::Folder {
        assert_history_came_first(protected.archive.as_ref(), 2)?;
    }
    let slot = standby.slot_restart("pitr")?.context("the slot on the new primary")?;
    let (_, held) = archive.end()?;
    ensure!(slot <= held, "the slot is at {slot}, the archive ends at {held}");
    println!("PostgreSQL {version} {place:?}, promoted under load: {found}; {files} files equal");
    ensure!(protected.pitrd.sigterm(&Deadline::seconds(60))?.success(), "the end");
    let restored = protected.restore("latest", &["--latest"])?;
    protected.assert_restored(&restored, &moment)
}

#[test]
fn a_promotion_under_load_is_followed_without_a_hole() -> Result<()> {
    for version in scope::postgres_versions() {
        a_promotion_under_load(version, Place::Folder)?;
    }
    Ok(())
}

#[test]
fn a_promotion_under_load_is_followed_on_s3() -> Result<()> {
    a_promotion_under_load(scope::newest_postgres(), Place::S3)
}

/// The next timeline is what the server says: numbers are skipped while we are away, and the tenth
/// is 0x0A.
#[test]
fn many_promotions_in_a_row_are_followed_also_those_that_were_missed() -> Result<()> {
    let cluster = primary(scope::newest_postgres(), 1)?;
    let archive = Archive::in_folder()?;
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "100ms"])
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    let mut timeline = 1;
    for round in 0..5 {
        let away = round % 2 == 1;
        if away {
            pitrd.wait_caught_up(&cluster)?;
            pitrd.kill9()?;
        }
        for _ in 0..if away { 3 } else { 2 } {
            cluster.add_rows(2000)?;
            promote_itself(&cluster)?;
            timeline += 1;
            cluster.add_rows(2000)?;
        }
        if away {
            pitrd.start()?;
        }
        await_timeline(&mut pitrd, timeline)?;
    }
    let end = pitrd.wait_caught_up(&cluster)?;
    ensure!(timeline >= 0x0B, "{timeline}");
    let found = assert_timelines(&archive, &cluster, timeline)?;
    let log = archive.log()?;
    let files = log.assert_equals_files(&cluster.wal_dir())?;
    ensure!(log.gaps().is_empty(), "a gap");
    println!("{timeline} timelines up to {end}: {found}; {files} files equal");
    Ok(())
}

/// A standby that never had the last segments is promoted: the archive holds more of the old timeline
/// than the new one continues, and goes on from the branch.
fn a_promotion_below(
    lost_mb: u32,
    arguments: &[&str],
) -> Result<(Archive, Pitrd, Cluster, Cluster)> {
    let primary = primary(scope::newest_postgres(), 1)?;
    primary.pgbench_init("postgres", 1)?;
    let standby = primary.standby()?;
    let proxy = TcpProxy::start(primary.port())?;
    standby.sql(&format!(
        "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 user=postgres port={}'",
        proxy.port()
    ))?;
    standby.reload()?;
    wait::until(&Deadline::seconds(60), "the standby to come through the proxy", || {
        Ok((proxy.connections() > 0).then_some(()))
    })?;
    standby.await_streaming()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = Pitrd::builder(&hosts(&primary, &standby), archive.url())
        .args(
            if arguments.contains(&"--flush") { &[][..] } else { &["--flush", "100ms"][..] }
                .iter()
                .copied(),
        )
        .args(["--no-base"])
        .args(arguments.iter().copied())
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    primary.add_rows(1000)?;
    standby.await_replay_of(&primary)?;
    proxy.set(Behaviour::Cut);
    primary.fill_log(lost_mb)?;
    primary.add_rows(1000)?;
    pitrd.wait_caught_up(&primary)?;
    ensure!(proxy.faults() > 0, "the standby was not cut off");
    primary.kill9()?;
    standby.promote()?;
    standby.add_rows(10)?;
    Ok((archive, pitrd, primary, standby))
}

#[test]
fn a_promotion_below_what_is_archived_goes_on_from_the_branch() -> Result<()> {
    for lost in [0, 5] {
        let (archive, mut pitrd, _old, standby) = a_promotion_below(lost, &[])?;
        await_timeline(&mut pitrd, 2)?;
        standby.fill_log(2)?;
        let end = pitrd.wait_caught_up(&standby)?;
        let found = assert_timelines(&archive, &standby, 2)?;
        let log = archive.log()?;
        let files = log.assert_equals_files(&standby.wal_dir());
        // The old timeline's own bytes beyond the branch differ from the new primary's leftovers.
        println!("{lost} MB lost, end {end}: {found}; {files:?}");
        ensure!(log.end_of(Timeline(1))? > log.histories[&Timeline(2)].entries[0].at, "no rewind");
        // And what was written is found again after a restart.
        pitrd.kill9()?;
        pitrd.start()?;
        standby.add_rows(10)?;
        pitrd.wait_caught_up(&standby)?;
        assert_timelines(&archive, &standby, 2)?;
    }
    Ok(())
}

#[test]
fn a_promotion_far_below_what_is_archived_is_refused_until_it_is_accepted() -> Result<()> {
    let (archive, mut pitrd, _old, standby) = a_promotion_below(70, &[])?;
    let status = pitrd.await_exit(&Deadline::seconds(120))?;
    ensure!(status.code() == Some(6), "{status:?}:\n{}", pitrd.log());
    ensure!(pitrd.log().contains("--accept-timeline 2"), "{}", pitrd.log());
    ensure!(archive.log()?.timelines() == [Timeline(1)], "something of timeline 2 was written");
    let spool = pitrd.spool()?.display().to_string();
    let mut accepted = Pitrd::builder(&standby.replication_url(), archive.url())
        .args(["--no-base", "--accept-timeline", "2", "--spool", &spool])
        .start()?;
    await_timeline(&mut accepted, 2)?;
    accepted.wait_caught_up(&standby)?;
    println!("accepted: {}", assert_timelines(&archive, &standby, 2)?);
    Ok(())
}

/// Killed when the old timeline's last segment is sealed and nothing of the new one is stored yet: the
/// sealed one holds more than the new primary ever had, and more than the tails.
#[test]
fn a_kill_between_two_timelines_loses_nothing() -> Result<()> {
    for keep_spool in [true, false] {
        // Tails of the new timeline do not come before the kill.
        let (archive, mut pitrd, _old, standby) = a_promotion_below(0, &["--flush", "4s"])?;
        pitrd.wait("the partial segment", &Deadline::seconds(120), |_| {
            Ok(archive.keys("lineage/1/log/")?.iter().any(|key| key.ends_with(".partial.zst")))
        })?;
        pitrd.kill9()?;
        let held = archive.log()?;
        ensure!(held.timelines() == [Timeline(1)], "{:?}", held.timelines());
        if !keep_spool {
            std::fs::remove_dir_all(pitrd.spool()?)?;
        }
        let spool = pitrd.spool()?.display().to_string();
        let mut again = Pitrd::builder(&standby.replication_url(), archive.url())
            .args(["--no-base", "--flush", "100ms", "--take-over", "--spool", &spool])
            .start()?;
        await_timeline(&mut again, 2)?;
        standby.add_rows(10)?;
        again.wait_caught_up(&standby)?;
        let found = assert_timelines(&archive, &standby, 2)?;
        println!("spool kept: {keep_spool}: {found}");
    }
    Ok(())
}

/// Beside a standby it waits; it begins when that is promoted.
#[test]
fn beside_a_standby_it_waits_until_that_is_the_primary() -> Result<()> {
    let primary = primary(scope::newest_postgres(), 1)?;
    primary.add_rows(10)?;
    let standby = primary.standby()?;
    let archive = Archive::in_folder()?;
    let mut pitrd = Pitrd::builder(&standby.replication_url(), archive.url())
        .args(["--no-base", "--flush", "100ms"])
        .start()?;
    pitrd.wait_for_log("not a primary", &Deadline::seconds(60))?;
    pitrd.wait_state("waiting", &Deadline::seconds(60))?;
    ensure!(!Path::new(archive.url()).exists(), "something was written beside a standby");
    primary.stop(Stop::Fast)?;
    standby.promote()?;
    standby.add_rows(10)?;
    pitrd.wait_caught_up(&standby)?;
    println!("{}", archive.log()?.assert_unbroken()?);
    Ok(())
}
