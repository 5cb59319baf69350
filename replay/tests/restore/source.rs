//! A server, and an archive of it made by hand: base from pg_basebackup, log from its own folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use proto::archive::base::Tablespace;
use proto::clock::{Clock, SystemClock};
use proto::postgres::lsn::{Lsn, SegmentId, Timeline};
use replay::catalog::Catalog;
use replay::find::{Request, Target};
use replay::plan::{Plan, Wanted, make};
use replay::target::postgres::{Report, RestoreError, RestoreOptions, restore_from};
use replay::target::progress::Silent;
use tests::postgres::{Builder, Cluster};
use tests::scratch::Folder;
use tokio_util::sync::CancellationToken;

use crate::bases::{BASE, complete, put_stream};
use crate::fetch::testing::{Archive, LINEAGE};

const PART: u64 = 4 << 20;
const FRAME: usize = 1 << 20;

pub(crate) struct Source {
    pub(crate) cluster: Cluster,
    pub(crate) archive: Archive,
    pub(crate) folder: Folder,
    start: Lsn,
}

/// How the base is made.
#[derive(Default)]
pub(crate) struct BaseWishes {
    /// Without its configuration files, as on Debian.
    pub(crate) bare: bool,
}

pub(crate) fn version() -> u32 {
    tests::scope::newest_postgres()
}

pub(crate) fn builder() -> Builder {
    Cluster::builder(version()).conf("wal_keep_size", "2GB").conf("max_wal_size", "2GB")
}

impl Source {
    /// A server with a base in an archive.
    pub(crate) async fn new(builder: Builder, wishes: BaseWishes) -> Result<Self> {
        Self::with(builder, wishes, |_| Ok(())).await
    }

    /// The same, after `prepare`.
    pub(crate) async fn with(
        builder: Builder,
        wishes: BaseWishes,
        prepare: impl FnOnce(&Cluster) -> Result<()>,
    ) -> Result<Self> {
        let cluster = builder.start()?;
        cluster.sql("CREATE TABLE t (n int, x text)")?;
        prepare(&cluster)?;
        let folder = Folder::new("restore")?;
        let size = cluster
            .value("postgres", "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")?;
        let mut archive = Archive::new(&folder.path().join("archive"), size.parse()?).await;
        archive.plan.head.identity.cluster = cluster.system_identifier()?.to_string();
        let number = cluster.value("postgres", "SHOW server_version_num")?.parse()?;
        let identity = archive.plan.head.identity.postgres.as_mut().context("of PostgreSQL")?;
        identity.version_num = number;
        let mut source = Self { cluster, archive, folder, start: Lsn(0) };
        source.base(number, wishes).await?;
        Ok(source)
    }

