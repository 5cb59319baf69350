//! What is no plain table: prepared transactions across the target, unlogged tables, large objects,
//! sequences, tablespaces; and settings that the source raised after the base.

use std::path::Path;

use anyhow::{Result, ensure};
use tests::postgres::Cluster;
use tests::scope;

use super::odd_tools::quiet_moment;
use super::protected::{Place, Protected};

const OBJECTS: &str = "CREATE TABLE promised (n int); INSERT INTO promised VALUES (1); \
     CREATE UNLOGGED TABLE fleeting (n int); INSERT INTO fleeting SELECT generate_series(1, 1000); \
     CREATE INDEX ON fleeting (n); \
     CREATE TABLE numbered (id bigserial PRIMARY KEY, v text); \
     INSERT INTO numbered (v) SELECT md5(i::text) FROM generate_series(1, 5000) i; \
     SELECT lo_from_bytea(4242, convert_to(repeat('large ', 500000), 'UTF8'));";

const RAISED: &str = "ALTER SYSTEM SET max_connections = 173; \
     ALTER SYSTEM SET max_prepared_transactions = 17; ALTER SYSTEM SET max_wal_senders = 19; \
     ALTER SYSTEM SET max_worker_processes = 11; ALTER SYSTEM SET max_locks_per_transaction = 97;";

/// What holds in a copy at either moment.
fn assert_objects(copy: &Cluster) -> Result<()> {
    let value = |query: &str| copy.value("postgres", query);
    ensure!(value("SELECT count(*) FROM fleeting")? == "0", "an unlogged table is empty");
    copy.sql("INSERT INTO fleeting VALUES (1)")?;
    ensure!(value("SELECT count(*) FROM fleeting WHERE n = 1")? == "1", "and it can be used");
    let large = "SELECT lo_get(4242) = convert_to(repeat('large ', 500000), 'UTF8')";
    ensure!(value(large)? == "t", "the large object is whole");
    let sane = "SELECT nextval('numbered_id_seq') > max(id) FROM numbered";
    ensure!(value(sane)? == "t", "a sequence gives nothing twice");
    Ok(())
}

fn prepared(major: u32) -> Result<()> {
    let mut protected = Protected::start(Cluster::builder(major), Place::Folder, &[])?;
    protected.await_base()?;
    let cluster = &protected.cluster;
    // The base knows the small settings only: the log says that they have grown.
    cluster.sql(RAISED)?;
    cluster.restart()?;
    cluster.sql(OBJECTS)?;
    cluster.sql("BEGIN; INSERT INTO promised VALUES (2); PREPARE TRANSACTION 'held'")?;
    let held = quiet_moment(cluster, "postgres")?;
    cluster.sql("INSERT INTO numbered (v) VALUES ('later')")?;
    cluster.sql("COMMIT PREPARED 'held'")?;
    let kept = quiet_moment(cluster, "postgres")?;
    protected.await_everything()?;

    let data = protected.restore("held", &["--at-lsn", &held.lsn.to_string()])?;
    protected.assert_restored(&data, &held)?;
    let copy = Cluster::open(major, &data)?;
    copy.start()?;
    let waiting = copy.value("postgres", "SELECT string_agg(gid, ',') FROM pg_prepared_xacts")?;
    ensure!(waiting == "held", "still prepared in the copy: {waiting:?}");
    assert_objects(&copy)?;
    copy.sql("COMMIT PREPARED 'held'")?;
    let rows = copy.value("postgres", "SELECT string_agg(n::text, ',') FROM promised")?;
    ensure!(rows == "1,2", "and can be kept there: {rows}");

    let data = protected.restore("kept", &["--latest"])?;
    protected.assert_restored(&data, &kept)?;
    let copy = Cluster::open(major, &data)?;
    copy.start()?;
    let waiting = copy.value("postgres", "SELECT count(*) FROM pg_prepared_xacts")?;
    ensure!(waiting == "0", "nothing is left prepared: {waiting}");
    assert_objects(&copy)
}

#[test]
fn prepared_transactions_unlogged_tables_and_large_objects_are_as_they_were_and_raised_settings_do_not_pause()
-> Result<()> {
    scope::postgres_versions().into_iter().try_for_each(prepared)
}

