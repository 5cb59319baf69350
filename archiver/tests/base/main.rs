//! Bases of real servers, unpacked with the tools that everybody has; and what `check` says of
//! servers.

mod check;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use archiver::base::{
    BaseError, BaseOptions, Class, DurableLog, JoinError, LogError, Needed, PostgresSource,
    Progress, Source, join, take,
};
use archiver::source::postgres::{ConnectOptions, Environment};
use async_trait::async_trait;
use proto::archive::base::Complete;
use proto::archive::layout::Lineage;
use proto::clock::SystemClock;
use proto::store::folder::FolderStore;
use proto::store::{Access, Store};
use tests::postgres::{Cluster, Stop};
use tests::scratch::Folder;
use tests::{process, scope};

const LINEAGE: Lineage = Lineage(1);

/// Where the log is nobody's concern.
struct Assured;

#[async_trait]
impl DurableLog for Assured {
    async fn wait_until(&self, needed: &Needed) -> Result<(), LogError> {
        assert!(needed.start < needed.stop);
        Ok(())
    }
}

fn source(url: &str) -> Result<PostgresSource> {
    Ok(PostgresSource::new(ConnectOptions::parse(url, &Environment::default())?))
}

async fn take_into(cluster: &Cluster, folder: &Path, options: &BaseOptions) -> Result<Complete> {
    let store: Arc<dyn Store> = Arc::new(FolderStore::open(folder, Access::ReadWrite).await?);
    let mut source = source(&cluster.replication_url())?;
    let clock = SystemClock::new();
    Ok(take(&mut source, store, LINEAGE, &Assured, options, &clock).await?)
}

/// `cat`, `zstd`, `tar`: what README.md of an archive tells people to do.
fn unpack(parts: &Path, stream: &str, into: &Path) -> Result<()> {
    let script = format!(
        "set -e -o pipefail; cat '{}'/{stream}.tar.zst.* | zstd -dcq | tar -x -C '{}'",
        parts.display(),
        into.display()
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]);
    process::run(shell)?;
    Ok(())
}

fn unpack_all(folder: &Folder, complete: &Complete) -> Result<PathBuf> {
    let parts = folder.path().join(LINEAGE.base(&complete.id));
    let data = folder.sub("data")?;
    unpack(&parts, "base", &data)?;
    for tablespace in &complete.postgres().tablespaces {
        let place = folder.sub(&tablespace.oid.to_string())?;
        unpack(&parts, &tablespace.oid.to_string(), &place)?;
        symlink(&place, data.join("pg_tblspc").join(tablespace.oid.to_string()))?;
    }
    let manifest = complete.manifest.as_ref().context("no manifest")?;
    let script = format!(
        "zstd -dcq '{}' > '{}'",
        parts.join(&manifest.object).display(),
        data.join("backup_manifest").display()
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]);
    process::run(shell)?;
    Ok(data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_under_load_is_what_pg_verifybackup_expects() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = Cluster::builder(major).checksums(true).tablespace("elsewhere").start()?;
        cluster.pgbench_init("postgres", 2)?;
        cluster.sql("CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 50000)")?;
        cluster.sql(
            "CREATE TABLE noise AS SELECT md5(random()::text) || md5(random()::text) AS x \
             FROM generate_series(1, 300000)",
        )?;
        let load = cluster.pgbench_start("postgres", 2)?;
        let folder = Folder::new("base")?;
        let told = Arc::new(std::sync::Mutex::new(Vec::<Progress>::new()));
        let teller = told.clone();
        let progress: archiver::base::OnProgress =
            Arc::new(move |progress| teller.lock().expect("no panics").push(progress));
        let options = BaseOptions {
            label: "it's a base".to_owned(),
            progress: Some(progress),
            ..BaseOptions::default()
        };
        let complete = take_into(&cluster, folder.path(), &options).await?;
        load.stop()?;

        let data = unpack_all(&folder, &complete)?;
        let mut verify = cluster.tool("pg_verifybackup");
        verify.arg("--no-parse-wal").arg(&data);
        process::run(verify).with_context(|| format!("PostgreSQL {major}"))?;
        let label = std::fs::read_to_string(data.join("backup_label"))?;
        ensure!(label.contains("LABEL: it's a base"), "{label}");
        assert!(data.join("global/pg_control").is_file());
        let base = complete.archives.last().context("no archive")?;
        assert_eq!(base.name, "base");
        assert!(base.parts.len() > 1, "one part of {} bytes", base.raw_bytes);
        assert_eq!(complete.postgres().tablespaces.len(), 1);
        assert_eq!(complete.postgres().version_num / 10_000, major);
        assert!(complete.postgres().checksums && complete.damaged.is_empty());
        assert!(complete.postgres().settings.contains_key("max_connections"));
        assert!(complete.started < complete.finished);
        let last = *told.lock().expect("no panics").last().context("no progress")?;
        assert!(last.waiting_for_log && last.raw_bytes > 20 << 20, "{last:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_marks_the_base_and_does_not_prevent_it() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = Cluster::builder(major).checksums(true).start()?;
        cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS n")?;
        let path = cluster.sql("SELECT pg_relation_filepath('t')")?.trim().to_owned();
        cluster.stop(Stop::Fast)?;
        let file = cluster.data().join(&path);
        let mut bytes = std::fs::read(&file)?;
        bytes[2 * 8192 + 5000] ^= 0xFF;
        std::fs::write(&file, bytes)?;
        cluster.start()?;
        let folder = Folder::new("damaged")?;
        let complete = take_into(&cluster, folder.path(), &BaseOptions::default()).await?;
        let pages: Vec<_> =
            complete.damaged.iter().map(|page| (page.file.as_str(), page.block)).collect();
        assert_eq!(pages, [(path.as_str(), Some(2))], "PostgreSQL {major}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_replication_is_a_matter_of_configuration() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    cluster.sql("CREATE ROLE plain LOGIN")?;
    let mut source = source(&cluster.url("plain", "postgres"))?;
    let error = source.facts().await.expect_err("no right");
    assert_eq!(error.class, Class::Config, "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_joins_an_archive_only_of_its_own_cluster() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("join")?;
    let store: Arc<dyn Store> =
        Arc::new(FolderStore::open(folder.path(), Access::ReadWrite).await?);
    let options = ConnectOptions::parse(&cluster.replication_url(), &Environment::default())?;
    let (base_options, clock) = (BaseOptions::default(), SystemClock::new());
    let again = || join(options.clone(), store.clone(), &base_options, &clock);
    let error = again().await.expect_err("no archive");
    assert!(matches!(error, JoinError::NoArchive { .. }), "{error:?}");
    check::put_identity(&*store, "42").await?;
    let error = again().await.expect_err("another cluster");
    assert!(matches!(error, JoinError::Base(BaseError::WrongCluster { .. })), "{error:?}");
    Ok(())
}
