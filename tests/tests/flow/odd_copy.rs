//! A copy starts anywhere, wakes nothing up, and never writes into the archive that it came from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use proto::disk::{Disk, SystemDisk};
use tests::archive::Archive;
use tests::ports::Port;
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::scope;
use tests::wait::Deadline;

use super::odd_tools::Plain;
use super::protected::{Place, Protected};

const CONFIGURATION: [&str; 3] = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"];

/// A server whose configuration lies beside its data, as Debian has it, with an archive command of
/// its own that writes down in which folder it ran.
fn debian_like(major: u32) -> Result<(Cluster, PathBuf)> {
    let cluster = Cluster::builder(major).conf("wal_level", "logical").create()?;
    let etc = cluster.scratch("etc")?;
    let commands = cluster.scratch("commands")?.join("ran");
    for name in CONFIGURATION {
        SystemDisk.rename_exclusive(&cluster.data().join(name), &etc.join(name))?;
    }
    std::fs::create_dir(etc.join("conf.d"))?;
    let own = format!(
        "data_directory = '{}'\nhba_file = '{}'\nident_file = '{}'\ninclude_dir = 'conf.d'\n",
        cluster.data().display(),
        etc.join("pg_hba.conf").display(),
        etc.join("pg_ident.conf").display(),
    );
    let more = format!(
        "archive_mode = on\narchive_command = 'pwd >> {}'\nwork_mem = '7MB'\n\
         shared_preload_libraries = 'pg_stat_statements'\nmax_connections = 60\n\
         external_pid_file = '{}'\ncluster_name = 'the source'\n",
        commands.display(),
        etc.join("pid").display(),
    );
    std::fs::write(etc.join("conf.d/own.conf"), more)?;
    let conf = std::fs::read_to_string(etc.join("postgresql.conf"))?;
    std::fs::write(etc.join("postgresql.conf"), conf + &own)?;
    for path in [etc.join("postgresql.conf"), etc.join("conf.d"), etc.join("conf.d/own.conf")] {
        tests::user::hand_over(&path)?;
    }
    let file = etc.join("postgresql.conf").display().to_string();
    cluster.launch(&[("config_file", &file)])?;
    cluster.await_ready(&Deadline::seconds(120))?;
    Ok((cluster, commands))
}

/// A subscription of one database to another of the same server, which works: what is inserted at
/// one end comes out at the other.
fn subscribe(cluster: &Cluster) -> Result<()> {
    cluster.sql("CREATE DATABASE publisher")?;
    cluster.psql(
        "publisher",
        "CREATE TABLE news (n int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE news",
    )?;
    cluster.psql("publisher", "SELECT pg_create_logical_replication_slot('sub', 'pgoutput')")?;
    cluster.sql("CREATE TABLE news (n int PRIMARY KEY)")?;
    let socket = cluster.socket_dir().display();
    cluster.sql(&format!(
        "CREATE SUBSCRIPTION sub CONNECTION 'host={socket} port={} user=postgres \
         dbname=publisher' PUBLICATION p WITH (create_slot = false, slot_name = 'sub', copy_data = false)",
        cluster.port()
    ))?;
    await_news(cluster, 1)
}

fn await_news(cluster: &Cluster, n: u32) -> Result<()> {
    cluster.psql("publisher", &format!("INSERT INTO news VALUES ({n})"))?;
    tests::wait::until(&Deadline::seconds(60), "the subscription to bring it", || {
        let there =
            cluster.value("postgres", &format!("SELECT count(*) FROM news WHERE n = {n}"))?;
        Ok((there == "1").then_some(()))
    })
}

/// Written, and not yet in force at the source: in a copy it would be.
const DANGEROUS: &str = "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements', 'no_such_library'; \
     ALTER SYSTEM SET synchronous_standby_names = 'nobody'; \
     ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'; \
     ALTER SYSTEM SET primary_slot_name = 'theirs'; \
     ALTER SYSTEM SET restore_command = 'false';";

fn assert_quiet(copy: &Cluster, commands: &Path) -> Result<()> {
    let is = |query: &str, wanted: &str| -> Result<()> {
        let found = copy.value("postgres", query)?;
        ensure!(found == wanted, "{query}: {found:?} instead of {wanted:?}");
        Ok(())
    };
    is("SHOW archive_mode", "off")?;
    is("SHOW work_mem", "7MB")?;
    is("SHOW max_connections", "60")?;
    is("SHOW shared_preload_libraries", "pg_stat_statements")?;
    for name in ["synchronous_standby_names", "primary_conninfo", "primary_slot_name"] {
        is(&format!("SELECT current_setting('{name}') = ''"), "t")?;
    }
    is("SELECT count(*) FROM pg_replication_slots", "0")?;
    is("SELECT string_agg(subenabled::text, ',') FROM pg_subscription", "false")?;
    // A segment is finished, and nobody is told; the launcher has had the time to look around.
    copy.sql("CREATE TABLE written_here (n int); SELECT pg_switch_wal(); SELECT pg_sleep(1)")?;
    is(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '(apply|walreceiver|archiver|sync)'",
        "0",
    )?;
    let ran = std::fs::read_to_string(commands).unwrap_or_default();
    let here = copy.data().display().to_string();
    ensure!(!ran.contains(&here), "the archive command ran in the copy: {ran}");
    Ok(())
}

