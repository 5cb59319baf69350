//! A slow database: one commit after the other, each in a tail of its own. What a day of it leaves
//! opens in a bounded number of requests.

use anyhow::{Context, Result, ensure};
use tests::archive::Archive;
use tests::postgres::Cluster;
use tests::programs;
use tests::scope;
use tests::seaweed::{BUCKET, Seaweed};
use tests::tcp_proxy::TcpProxy;
use tests::wait::{Deadline, until};

use super::odd_tools::quiet_moment;
use super::protected::{Place, Protected};

/// A chain holds fewer than this many tails, and fewer than this many merged ones of each level.
const MERGED: u64 = 256;
/// What opening an archive costs besides its open segment: listings, identity, ledger, base, index.
const BESIDES: u64 = 120;

/// Tails, merged tails, and twice merged ones, by what stands under `tail/`.
fn chain_of(archive: &Archive) -> Result<(u64, u64, u64)> {
    let mut counts = (0, 0, 0);
    for key in archive.keys("")?.iter().filter(|key| key.contains("/tail/")) {
        match key {
            key if key.contains("/m2/") => counts.2 += 1,
            key if key.contains("/m1/") => counts.1 += 1,
            _ => counts.0 += 1,
        }
    }
    Ok(counts)
}

/// Runs `pitr` through the proxy, and gives how many requests it made.
fn counted(proxy: &TcpProxy, protected: &Protected, url: &str, arguments: &[&str]) -> Result<u64> {
    let before = proxy.requests();
    let mut all = arguments.to_vec();
    all.extend(["--archive", url]);
    programs::run("pitr", &all, &protected.environment)?.ok()?;
    Ok(proxy.requests() - before)
}

#[test]
fn a_slow_database_is_opened_in_a_bounded_number_of_requests_and_restored() -> Result<()> {
    let major = scope::newest_postgres();
    // Everything in one segment, as on the slow day.
    let cluster = Cluster::builder(major).segment_mb(64).start()?;
    cluster.sql("CREATE TABLE ticks (n bigserial, at timestamptz DEFAULT clock_timestamp())")?;
    let mut protected = Protected::around(cluster, Place::S3, &["--flush", "10ms"])?;
    protected.await_base()?;
    let cluster = &protected.cluster;
    let script = cluster.scratch("scripts")?.join("tick.sql");
    std::fs::write(&script, "INSERT INTO ticks DEFAULT VALUES;\n")?;
    let script = script.display().to_string();
    let store = Seaweed::shared()?;
    let prefix = protected.folder.path().file_name().context("a folder's name")?;
    let prefix = prefix.to_string_lossy().into_owned();
    let archive = Archive::on_s3(store, &prefix);
    let load = cluster
        .pgbench_start_with("postgres", &["-R", "60", "-c", "1", "-T", "14400", "-f", &script])?;
    // A busy machine puts several commits into a tail: what counts is the tails. A few more than two
    // merged runs of them, or than one twice merged one; the base's objects are among the uploads.
    let uploads = scope::scale(700.0, 67_500.0);
    let long_enough = Deadline::seconds(scope::scale(600, 14_400));
    protected.pitrd.wait_for_metrics("so many tails", &long_enough, |metrics| {
        metrics.sum("pitr_uploads_total") > Some(uploads)
    })?;
    load.stop()?;
    let cluster = &protected.cluster;
    let moment = quiet_moment(cluster, "postgres")?;
    protected.await_everything()?;
    let wanted = scope::scale((2, 0), (20, 1));
    let counts = until(&Deadline::seconds(120), "the tails to be merged", || {
        let counts = chain_of(&archive)?;
        Ok((counts.1 >= wanted.0 && counts.2 >= wanted.1).then_some(counts))
    })?;
    protected.pitrd.sigterm(&Deadline::seconds(60))?;

    let proxy = TcpProxy::start(store.port())?;
    let url = store.url_via(proxy.port(), BUCKET, &prefix);
    let status = counted(&proxy, &protected, &url, &["status"])?;
    let plan = counted(&proxy, &protected, &url, &["plan", "--latest"])?;
    println!(
        "{} tails, {} merged, {} twice: status took {status} requests, plan {plan}",
        counts.0, counts.1, counts.2
    );
    // Each object that is left of the chain, once.
    let chain = 2 * MERGED;
    ensure!(status <= chain + BESIDES, "status took {status} requests");
    ensure!(plan <= chain + BESIDES, "plan took {plan} requests");
    ensure!(status.max(plan) < counts.0, "{status} and {plan} requests: less than one a commit");
    let data = protected.restore("latest", &["--latest"])?;
    protected.assert_restored(&data, &moment)
}
