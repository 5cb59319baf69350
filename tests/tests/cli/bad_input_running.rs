//! What goes wrong while it runs: waited for, told in one line, not in a storm, and mended.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::scope;
use tests::scratch::Folder;
use tests::wait::Deadline;

use super::refused::nothing_is_left;

fn seconds() -> Deadline {
    Deadline::seconds(60)
}

#[test]
fn a_slot_in_use_is_waited_for_and_nothing_is_begun_meanwhile() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("slot")?;
    let archive = |name: &str| folder.path().join(name).display().to_string();
    let start = |archive: &str| {
        Pitrd::builder(&cluster.replication_url(), archive).arg("--no-base").start()
    };
    let mut first = start(&archive("first"))?;
    first.wait_for_log("state=streaming", &seconds())?;
    let mut second = start(&archive("second"))?;
    second.wait_for_log("PITRD-R001", &seconds())?;
    nothing_is_left(None, folder.path().join("second").as_path())?;
    first.sigterm(&seconds())?;
    second.wait_for_log("state=streaming", &seconds())?;
    let status = second.sigterm(&seconds())?;
    ensure!(status.code() == Some(0), "{status}: {}", second.log());
    Ok(())
}

#[test]
fn a_password_that_changes_is_waited_for_and_told_without_a_storm() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres())
        .hba("host all,replication guarded 127.0.0.1/32 scram-sha-256")
        .start()?;
    cluster.sql("CREATE ROLE guarded LOGIN REPLICATION PASSWORD 'right'")?;
    let folder = Folder::new("password")?;
    let archive = folder.path().join("archive").display().to_string();
    let mut pitrd = Pitrd::builder(&cluster.url("guarded", "postgres"), &archive)
        .arg("--no-base")
        .env("PGPASSWORD", "right")
        .start()?;
    pitrd.wait_for_log("state=streaming", &seconds())?;
    cluster.sql(
        "ALTER ROLE guarded PASSWORD 'other'; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_replication",
    )?;
    pitrd.wait_for_log("28P01", &seconds())?;
    cluster.sql("CREATE TABLE meanwhile (n int)")?;
    std::thread::sleep(Duration::from_secs(8));
    let told = pitrd.log().matches("28P01").count();
    ensure!((1..=4).contains(&told), "{told} lines: {}", pitrd.log());
    cluster.sql("ALTER ROLE guarded PASSWORD 'right'")?;
    let lsn = cluster.flush_position()?;
    pitrd.wait_for_metrics("everything to be durable", &seconds(), |metrics| {
        metrics.sum("pitr_durable_position").is_some_and(|at| at >= lsn.0 as f64)
    })?;
    let status = pitrd.sigterm(&seconds())?;
    ensure!(status.code() == Some(0), "{status}: {}", pitrd.log());
    Ok(())
}
