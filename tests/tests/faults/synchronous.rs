//! Never a synchronous standby by accident; and a good one when it is asked for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::archive::Archive;
use tests::postgres::Cluster;
use tests::process;
use tests::programs::Pitrd;
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::{self, Deadline};

/// Our walsender as the server sees it: state, flush position, synchronous state.
fn seen(cluster: &Cluster) -> Result<Option<(String, String)>> {
    let query = "SELECT coalesce(flush_lsn::text, '-'), sync_state FROM pg_stat_replication \
                 WHERE application_name = 'pitr'";
    let rows = cluster.query("postgres", query)?;
    Ok(rows.into_iter().next().map(|mut row| (row.remove(0), row.remove(0))))
}

/// A statement in the background: does it return?
fn commit_in_background(cluster: &Cluster) -> Result<std::process::Child> {
    let mut psql = cluster.psql_command("postgres");
    psql.args(["-c", "INSERT INTO waits VALUES (1)"]);
    process::spawn(psql)
}

fn assert_declined(cluster: &Cluster, pitrd: &mut Pitrd) -> Result<()> {
    wait::until(&Deadline::seconds(60), "the sidecar to decline", || {
        Ok(seen(cluster)?.filter(|(flush, state)| flush == "-" && state == "async").map(drop))
    })
    .with_context(|| format!("{:?}", seen(cluster)))?;
    pitrd.wait_for_log("ALERT: synchronous_standby_names", &Deadline::seconds(60))?;
    let unwanted = pitrd.metrics()?.sum("pitr_synchronous_unwanted");
    ensure!(unwanted == Some(1.0), "{unwanted:?}");
    // The commit waits for a standby: we are none.
    let mut commit = commit_in_background(cluster)?;
    std::thread::sleep(Duration::from_secs(4));
    let waits = commit.try_wait()?.is_none();
    process::end(&mut commit);
    ensure!(waits, "a commit was satisfied by us");
    Ok(())
}

#[test]
fn we_never_become_a_synchronous_standby_by_accident() -> Result<()> {
    for version in scope::postgres_versions() {
        let cluster = Cluster::builder(version).start()?;
        cluster.sql("CREATE TABLE waits (n int)")?;
        let archive = Archive::in_folder()?;
        let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
            .args(["--no-base", "--flush", "100ms"])
            .start()?;
        pitrd.wait_state("streaming", &Deadline::seconds(60))?;
        pitrd.wait_caught_up(&cluster)?;
        for names in ["*", "other, PITR", "ANY 1 (pitr)"] {
            // Set while we stream, and found at the start of a stream.
            cluster.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))?;
            cluster.reload()?;
            assert_declined(&cluster, &mut pitrd)?;
            pitrd.kill9()?;
            pitrd.start()?;
            pitrd.wait_state("streaming", &Deadline::seconds(60))?;
            assert_declined(&cluster, &mut pitrd)?;
        }
        // The log is archived all the same, and acknowledged again once that is over.
        let end = pitrd.wait_caught_up(&cluster)?;
        cluster.sql("ALTER SYSTEM RESET synchronous_standby_names")?;
        cluster.reload()?;
        wait::until(&Deadline::seconds(60), "the slot to move again", || {
            Ok(cluster.slot_restart("pitr")?.filter(|slot| *slot >= end).map(drop))
        })?;
        println!("PostgreSQL {version}: declined, then acknowledged {end}");
    }
    Ok(())
}

#[test]
fn with_synchronous_a_commit_returns_only_when_the_spool_has_it() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres()).segment_mb(4).start()?;
    cluster.sql("CREATE TABLE waits (n int)")?;
    let seaweed = Seaweed::start_new()?;
    let archive = Archive::on_s3(&seaweed, "synchronous");
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--flush", "50ms", "--ack", "spool", "--synchronous"])
        .envs(archive.environment())
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    pitrd.wait_caught_up(&cluster)?;
    cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'pitr'")?;
    cluster.reload()?;
    wait::until(&Deadline::seconds(60), "the server to count us", || {
        Ok(seen(&cluster)?.filter(|(_, state)| state == "sync").map(drop))
    })?;
    for store_away in [false, true] {
        if store_away {
            seaweed.kill9()?;
        }
        for level in ["on", "remote_write"] {
            for _ in 0..5 {
                let end = cluster.value(
                    "postgres",
                    &format!(
                        "SET synchronous_commit = {level}; INSERT INTO waits VALUES (1); \
                         SELECT pg_current_wal_flush_lsn()"
                    ),
                )?;
                let end = end.parse()?;
                let spooled = super::spooled(&pitrd.spool()?)?;
                ensure!(
                    spooled >= end,
                    "{level}: commit {end} returned, the spool ends at {spooled}"
                );
            }
        }
    }
    // Without the sidecar nobody answers.
    pitrd.kill9()?;
    let mut commit = commit_in_background(&cluster)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(commit.try_wait()?.is_none(), "a commit returned without a spool");
    pitrd.start()?;
    seaweed.start()?;
    let done = process::wait_for(&mut commit, "the commit", &Deadline::seconds(60))?;
    ensure!(done.success(), "{done:?}");
    println!("{}", pitrd.wait_caught_up(&cluster)?);
    Ok(())
}
