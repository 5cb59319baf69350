//! Whose archive it is: other clusters, copies, and two sidecars at once.

use anyhow::{Context, Result, ensure};
use proto::archive::ledger::Event;
use tests::archive::Archive;
use tests::postgres::Cluster;
use tests::programs::{self, Pitrd};
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::Deadline;

fn cluster() -> Result<Cluster> {
    let version = scope::newest_postgres();
    Cluster::builder(version).segment_mb(1).conf("wal_keep_size", "1GB").start()
}

fn assert_whole(what: &str, cluster: &Cluster, archive: &Archive) -> Result<()> {
    let log = archive.log()?;
    let found = log.assert_unbroken()?;
    let files = log.assert_equals_files(&cluster.wal_dir())?;
    println!("{what}: {found}; {files} files equal the server's");
    Ok(())
}

#[test]
fn another_clusters_archive_is_refused_and_nothing_is_written() -> Result<()> {
    let (ours, other) = (cluster()?, cluster()?);
    let archive = Archive::in_folder()?;
    let mut pitrd =
        Pitrd::builder(&ours.replication_url(), archive.url()).args(["--no-base"]).start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    pitrd.wait_caught_up(&ours)?;
    ensure!(pitrd.sigterm(&Deadline::seconds(60))?.success(), "the end");
    let before = archive.keys("")?;
    let mut wrong =
        Pitrd::builder(&other.replication_url(), archive.url()).args(["--no-base"]).start()?;
    let status = wrong.await_exit(&Deadline::seconds(60))?;
    let log = wrong.log();
    ensure!(status.code() == Some(6), "{status:?}:\n{log}");
    ensure!(log.matches("error PITRD-").count() == 1 && log.contains("next:"), "{log}");
    ensure!(archive.keys("")? == before, "something was written");
    let slots = other.value("postgres", "SELECT count(*) FROM pg_replication_slots")?;
    ensure!(slots == "0", "a slot was left on the other cluster");
    println!("{log}");
    Ok(())
}

/// A copy of the files has the same identifier and timeline, and soon other bytes.
fn clone_of(ours: &Cluster) -> Result<Cluster> {
    let clone = ours.clone_with(Cluster::builder(ours.major()))?;
    std::fs::remove_file(clone.data().join("standby.signal"))?;
    clone.start()?;
    ensure!(clone.system_identifier()? == ours.system_identifier()?, "no clone");
    Ok(clone)
}

fn writers(archive: &Archive) -> Result<usize> {
    let is_writer = |event: &Event| matches!(event, Event::Writer { .. });
    Ok(archive.ledger()?.iter().filter(|event| is_writer(event)).count())
}

#[test]
fn a_clone_is_refused_before_it_writes_and_the_original_never_notices() -> Result<()> {
    let archive = Archive::in_folder()?;
    let (ours, mut pitrd) = two(&archive)?;
    let clone = clone_of(&ours)?;
    ours.fill_log(2)?;
    pitrd.wait_caught_up(&ours)?;
    let before = writers(&archive)?;
    // Its log ends before what is archived: that alone tells.
    let mut behind = Pitrd::builder(&clone.replication_url(), archive.url())
        .args(["--no-base", "--take-over"])
        .start()?;
    let status = behind.await_exit(&Deadline::seconds(60))?;
    ensure!(status.code() == Some(6), "{status:?}:\n{}", behind.log());
    ensure!(behind.log().contains("is archived up to"), "{}", behind.log());
    clone.fill_log(3)?;
    // Also where it is the only one that is asked: not even a sidecar that is in a hurry.
    for more in [&["--take-over"][..], &["--once"], &[]] {
        let mut wrong = Pitrd::builder(&clone.replication_url(), archive.url())
            .args(["--no-base"])
            .args(more.iter().copied())
            .start()?;
        let status = wrong.await_exit(&Deadline::seconds(60))?;
        ensure!(status.code() == Some(6), "{more:?}: {status:?}:\n{}", wrong.log());
        ensure!(wrong.log().contains("differs"), "{}", wrong.log());
    }
    let base = programs::pitrd(&[
        "base",
        "--source",
        &clone.replication_url(),
        "--archive",
        archive.url(),
    ])?;
    base.code_is(6)?;
    ensure!(archive.keys("lineage/1/base/")?.is_empty(), "a clone's base");
    ensure!(writers(&archive)? == before, "a clone took a writer epoch");
    ours.add_rows(100)?;
    pitrd.wait_caught_up(&ours)?;
    ensure!(!pitrd.log().contains("fenced"), "{}", pitrd.log());
    ensure!(pitrd.log().matches("continuing").count() == 1, "{}", pitrd.log());
    assert_whole("beside a clone", &ours, &archive)
}