fn mapping(from: &Path, to: &Path) -> String {
    format!("{}={}", from.display(), to.display())
}

#[test]
fn tablespaces_are_moved_on_restore_and_never_laid_over_what_is_there() -> Result<()> {
    let major = scope::newest_postgres();
    let builder = Cluster::builder(major).tablespace("fast").tablespace("slow");
    let cluster = builder.start()?;
    cluster.sql(
        "CREATE TABLE here (n int); CREATE TABLE in_fast (n int, v text) TABLESPACE fast; \
         CREATE TABLE in_slow (n int, v text) TABLESPACE slow; \
         INSERT INTO in_fast SELECT i, md5(i::text) FROM generate_series(1, 20000) i",
    )?;
    let mut protected = Protected::around(cluster, Place::Folder, &[])?;
    protected.await_base()?;
    let cluster = &protected.cluster;
    cluster.sql(
        "INSERT INTO in_slow SELECT i, md5(i::text) FROM generate_series(1, 20000) i; \
         INSERT INTO here VALUES (1); CREATE INDEX by_n ON in_fast (n) TABLESPACE slow",
    )?;
    let moment = cluster.record("postgres")?;
    protected.await_everything()?;
    let cluster = &protected.cluster;
    let place = |name: &str| cluster.tablespace(name).map(Path::to_path_buf).unwrap_or_default();
    let (fast, slow) = (place("fast"), place("slow"));

    // Nothing is moved: the source's own files lie there.
    let into = protected.folder.path().join("refused");
    let text = into.display().to_string();
    let bin = cluster.bin_dir().display().to_string();
    let mut refused = vec!["restore", "--latest", "--into", &text, "--pg-bin", &bin];
    if let Some(user) = tests::user::run_as() {
        refused.extend(["--run-as", user]);
    }
    let output = protected.pitr(&refused)?.code_is(4)?;
    ensure!(!into.exists(), "nothing is written");
    let says = |text: &str| output.stderr.contains(text);
    let named = [&fast, &slow].iter().any(|path| says(&path.display().to_string()));
    ensure!(named && says("--tablespace"), "it names the place and the way out: {}", output.stderr);

    // One of them where no folder can be.
    let file = protected.folder.path().join("a-file");
    std::fs::write(&file, "x")?;
    let (fast_to, slow_to) =
        (mapping(&fast, &file.join("below")), mapping(&slow, &protected.folder.path().join("s")));
    let mut unusable = refused.clone();
    unusable.extend(["--tablespace", &fast_to, "--tablespace", &slow_to]);
    let output = protected.pitr(&unusable)?.code_is(4)?;
    ensure!(!into.exists(), "nothing is written");
    ensure!(output.stderr.contains("a-file"), "it names the place: {}", output.stderr);

    // Both in one folder.
    let one = protected.folder.path().join("one");
    let (fast_to, slow_to) = (mapping(&fast, &one), mapping(&slow, &one));
    let mut together = refused.clone();
    together.extend(["--tablespace", &fast_to, "--tablespace", &slow_to]);
    protected.pitr(&together)?.code_is(4)?;
    ensure!(!into.exists() && !one.exists(), "nothing is written");

    let (new_fast, new_slow) =
        (protected.folder.path().join("new/fast"), protected.folder.path().join("new/slow"));
    let (fast_to, slow_to) = (mapping(&fast, &new_fast), mapping(&slow, &new_slow));
    let arguments = ["--latest", "--tablespace", &fast_to, "--tablespace", &slow_to];
    let data = protected.restore("moved", &arguments)?;
    protected.assert_restored(&data, &moment)?;
    let copy = Cluster::open(major, &data)?;
    copy.start()?;
    let places = "SELECT string_agg(pg_tablespace_location(oid), ',' ORDER BY spcname) \
                  FROM pg_tablespace WHERE spcname IN ('fast', 'slow')";
    let found = copy.value("postgres", places)?;
    let wanted = format!("{},{}", new_fast.display(), new_slow.display());
    ensure!(found == wanted, "{found} instead of {wanted}");
    Ok(())
}
