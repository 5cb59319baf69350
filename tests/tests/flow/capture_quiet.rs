//! Databases that do little: idle ones, and ones with a commit now and then.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::archive::chain;
use proto::archive::layout::Lineage;
use proto::store::fault::{FaultStore, Op};
use tests::archive::Archive;
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::scope;
use tests::wait::Deadline;

/// Keys of everything that the log puts into an archive.
fn objects(archive: &Archive) -> Result<Vec<String>> {
    archive.keys("lineage/1/")
}

#[test]
fn an_idle_database_costs_about_one_object_a_minute_and_has_no_lag() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres())
        .conf("autovacuum", "off")
        .conf("checkpoint_timeout", "1h")
        .start()?;
    let archive = Archive::in_folder()?;
    let mut pitrd =
        Pitrd::builder(&cluster.replication_url(), archive.url()).args(["--no-base"]).start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    cluster.add_rows(1000)?;
    pitrd.wait_caught_up(&cluster)?;
    // The background writer logs running transactions once more after the last change.
    std::thread::sleep(Duration::from_secs(16));
    let end = pitrd.wait_caught_up(&cluster)?;
    let before = objects(&archive)?;
    let seconds = scope::scale(20, 300);
    let mut lag: f64 = 0.0;
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        lag = lag.max(pitrd.lag()?);
    }
    let now = cluster.flush_position()?;
    ensure!(now == end, "the server was not idle: {end} became {now}");
    let after = objects(&archive)?;
    let new = after.len() - before.len();
    let most = usize::try_from(seconds / 60)? + 2;
    ensure!(new <= most, "{new} objects in {seconds} idle seconds: {:?}", &after[before.len()..]);
    ensure!(lag == 0.0, "an idle database had a lag of {lag}");
    let marks = archive.log()?.chains.values().filter_map(chain::Chain::watermark).count();
    ensure!(marks > 0, "no watermark was put");
    println!("{seconds} s idle: {new} objects, lag {lag}");
    Ok(())
}

/// A commit a second for a day, in short: the chain stays short by merging, opens in a bounded number
/// of requests, and its frames are joined when it is sealed.
#[test]
fn the_chain_of_a_slow_database_stays_short_and_its_segment_is_joined() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres()).start()?;
    cluster.sql("CREATE TABLE ticks (n int)")?;
    let archive = Archive::in_folder()?;
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "10ms"])
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    let first = cluster.switch_wal()?;
    let wanted = scope::scale(600, 70_000);
    let script = cluster.scratch("load")?.join("tick.sql");
    std::fs::write(&script, "INSERT INTO ticks VALUES (1);\n")?;
    let file = script.display().to_string();
    let load = cluster
        .pgbench_start_with("postgres", &["-c", "1", "-R", "60", "-T", "3600", "-f", &file])?;
    let size = proto::postgres::lsn::SegmentSize::DEFAULT;
    let timeline = proto::postgres::lsn::Timeline(1);
    let id = proto::postgres::lsn::SegmentId::containing(timeline, first, size).next();
    let name = id.name(size);
    let folder = Lineage(1).chain(&name);
    pitrd.wait(&format!("{wanted} tails"), &Deadline::seconds(3600), |_| {
        let singles = archive.list(&folder)?;
        Ok(singles.iter().filter(|o| !o.key.as_str().contains("/m")).count() > wanted)
    })?;
    let (links, calls, raw) = archive.ask(async |_| {
        let (store, faults) = FaultStore::new(archive.store().await?, 1);
        let chain = chain::follow(&*store, Lineage(1), &name).await?;
        let (raw, _) = chain::read_raw(&*store, &name, &chain).await?;
        let calls = [Op::Get, Op::List, Op::Head, Op::Folders].map(|op| faults.calls(op));
        Ok((chain.links.len(), calls, raw))
    })?;
    ensure!(links < 256 + 256 + 2, "{links} links");
    let total: u64 = calls.iter().sum();
    ensure!(total < 2 * (256 + 256) + 100, "{total} requests: {calls:?}");
    let merged = archive.list(&Lineage(1).merged_chain(&name, 1))?.len();
    ensure!(merged >= wanted / 256, "{merged} merged tails of {wanted}");
    load.stop()?;
    cluster.switch_wal()?;
    cluster.add_rows(1)?;
    pitrd.wait_caught_up(&cluster)?;
    pitrd.wait("the segment to be sealed", &Deadline::seconds(60), |_| {
        Ok(archive.log()?.sealed.contains_key(&id))
    })?;
    let log = archive.log()?;
    let found = log.assert_unbroken()?;
    let footer = log.sealed[&id].footer.as_ref().context("a footer")?;
    let frames = footer.frames.len();
    ensure!(frames <= 2 * 16 + 8, "{frames} frames in one segment");
    ensure!(log.sealed[&id].raw.starts_with(&raw), "what was read by tails differs from the seal");
    println!(
        "{wanted} tails: {links} links, requests {calls:?}, {merged} merged; {frames} frames; {found}"
    );
    Ok(())
}