    async fn base(&mut self, version_num: u32, wishes: BaseWishes) -> Result<()> {
        let out = self.cluster.scratch("base")?;
        let mut command = self.cluster.tool("pg_basebackup");
        command.args(["-Ft", "-X", "none", "-c", "fast", "-U", "postgres", "--no-slot", "-D"]);
        command.arg(&out).arg("-h").arg(self.cluster.socket_dir());
        command.args(["-p", &self.cluster.port().to_string()]);
        tests::process::run(command)?;
        let manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.join("backup_manifest"))?)?;
        let range = &manifest["WAL-Ranges"][0];
        let lsn =
            |name: &str| Ok::<Lsn, anyhow::Error>(range[name].as_str().context("an LSN")?.parse()?);
        let mut streams = Vec::new();
        let mut tablespaces = Vec::new();
        let spaces = self.cluster.query(
            "postgres",
            "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 2000",
        )?;
        for space in spaces {
            let oid: u32 = space[0].parse()?;
            let tar = std::fs::read(out.join(format!("{oid}.tar")))?;
            streams.push(put_stream(&self.archive, &space[0], Some(oid), &tar, PART, FRAME).await);
            tablespaces.push(Tablespace { oid, location: space[1].clone(), bytes: None });
        }
        let mut tar = std::fs::read(out.join("base.tar"))?;
        if wishes.bare {
            tar = without_configuration(&tar)?;
        }
        streams.push(put_stream(&self.archive, "base", None, &tar, PART, FRAME).await);
        let mut base = complete(streams, tablespaces);
        base.finished = SystemClock::new().wall();
        let postgres = base.postgres.as_mut().context("a base of PostgreSQL's")?;
        postgres.version_num = version_num;
        postgres.system_identifier = self.archive.plan.head.identity.cluster.clone();
        postgres.timeline = Timeline(self.cluster.timeline()?);
        postgres.stop_timeline = postgres.timeline;
        (postgres.start, postgres.stop) = (lsn("Start-LSN")?, lsn("End-LSN")?);
        let settings = self.cluster.query(
            "postgres",
            "SELECT name, setting FROM pg_settings \
             WHERE source NOT IN ('default', 'override', 'client', 'session')",
        )?;
        postgres.settings =
            settings.into_iter().map(|mut row| (row.remove(0), row.remove(0))).collect();
        self.start = postgres.start;
        let identity = self.archive.plan.head.identity.clone();
        let first = identity.postgres().map(|p| p.segment_bytes.floor(self.start));
        let mut identity = identity;
        if let (Some(postgres), Some(first)) = (identity.postgres.as_mut(), first) {
            postgres.first = first;
        }
        self.archive.put(LINEAGE.identity(), identity.encode()).await;
        self.archive.put(LINEAGE.base_complete(BASE), base.encode()).await;
        std::fs::remove_dir_all(out)?;
        Ok(())
    }

    /// The log from the base on, up to what the server has flushed by now: called once.
    pub(crate) async fn log(&mut self) -> Result<()> {
        let size = self.archive.size();
        let end = self.cluster.flush_position()?;
        let timeline = Timeline(self.cluster.timeline()?);
        for number in size.segment_of(self.start)..=size.segment_of(end) {
            let id = SegmentId { timeline, number };
            let raw = std::fs::read(self.cluster.wal_dir().join(id.name(size)))?;
            if id.end(size) <= end {
                self.archive.seal(number, &raw).await;
            } else {
                let length = usize::try_from(size.offset_in(end))?;
                self.archive.tails(number, &raw[..length], 300_000).await;
            }
        }
        Ok(())
    }

    pub(crate) async fn plan(&self, target: Target, exclusive: bool) -> Result<Plan> {
        let catalog = Catalog::read(self.archive.store.clone(), None).await?;
        let asked = format!("{target:?}");
        let request = Request { target, exclusive, candidate: None };
        let wanted = Wanted { request, asked, base: None, timeline: None };
        Ok(Box::pin(make(&catalog, &wanted, SystemClock::new().wall())).await?)
    }

    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn options(&self, name: &str) -> RestoreOptions {
        RestoreOptions {
            into: self.place(name),
            pg_bin: Some(self.cluster.bin_dir()),
            run_as: tests::user::run_as().map(str::to_owned),
            program: Some(PathBuf::from(env!("CARGO_BIN_EXE_pitr"))),
            ..RestoreOptions::default()
        }
    }

    pub(crate) async fn restore(&self, plan: &Plan, name: &str) -> Result<Report, RestoreError> {
        self.restore_with(plan, &self.options(name)).await
    }

    pub(crate) async fn restore_with(
        &self,
        plan: &Plan,
        options: &RestoreOptions,
    ) -> Result<Report, RestoreError> {
        let store = Arc::clone(&self.archive.store);
        let stop = CancellationToken::new();
        Box::pin(restore_from(store, plan, options, &Silent, &stop)).await
    }

    /// The restored server, started as anybody would: without the archive.
    pub(crate) fn open(&self, data: &Path) -> Result<Cluster> {
        let copy = Cluster::open(self.cluster.major(), data)?;
        copy.start()?;
        Ok(copy)
    }

    /// The id of the transaction that ran these statements.
    pub(crate) fn transaction(&self, statements: &str) -> Result<u32> {
        let script = format!("BEGIN; {statements}; SELECT 'xid', pg_current_xact_id(); COMMIT;");
        let text = self.cluster.sql(&script)?;
        let line = text.lines().find_map(|line| line.strip_prefix("xid|")).context("an id")?;
        Ok(line.parse()?)
    }
}

fn without_configuration(tar: &[u8]) -> Result<Vec<u8>> {
    let mut out = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(tar).entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let ours = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"];
        if !ours.iter().any(|name| path == Path::new(name)) {
            let header = entry.header().clone();
            out.append(&header, entry)?;
        }
    }
    Ok(out.into_inner()?)
}