fn two(archive: &Archive) -> Result<(Cluster, Pitrd)> {
    let cluster = cluster()?;
    let mut first = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "100ms"])
        .envs(archive.environment())
        .start()?;
    first.wait_state("streaming", &Deadline::seconds(60))?;
    cluster.add_rows(100)?;
    first.wait_caught_up(&cluster)?;
    Ok((cluster, first))
}

#[test]
fn a_second_sidecar_waits_beside_a_living_one() -> Result<()> {
    let archive = Archive::in_folder()?;
    let (cluster, mut first) = two(&archive)?;
    let mut second =
        Pitrd::builder(&cluster.replication_url(), archive.url()).args(["--no-base"]).start()?;
    second.wait_for_log("another sidecar wrote this archive", &Deadline::seconds(60))?;
    second.wait_state("waiting", &Deadline::seconds(60))?;
    // Longer than a dead writer is given; the database is idle.
    std::thread::sleep(std::time::Duration::from_secs(40));
    let said = second.log();
    ensure!(!said.contains("continuing"), "it took over from a living one:\n{said}");
    ensure!(!first.log().contains("fenced"), "{}", first.log());
    cluster.add_rows(10)?;
    first.wait_caught_up(&cluster)?;
    first.kill9()?;
    second.wait_for_log("continuing", &Deadline::seconds(400))?;
    cluster.add_rows(10)?;
    second.wait_caught_up(&cluster)?;
    assert_whole("after the first was gone", &cluster, &archive)
}

#[test]
fn whoever_takes_over_fences_the_one_before() -> Result<()> {
    let seaweed = Seaweed::shared()?;
    let archive = Archive::on_s3(seaweed, "fenced");
    let (cluster, mut first) = two(&archive)?;
    let load =
        cluster.pgbench_init("postgres", 1).and_then(|()| cluster.pgbench_start("postgres", 1))?;
    let mut second = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "100ms", "--take-over"])
        .envs(archive.environment())
        .start()?;
    first.wait_for_log("fenced", &Deadline::seconds(60))?;
    first.wait_for_log("another sidecar wrote this archive", &Deadline::seconds(60))?;
    second.wait_state("streaming", &Deadline::seconds(60))?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    load.stop()?;
    second.wait_caught_up(&cluster)?;
    ensure!(first.is_running(), "a fenced one waits");
    first.wait_state("fenced", &Deadline::seconds(60))?;
    ensure!(first.log().matches("continuing").count() == 1, "{}", first.log());
    let log = archive.log()?;
    let fences = log.chains.values().flat_map(|chain| &chain.links);
    let fences = fences.filter(|link| link.header.kind == proto::segment::TailKind::Fence).count();
    ensure!(fences >= 2, "{fences} fences");
    assert_whole("after a takeover", &cluster, &archive)
}