#[test]
fn a_copy_starts_anywhere_wakes_nothing_and_is_refused_by_the_archive_it_came_from() -> Result<()> {
    scope::postgres_versions().into_iter().try_for_each(copied)
}

fn copied(major: u32) -> Result<()> {
    let (cluster, commands) = debian_like(major)?;
    subscribe(&cluster)?;
    cluster.sql("CREATE EXTENSION pg_stat_statements")?;
    DANGEROUS.split_inclusive(';').try_for_each(|one| cluster.sql(one).map(drop))?;
    let mut protected = Protected::around(cluster, Place::Folder, &[])?;
    protected.await_base()?;
    await_news(&protected.cluster, 2)?;
    protected.cluster.add_rows(1000)?;
    let moment = protected.cluster.record("postgres")?;
    // The source's own command does run.
    protected.cluster.switch_wal()?;
    tests::wait::until(&Deadline::seconds(60), "the source's archive command", || {
        let ran = std::fs::read_to_string(&commands).unwrap_or_default();
        Ok((!ran.is_empty()).then_some(()))
    })?;
    protected.await_everything()?;
    let data = protected.restore("copy", &["--at-lsn", &moment.lsn.to_string()])?;
    let text = std::fs::read_to_string(data.join(".pitr/restored.json"))?;
    for word in ["no_such_library", "synchronous_standby_names", "sub"] {
        ensure!(text.contains(word), "the report names {word}: {text}");
    }
    starts_without_the_archive(&protected, &data)?;
    protected.assert_restored(&data, &moment)?;
    let copy = Cluster::open(major, &data)?;
    copy.start()?;
    assert_quiet(&copy, &commands)?;
    await_news(&protected.cluster, 3)?;
    refused_by_its_archive(&mut protected, &copy)
}

/// `pg_ctl start` and nothing else, with the archive out of reach.
fn starts_without_the_archive(protected: &Protected, data: &Path) -> Result<()> {
    let archive = Path::new(&protected.archive);
    let away = archive.with_extension("away");
    SystemDisk.rename_exclusive(archive, &away)?;
    let port = Port::take()?;
    let started = Plain::start(&protected.cluster, data, port.number()).and_then(Plain::stop);
    SystemDisk.rename_exclusive(&away, archive)?;
    started
}

/// While the source's own writer runs, and when it is gone.
fn refused_by_its_archive(protected: &mut Protected, copy: &Cluster) -> Result<()> {
    let archive = Archive::at(Path::new(&protected.archive));
    for alone in [false, true] {
        if !alone {
            // Not fenced: it still makes durable what comes.
            protected.cluster.add_rows(10)?;
            protected.await_everything()?;
        } else {
            protected.pitrd.sigterm(&Deadline::seconds(60))?;
        }
        let before = archive.keys("")?;
        let mut foreign = Pitrd::builder(&copy.replication_url(), &protected.archive).start()?;
        let status = foreign.await_exit(&Deadline::seconds(120))?;
        ensure!(status.code() == Some(6), "alone {alone}: {status}\n{}", foreign.log());
        ensure!(foreign.log().contains("--new-lineage"), "the way out: {}", foreign.log());
        // The source's own writer goes on, and what is not its own is not there.
        let after = archive.keys("")?;
        let foreign_keys: Vec<_> = after
            .iter()
            .filter(|key| !before.contains(key) && (alone || !key.contains("/tail/")))
            .collect();
        ensure!(foreign_keys.is_empty(), "alone {alone}: written: {foreign_keys:?}");
        let arguments =
            ["base", "--source", &copy.replication_url(), "--archive", &protected.archive];
        tests::programs::pitrd(&arguments)?.code_is(6)?;
        let slots = copy.value("postgres", "SELECT count(*) FROM pg_replication_slots")?;
        ensure!(slots == "0", "no slot is left at the copy");
    }
    let output = protected.pitr(&["verify", "--read-data"])?.ok()?;
    println!("{}", output.stdout.lines().next().context("verify says something")?);
    Ok(())
}
