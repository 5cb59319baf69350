//! A copy starts anywhere, and disturbs nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use replay::find::Target;
use replay::target::postgres::{Left, Then};
use tests::postgres::Cluster;
use tests::process;

use crate::source::{BaseWishes, Source, builder};

#[tokio::test(flavor = "multi_thread")]
async fn a_base_without_configuration_files_becomes_a_folder_that_starts() -> Result<()> {
    let builder = builder().conf("max_connections", "55").conf("work_mem", "6MB");
    let mut source = Source::new(builder, BaseWishes { bare: true }).await?;
    source.transaction("INSERT INTO t VALUES (1, 'a')")?;
    let moment = source.cluster.record("postgres")?;
    source.log().await?;
    let plan = source.plan(Target::Latest, false).await?;
    let report = source.restore(&plan, "copy").await?;
    assert_eq!(report.exit(), 0, "{}", report.text());
    assert!(report.notes.iter().any(|note| note.contains("postgresql.conf")), "{report:?}");
    // Its pg_hba.conf lets the owner in; the harness comes in by trust.
    std::fs::write(report.folder.join("pg_hba.conf"), "local all all trust\n")?;
    let copy = source.open(&report.folder)?;
    copy.assert_holds(&moment)?;
    assert_eq!(copy.value("postgres", "SHOW max_connections")?, "55");
    assert_eq!(copy.value("postgres", "SHOW work_mem")?, "6MB");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_the_source_alone_does_not_follow_into_a_copy() -> Result<()> {
    let builder = builder()
        .conf("archive_mode", "on")
        .conf("archive_command", "/bin/true")
        .conf("wal_level", "logical")
        .conf("synchronous_commit", "local");
    let mut source = Source::with(builder, BaseWishes::default(), |cluster| {
        cluster.sql("CREATE DATABASE other")?;
        let create = "CREATE SUBSCRIPTION \"s'1\" CONNECTION 'host=127.0.0.1 port=1' \
                      PUBLICATION p WITH (connect = false, slot_name = 'there')";
        cluster.psql("other", create)?;
        cluster.psql("other", "ALTER SUBSCRIPTION \"s'1\" ENABLE")?;
        let conf = cluster.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&conf)?;
        let more = "shared_preload_libraries = 'pg_stat_statements, not_here, pg_cron'\n\
                    synchronous_standby_names = 'somebody'\ninclude_dir = '/etc/not-here'\n\
                    external_pid_file = '/run/not/here'\nunix_socket_directories = '/not/here'\n\
                    ssl = on\nlog_directory = '/not/here'\nrecovery_target_name = 'old'\n\
                    listen_addresses = '192.0.2.1'\n";
        // Only written, never loaded: it takes effect in the copy.
        Ok(std::fs::write(conf, text + more)?)
    })
    .await?;
    source.transaction("INSERT INTO t VALUES (1, 'a')")?;
    let moment = source.cluster.record("postgres")?;
    source.log().await?;
    let plan = source.plan(Target::Latest, false).await?;
    let report = source.restore(&plan, "copy").await?;
    println!("{}", report.text());
    assert_eq!(report.exit(), 0, "{}", report.text());
    let subscription = report.subscriptions.first().context("a subscription")?;
    assert_eq!(
        (subscription.database.as_str(), subscription.name.as_str(), subscription.slot.as_deref()),
        ("other", "s'1", Some("there"))
    );
    for word in ["not_here", "pg_cron", "synchronous", "include_dir", "ssl", "listen_addresses"] {
        assert!(report.notes.iter().any(|note| note.contains(word)), "{word}: {:?}", report.notes);
    }
    let copy = source.open(&report.folder)?;
    copy.assert_holds(&moment)?;
    let show = |name: &str| copy.value("postgres", &format!("SHOW {name}"));
    assert_eq!(show("shared_preload_libraries")?, "pg_stat_statements");
    assert_eq!(show("archive_mode")?, "off");
    assert_eq!(show("ssl")?, "off");
    // The source refers to its subscription still; the copy's sleeps.
    let enabled = "SELECT subenabled::text || coalesce(subslotname, '-') FROM pg_subscription";
    assert_eq!(copy.value("other", enabled)?, "false-");
    copy.sql("INSERT INTO t VALUES (2, 'not held up by a standby')")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_in_a_database_that_takes_no_connection_sleeps_in_a_copy() -> Result<()> {
    let builder = builder().conf("wal_level", "logical");
    let mut source = Source::with(builder, BaseWishes::default(), |cluster| {
        cluster.sql("CREATE DATABASE closed")?;
        let create = "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p \
                      WITH (connect = false, slot_name = 'there')";
        cluster.psql("closed", create)?;
        cluster.psql("closed", "ALTER SUBSCRIPTION s ENABLE")?;
        cluster.sql("ALTER DATABASE closed WITH ALLOW_CONNECTIONS false").map(drop)
    })
    .await?;
    source.transaction("INSERT INTO t VALUES (1, 'a')")?;
    source.log().await?;
    let plan = source.plan(Target::Latest, false).await?;
    let report = source.restore(&plan, "copy").await?;
    assert_eq!(report.exit(), 0, "{}", report.text());
    let told = report.subscriptions.first().context("a subscription")?;
    let found = (told.database.as_str(), told.name.as_str(), told.slot.as_deref());
    assert_eq!(found, ("closed", "s", Some("there")));
    let copy = source.open(&report.folder)?;
    let is = |query: &str, wanted: &str| -> Result<()> {
        assert_eq!(copy.value("postgres", query)?, wanted, "{query}");
        Ok(())
    };
    is("SELECT subenabled::text || coalesce(subslotname, '-') FROM pg_subscription", "false-")?;
    is("SELECT datallowconn FROM pg_database WHERE datname = 'closed'", "f")?;
    // The source's is what it was.
    let awake = "SELECT subenabled::text || subslotname FROM pg_subscription";
    assert_eq!(source.cluster.value("postgres", awake)?, "truethere");
    // Opened, nothing wakes up, and dropping it asks no publisher: there is none to answer.
    copy.sql("ALTER DATABASE closed WITH ALLOW_CONNECTIONS true")?;
    copy.psql("closed", "SELECT pg_sleep(1)")?;
    is("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'apply|sync'", "0")?;
    copy.psql("closed", "DROP SUBSCRIPTION s")?;
    is("SELECT count(*) FROM pg_subscription", "0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_lies_where_it_was_told_to() -> Result<()> {
    let mut source = Source::with(builder().tablespace("beside"), BaseWishes::default(), |c| {
        c.sql("CREATE TABLE elsewhere TABLESPACE beside AS SELECT generate_series(1, 999) AS n")
            .map(drop)
    })
    .await?;
    source.transaction("UPDATE elsewhere SET n = -n")?;
    let moment = source.cluster.record("postgres")?;
    source.log().await?;
    let plan = source.plan(Target::Latest, false).await?;
    let taken = source.restore(&plan, "taken").await.err().context("its old place is taken")?;
    assert_eq!(taken.exit(), 4, "{taken}");
    let old = source.cluster.tablespace("beside").context("it was made")?.display().to_string();
    let new = source.place("moved");
    let mut options = source.options("copy");
    options.tablespaces = BTreeMap::from([(old, new.clone())]);
    let report = source.restore_with(&plan, &options).await?;
    assert_eq!(report.exit(), 0, "{}", report.text());
    let copy = source.open(&report.folder)?;
    copy.assert_holds(&moment)?;
    let place = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'beside'";
    assert_eq!(PathBuf::from(copy.value("postgres", place)?), new);
    Ok(())
}

/// Asks a server that a restore left running, as anybody would.
fn ask(source: &Source, port: u16, query: &str) -> Result<String> {
    let mut psql = source.cluster.tool("psql");
    psql.args(["-X", "-A", "-t", "-h", "127.0.0.1", "-p", &port.to_string()]);
    psql.args(["-U", "postgres", "-d", "postgres", "-c", query]);
    Ok(String::from_utf8(process::run(psql)?.stdout)?.trim().to_owned())
}

pub(crate) fn stop(source: &Source, folder: &std::path::Path) -> Result<()> {
    let mut command = source.cluster.tool("pg_ctl");
    command.arg("-D").arg(folder).args(["-m", "fast", "-w", "stop"]);
    process::run(command).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_can_be_left_paused_or_running() -> Result<()> {
    let mut source = Source::new(builder(), BaseWishes::default()).await?;
    let first = source.transaction("INSERT INTO t VALUES (1, 'a')")?;
    source.transaction("INSERT INTO t VALUES (2, 'b')")?;
    source.log().await?;
    let plan = source.plan(Target::Xid(first), false).await?;

    let mut options = source.options("paused");
    options.then = Then::Pause;
    let paused = source.restore_with(&plan, &options).await?;
    let port = paused.port.context("a port")?;
    assert_eq!((paused.left, paused.exit()), (Left::Paused, 0), "{}", paused.text());
    assert_eq!(ask(&source, port, "SELECT count(*), pg_is_in_recovery() FROM t")?, "1|t");

    let mut options = source.options("running");
    options.then = Then::Start;
    let running = source.restore_with(&plan, &options).await?;
    let other = running.port.context("a port")?;
    assert_eq!((running.left, running.exit()), (Left::Running, 0), "{}", running.text());
    assert_ne!(port, other);
    assert_eq!(ask(&source, other, "SELECT count(*), pg_is_in_recovery() FROM t")?, "1|f");
    ask(&source, other, "INSERT INTO t VALUES (3, 'c')")?;

    stop(&source, &running.folder)?;
    stop(&source, &paused.folder)?;
    // Stopped and started again it stands at the moment still, by its own plan.
    Cluster::open(source.cluster.major(), &running.folder)?.start()
}