#[test]
fn once_makes_durable_what_the_server_has_and_joins_a_running_writer() -> Result<()> {
    let archive = Archive::in_folder()?;
    let cluster = cluster()?;
    let once = |more: &[&str]| {
        let spool = cluster.scratch("once")?.display().to_string();
        let url = cluster.replication_url();
        let mut all =
            vec!["run", "--once", "--no-base", "--source", &url, "--archive", archive.url()];
        all.extend(["--spool", &spool]);
        all.extend(more);
        programs::pitrd(&all)
    };
    for _ in 0..2 {
        let target = cluster.add_rows(5000)?;
        once(&[])?.ok()?;
        let (_, end) = archive.end()?;
        ensure!(end >= target, "{end} of {target}");
        assert_whole("once", &cluster, &archive)?;
    }
    let mut running = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--take-over"])
        .start()?;
    running.wait_state("streaming", &Deadline::seconds(60))?;
    let target = cluster.add_rows(5000)?;
    let joined = once(&[])?.ok()?;
    let (_, end) = archive.end()?;
    ensure!(end >= target, "{end} of {target}");
    ensure!(joined.stderr.contains("another writer"), "{}", joined.stderr);
    ensure!(!running.log().contains("fenced"), "{}", running.log());
    let writers = writers(&archive)?;
    ensure!(writers == 3, "{writers} writers");
    running.wait_caught_up(&cluster).context("the running one")?;
    Ok(())
}

/// What is told of an archive never stops what goes into it.
#[test]
fn a_damaged_ledger_entry_is_named_and_stops_nothing() -> Result<()> {
    let archive = Archive::in_folder()?;
    let (cluster, mut first) = two(&archive)?;
    ensure!(first.sigterm(&Deadline::seconds(60))?.success(), "the end");
    let entries = archive.keys("lineage/1/ledger/")?;
    let harmed = entries.last().context("a ledger")?;
    std::fs::write(std::path::Path::new(archive.url()).join(harmed), b"{ \"version\": 1, \"s")?;
    let mut next = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "100ms", "--take-over"])
        .start()?;
    next.wait_for_log(harmed, &Deadline::seconds(60))?;
    cluster.add_rows(100)?;
    next.wait_caught_up(&cluster)?;
    ensure!(archive.get(harmed)? == b"{ \"version\": 1, \"s", "it was written over");
    ensure!(archive.keys("lineage/1/ledger/")?.len() > entries.len(), "nothing was added");
    let verified = programs::pitr(&["verify", "--archive", archive.url()])?.code_is(9)?;
    ensure!(verified.stdout.contains(harmed.as_str()), "{}", verified.stdout);
    let status = programs::pitr(&["status", "--archive", archive.url()])?;
    ensure!(status.stdout.contains(harmed.as_str()), "{}", status.stdout);
    Ok(())
}

/// The flag may stand in a unit that is started again and again.
#[test]
fn a_new_lineage_is_begun_once_however_often_it_is_asked_for() -> Result<()> {
    let archive = Archive::in_folder()?;
    let (ours, mut pitrd) = two(&archive)?;
    let clone = clone_of(&ours)?;
    ours.add_rows(100)?;
    pitrd.wait_caught_up(&ours)?;
    ensure!(pitrd.sigterm(&Deadline::seconds(60))?.success(), "the end");
    clone.fill_log(3)?;
    let mut copy = Pitrd::builder(&clone.replication_url(), archive.url())
        .args(["--no-base", "--flush", "100ms", "--new-lineage"])
        .start()?;
    for nth in 0..3 {
        if nth > 0 {
            copy.start()?;
            copy.wait("its own lineage to be known", &Deadline::seconds(60), |pitrd| {
                Ok(pitrd.log().matches("carried out already").count() >= nth)
            })?;
        }
        clone.add_rows(100)?;
        copy.wait_durable_within(clone.flush_position()?, &Deadline::seconds(120))?;
        ensure!(copy.sigterm(&Deadline::seconds(60))?.success(), "the end");
        let lineages = archive.keys("lineage/")?;
        let of =
            |number: u32| lineages.iter().any(|key| key.starts_with(&format!("lineage/{number}/")));
        ensure!(of(2) && !of(3), "start {nth}: {lineages:?}");
        assert_whole("the copy's own lineage", &clone, &archive)?;
    }
    // What it left behind is not its own.
    pitrd.start()?;
    let status = pitrd.await_exit(&Deadline::seconds(60))?;
    ensure!(status.code() == Some(6), "{status:?}:\n{}", pitrd.log());
    Ok(())
}
