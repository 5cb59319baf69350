//! The README.md of an archive: its steps, executed as they stand there.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::postgres::Cluster;
use tests::process::{self, Death};
use tests::scope;
use tests::user;

use super::protected::{Place, Protected};

#[test]
fn an_archive_is_restored_by_hand_with_zstd_tar_cat_and_postgres_alone() -> Result<()> {
    let builder = Cluster::builder(scope::newest_postgres()).tablespace("beside");
    let mut protected = Protected::start(builder, Place::Folder, &[])?;
    let cluster = &protected.cluster;
    cluster.pgbench_init("postgres", 1)?;
    cluster
        .sql("CREATE TABLE elsewhere TABLESPACE beside AS SELECT generate_series(1, 1000) AS n")?;
    subscribe_to_nobody(cluster)?;
    protected.await_base()?;
    protected.cluster.pgbench("postgres", &["-t", "200"])?;
    let moment = protected.cluster.record("postgres")?;
    protected.await_everything()?;
    // The tablespace's place is taken while the server's own folder is there.
    let data = protected.cluster.data().to_path_buf();
    protected.cluster.stop(tests::postgres::Stop::Fast)?;
    let space = protected.cluster.tablespace("beside").context("it was made")?.to_path_buf();
    std::fs::remove_dir_all(&space)?;
    std::fs::remove_dir_all(&data)?;
    std::fs::create_dir(&space)?;
    user::hand_over(&space)?;

    let into = protected.folder.sub("by-hand")?;
    user::hand_over(&into)?;
    let steps = protected.folder.path().join("steps.sh");
    let readme = std::fs::read_to_string(format!("{}/README.md", protected.archive))?;
    ensure!(readme == proto::archive::readme::text(), "the archive's README is this version's");
    std::fs::write(&steps, format!("set -eu\n{}", proto::archive::readme::steps()))?;
    let bases = std::fs::read_dir(format!("{}/lineage/1/base", protected.archive))?;
    let base = bases.flatten().next().context("there is a base")?.file_name();
    let socket = into.display().to_string();
    let folder = into.join("data");
    let mut shell = process::command("sh", user::server_user(), Death::Kill);
    let status = shell
        .arg(&steps)
        .env("HOME", &into)
        .env("LD_LIBRARY_PATH", protected.cluster.bin_dir().join("../lib"))
        .env("ARCHIVE", &protected.archive)
        .env("LINEAGE", "1")
        .env("BASE", base)
        .env("DIR", &folder)
        .env("PGBIN", protected.cluster.bin_dir())
        .env("PGOPTIONS_START", format!("-c listen_addresses='' -k {socket}"))
        .status()?;
    ensure!(status.success(), "the steps failed: {status}");
    let mut stop: Command = protected.cluster.tool("pg_ctl");
    ensure!(stop.arg("-D").arg(&folder).args(["-m", "fast", "-w", "stop"]).status()?.success());
    protected.assert_restored(&folder, &moment)?;
    assert_asleep(&Cluster::open(protected.cluster.major(), &folder)?)
}

/// A subscription that tries for ever, as long as it is awake.
fn subscribe_to_nobody(cluster: &Cluster) -> Result<()> {
    cluster.sql(
        "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p \
         WITH (connect = false, slot_name = 'theirs')",
    )?;
    cluster.sql("ALTER SUBSCRIPTION s ENABLE").map(drop)
}

/// Nothing of the source's wakes up in a copy that was made by hand.
fn assert_asleep(copy: &Cluster) -> Result<()> {
    copy.start()?;
    let workers = "SELECT pg_sleep(1); SELECT count(*) FROM pg_stat_activity \
                   WHERE backend_type LIKE 'logical replication%'";
    let found = copy.sql(workers)?;
    ensure!(found.trim() == "0", "{found} workers run");
    ensure!(copy.value("postgres", "SELECT subenabled FROM pg_subscription")? == "t", "no danger");
    ensure!(copy.value("postgres", "SHOW cron.launch_active_jobs")? == "off", "jobs would run");
    Ok(())
}
