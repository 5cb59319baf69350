use std::path::Path;

use anyhow::{Context, Result};
use archiver::check::{Level, Report, check};
use archiver::cli::Exit;
use archiver::source::postgres::{ConnectOptions, Environment};
use proto::archive::identity::{FORMAT_VERSION, Identity};
use proto::segment::Engine;
use proto::store::folder::FolderStore;
use proto::store::{Access, Body, Store};
use proto::timestamp::Timestamp;
use tests::postgres::Cluster;
use tests::scope;
use tests::scratch::Folder;

use crate::LINEAGE;

pub(crate) async fn put_identity(store: &dyn Store, cluster: &str) -> Result<()> {
    let identity = Identity {
        format: FORMAT_VERSION,
        engine: Engine::Postgresql,
        cluster: cluster.to_owned(),
        created: Timestamp(0),
        postgres: None,
        mongodb: None,
    };
    store.put(&LINEAGE.identity(), &Body::from(identity.encode())).await?;
    Ok(())
}

async fn report(cluster: &Cluster, archive: &Path) -> Result<Report> {
    let options = ConnectOptions::parse(&cluster.replication_url(), &Environment::default())?;
    Ok(check(&options, archive.to_str().context("UTF-8")?, &"pitr".parse()?).await)
}

fn level(report: &Report, check: &str) -> Level {
    let line = report.lines.iter().find(|line| line.check == check);
    line.unwrap_or_else(|| panic!("no line {check} in {report:?}")).level
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_what_is_wrong_before_it_matters() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = Cluster::builder(major).checksums(true).start()?;
        let folder = Folder::new("check")?;
        let good = report(&cluster, folder.path()).await?;
        assert_eq!(good.exit, Exit::Done, "{good:?}");
        assert_eq!(level(&good, "max_slot_wal_keep_size"), Level::Warn);
        for check in ["connection", "version", "wal_level", "slot", "walsenders", "store"] {
            assert_eq!(level(&good, check), Level::Ok, "{check}");
        }
        cluster.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")?;
        cluster.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'")?;
        cluster.reload()?;
        let store = FolderStore::open(folder.path(), Access::ReadWrite).await?;
        put_identity(&store, "42").await?;
        let wrong = report(&cluster, folder.path()).await?;
        assert_eq!(wrong.exit, Exit::WrongCluster);
        assert_eq!(level(&wrong, "identity"), Level::Fail);
        assert_eq!(level(&wrong, "synchronous_standby_names"), Level::Warn);
        assert_eq!(level(&wrong, "max_slot_wal_keep_size"), Level::Ok);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_of_a_server_that_cannot_be_archived() -> Result<()> {
    let cluster = Cluster::builder(scope::newest_postgres())
        .conf("max_replication_slots", "0")
        .conf("max_wal_senders", "2")
        .start()?;
    let folder = Folder::new("check")?;
    let report = report(&cluster, folder.path()).await?;
    assert_eq!((level(&report, "slot"), report.exit), (Level::Fail, Exit::Config));
    Ok(())
}
