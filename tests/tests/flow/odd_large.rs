//! Many tables, a large table, and a catalog that changes under the base.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::postgres::Cluster;
use tests::process;
use tests::scope;

use super::odd_tools::quiet_moment;
use super::protected::{Place, Protected};

/// What `pitrd` may hold at the most, base and streaming together, whatever the database's size. A
/// debug build has three times the code, and compresses so slowly that every queue is full.
const MEMORY_MAX: u64 = if cfg!(debug_assertions) { 128 << 20 } else { 64 << 20 };

fn many_tables(cluster: &Cluster, tables: u32) -> Result<()> {
    for first in (0..tables).step_by(500) {
        cluster.sql(&format!(
            "DO $$ BEGIN FOR i IN {first}..{} LOOP EXECUTE format( \
             'CREATE TABLE small_%s AS SELECT n, md5((n * %s)::text) AS v \
              FROM generate_series(1, 5) n', i, i + 1); END LOOP; END $$",
            (first + 499).min(tables - 1)
        ))?;
    }
    Ok(())
}

#[test]
fn many_small_tables_and_a_large_one_are_restored_with_bounded_memory() -> Result<()> {
    let (tables, megabytes) = scope::scale((1_000, 100), (10_000, 2_048));
    let major = scope::newest_postgres();
    let cluster = Cluster::builder(major).conf("max_locks_per_transaction", "256").start()?;
    many_tables(&cluster, tables)?;
    // A row is close to one kilobyte, and does not compress away.
    let row = "SELECT i AS n, (SELECT string_agg(md5((i * 31 + j)::text), '') \
               FROM generate_series(1, 28) j) AS v FROM generate_series";
    cluster.sql(&format!("CREATE TABLE large AS {row}(1, {megabytes} * 1024) i"))?;
    let mut protected = Protected::around(cluster, Place::Folder, &[])?;
    // Log to stream while the base is copied, and after it.
    protected.cluster.sql(&format!("INSERT INTO large {row}(1, {megabytes} * 256) i"))?;
    protected.await_base()?;
    protected
        .cluster
        .sql("UPDATE small_7 SET v = 'changed'; DELETE FROM large WHERE n % 50 = 0")?;
    let moment = quiet_moment(&protected.cluster, "postgres")?;
    protected.await_everything()?;
    let memory = protected.pitrd.memory()?;
    println!(
        "{tables} tables and {megabytes} MB: pitrd held {} KiB at the most, {} KiB of them code",
        memory.peak >> 10,
        memory.file >> 10
    );
    ensure!(memory.peak < MEMORY_MAX, "pitrd held {} KiB", memory.peak >> 10);
    let data = protected.restore("latest", &["--latest"])?;
    ensure!(moment.hashes.len() > tables as usize, "every table is compared");
    protected.assert_restored(&data, &moment)
}

/// A table is made, filled, indexed, emptied, rewritten and dropped, for as long as it is told.
const CHURN: &str = "CREATE TABLE t_:client_id (n int PRIMARY KEY, v text);\n\
     INSERT INTO t_:client_id SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 300) i;\n\
     CREATE INDEX i_:client_id ON t_:client_id (v);\n\
     TRUNCATE t_:client_id;\n\
     INSERT INTO t_:client_id SELECT i, md5(i::text) FROM generate_series(1, 300) i;\n\
     ALTER TABLE t_:client_id ADD COLUMN more text DEFAULT 'more';\n\
     VACUUM FULL t_:client_id;\n\
     INSERT INTO kept SELECT n, v FROM t_:client_id WHERE n % 100 = 0;\n\
     DROP TABLE t_:client_id;\n";

const DATABASES: &str = "CREATE DATABASE d_:client_id;\n\
     CREATE TABLE note_:client_id AS SELECT now();\nDROP DATABASE d_:client_id;\n\
     DROP TABLE note_:client_id;\n\\sleep 200 ms\n";

fn script(cluster: &Cluster, name: &str, text: &str) -> Result<String> {
    let path = cluster.scratch("scripts")?.join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// Every index and table of every database, by PostgreSQL's own check.
fn check_pages(copy: &Cluster, data: &Path) -> Result<()> {
    let mut amcheck = copy.tool("pg_amcheck");
    amcheck
        .args(["--all", "--install-missing", "--heapallindexed", "--no-dependent-toast"])
        .args(["-U", "postgres", "-p", &copy.port().to_string(), "-h"])
        .arg(copy.socket_dir());
    process::run(amcheck).with_context(|| format!("{} is not sound", data.display()))?;
    Ok(())
}

#[test]
fn a_base_taken_while_tables_and_databases_come_and_go_is_sound() -> Result<()> {
    scope::postgres_versions().into_iter().try_for_each(churned)
}

fn churned(major: u32) -> Result<()> {
    let cluster = Cluster::start_new(major)?;
    cluster.pgbench_init("postgres", 1)?;
    cluster.sql("CREATE DATABASE churned")?;
    cluster.sql("CREATE DATABASE others")?;
    cluster.psql("churned", "CREATE TABLE kept (n int, v text)")?;
    let churn = script(&cluster, "churn.sql", CHURN)?;
    let databases = script(&cluster, "databases.sql", DATABASES)?;
    let endless = |file: &str, database: &str, clients: &str| {
        cluster.pgbench_start_with(database, &["-c", clients, "-T", "3600", "-f", file])
    };
    let churning = endless(&churn, "churned", "3")?;
    let coming_and_going = endless(&databases, "others", "1")?;
    let load = cluster.pgbench_start("postgres", 2)?;
    let mut protected = Protected::around(cluster, Place::Folder, &[])?;
    protected.await_base()?;
    let under_load = protected.cluster.record("postgres")?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    for load in [churning, coming_and_going, load] {
        load.stop()?;
    }
    let last = quiet_moment(&protected.cluster, "churned")?;
    protected.await_everything()?;
    // While everything changes, and when all is quiet.
    let data = protected.restore("under-load", &["--at-lsn", &under_load.lsn.to_string()])?;
    protected.assert_restored(&data, &under_load)?;
    let data = protected.restore("last", &["--latest"])?;
    protected.assert_restored(&data, &last)?;
    let copy = Cluster::open(major, &data)?;
    copy.start()?;
    check_pages(&copy, &data)
}
