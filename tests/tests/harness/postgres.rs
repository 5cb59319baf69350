//! PostgreSQL as the other tests need it.

use anyhow::Result;
use tests::postgres::{Cluster, Stop};
use tests::scope;

#[test]
fn every_version_starts_and_answers() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = Cluster::start_new(major)?;
        let version = cluster.value("postgres", "SHOW server_version_num")?;
        assert_eq!(version.parse::<u32>()? / 10_000, major);
        assert!(cluster.value("postgres", "SHOW fsync")? == "on");
    }
    Ok(())
}

#[test]
fn segment_size_checksums_and_tablespaces_are_as_asked() -> Result<()> {
    for (major, checksums) in [(15, true), (18, false)] {
        let cluster = Cluster::builder(major)
            .segment_mb(1)
            .checksums(checksums)
            .tablespace("elsewhere")
            .conf("application_name", "it's quoted")
            .start()?;
        assert_eq!(cluster.value("postgres", "SHOW wal_segment_size")?, "1MB");
        let shown = cluster.value("postgres", "SHOW data_checksums")?;
        assert_eq!(shown, if checksums { "on" } else { "off" });
        cluster.sql("CREATE TABLE t TABLESPACE elsewhere AS SELECT 1 AS a")?;
        assert!(cluster.tablespace("elsewhere").is_some_and(|path| path.is_dir()));
        let current = "SELECT pg_walfile_name(pg_current_wal_lsn())";
        let segment = cluster.wal_dir().join(cluster.value("postgres", current)?);
        assert_eq!(std::fs::metadata(segment)?.len(), 1 << 20);
    }
    Ok(())
}

#[test]
fn committed_rows_outlive_every_way_to_stop() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    cluster.sql("CREATE TABLE t (a int)")?;
    for (round, mode) in [Stop::Smart, Stop::Fast, Stop::Immediate].into_iter().enumerate() {
        cluster.sql(&format!("INSERT INTO t VALUES ({round})"))?;
        cluster.stop(mode)?;
        assert!(!cluster.is_running());
        cluster.start()?;
    }
    cluster.sql("INSERT INTO t VALUES (3)")?;
    cluster.kill9()?;
    cluster.start()?;
    assert_eq!(
        cluster.value("postgres", "SELECT string_agg(a::text, ',' ORDER BY a) FROM t")?,
        "0,1,2,3"
    );
    Ok(())
}

#[test]
fn a_standby_follows_and_takes_over() -> Result<()> {
    let primary = Cluster::builder(scope::newest_postgres()).tablespace("elsewhere").start()?;
    primary.sql("CREATE TABLE t TABLESPACE elsewhere AS SELECT generate_series(1, 1000) AS a")?;
    let standby = primary.standby()?;
    primary.sql("INSERT INTO t VALUES (0)")?;
    standby.await_replay_of(&primary)?;
    standby.assert_holds(&primary.record("postgres")?)?;
    assert_eq!(standby.system_identifier()?, primary.system_identifier()?);
    primary.stop(Stop::Fast)?;
    standby.promote()?;
    standby.sql("INSERT INTO t VALUES (-1); CHECKPOINT")?;
    assert_eq!(standby.timeline()?, 2);
    Ok(())
}

#[test]
fn a_moment_recorded_under_load_belongs_to_its_position() -> Result<()> {
    let primary = Cluster::start_new(scope::newest_postgres())?;
    primary.pgbench_init("postgres", 1)?;
    let copy = primary.clone_with(Cluster::builder(primary.major()))?;
    let load = primary.pgbench_start("postgres", 4)?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    let moment = primary.record("postgres")?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    load.stop()?;
    primary.switch_wal()?;
    copy.launch(&[
        ("recovery_target_time", &moment.time.replace('Z', "+00")),
        ("recovery_target_action", "pause"),
        ("recovery_target_timeline", "1"),
    ])?;
    let deadline = tests::wait::Deadline::seconds(120);
    copy.await_ready(&deadline)?;
    tests::wait::until(&deadline, "the target", || {
        Ok((copy.value("postgres", "SELECT pg_get_wal_replay_pause_state()")? == "paused")
            .then_some(()))
    })?;
    copy.assert_holds(&moment)?;
    let now = primary.record("postgres")?;
    assert!(copy.assert_holds(&now).is_err(), "the load changed nothing");
    Ok(())
}

#[tokio::test]
async fn a_server_with_tls_shows_a_certificate_of_its_own_authority() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres()).tls().start()?;
    let authority = cluster.authority().expect("it was made with TLS");
    let root = authority.certificate().display().to_string();
    let client = authority.client("postgres")?;
    let url = cluster.url_with(
        "postgres",
        "postgres",
        &[
            ("sslmode", "verify-full"),
            ("sslrootcert", &root),
            ("sslcert", &client.certificate.display().to_string()),
            ("sslkey", &client.key.display().to_string()),
        ],
    );
    let mut psql = cluster.tool("psql");
    psql.args(["-XAtq", "-d", &url, "-c"]);
    psql.arg("SELECT version, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    let said = String::from_utf8(tests::process::run(psql)?.stdout)?;
    assert_eq!(said.trim(), "TLSv1.3|/CN=postgres");
    let plain = cluster.connect("postgres").await?;
    assert_eq!(plain.query_one("SELECT 7", &[]).await?.get::<_, i32>(0), 7);
    Ok(())
}

#[test]
fn the_clock_of_a_server_can_be_stepped() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres()).faketime().start()?;
    let year = "SELECT extract(year FROM clock_timestamp())";
    let before = cluster.value("postgres", year)?;
    cluster.set_clock("2001-02-03 04:05:06")?;
    let now = "SELECT clock_timestamp()::text";
    assert_eq!(cluster.value("postgres", now)?, "2001-02-03 04:05:06+00");
    cluster.set_clock("+0")?;
    assert_eq!(cluster.value("postgres", year)?, before);
    Ok(())
}
