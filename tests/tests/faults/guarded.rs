//! A server under load, its sidecar, and the history that its archive is held to in the end.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::archive::Archive;
use tests::gate::{Gate, Source};
use tests::mongod::{Load, ReplicaSet};
use tests::postgres::{Cluster, Pgbench};
use tests::programs::{self, Pitrd, PitrdBuilder};
use tests::scope;
use tests::scratch::Folder;
use tests::wait::Deadline;

use crate::flow::oplog_capture;

/// What a test of a fault needs of a database, whichever it is.
pub(super) trait Engine: Source<Moment: Clone> + Sized {
    /// Writes until it is dropped.
    type Load;

    /// A small server with small segments.
    fn launch() -> Result<Self>;

    fn address(&self) -> String;

    fn load(&self) -> Result<Self::Load>;

    /// Fails unless the archive comes to hold everything that was written, byte for byte.
    fn assert_archived(&self, pitrd: &mut Pitrd, archive: &Archive) -> Result<String>;
}

impl Engine for Cluster {
    type Load = Pgbench;

    fn launch() -> Result<Self> {
        let version = scope::newest_postgres();
        let cluster = Self::builder(version).segment_mb(1).conf("wal_keep_size", "4GB").start()?;
        cluster.pgbench_init("postgres", 1)?;
        Ok(cluster)
    }

    fn address(&self) -> String {
        self.replication_url()
    }

    fn load(&self) -> Result<Pgbench> {
        self.pgbench_start_with("postgres", &["-c", "2", "-R", "200", "-T", "3600"])
    }

    fn assert_archived(&self, pitrd: &mut Pitrd, archive: &Archive) -> Result<String> {
        pitrd.wait_durable_within(self.flush_position()?, &Deadline::seconds(300))?;
        let log = archive.log()?;
        let found = log.assert_unbroken()?;
        let files = log.assert_equals_files(&self.wal_dir())?;
        ensure!(log.gaps().is_empty(), "a gap was recorded");
        ensure!(files + 2 >= log.sealed.len(), "{files} files of {} compared", log.sealed.len());
        Ok(format!("{found}; {files} files equal the server's"))
    }
}

impl Engine for ReplicaSet {
    type Load = Load;

    fn launch() -> Result<Self> {
        Self::single()
    }

    fn address(&self) -> String {
        self.url()
    }

    fn load(&self) -> Result<Load> {
        let load = Load::start(self, 1)?;
        // A collection that is being created cannot be read as it was a moment ago.
        oplog_capture::more(&load, 50)?;
        Ok(load)
    }

    fn assert_archived(&self, _pitrd: &mut Pitrd, archive: &Archive) -> Result<String> {
        let archived = oplog_capture::await_archived(self, archive)?;
        ensure!(archived.gaps == 0, "{} gaps", archived.gaps);
        archived.assert_is_of(self.primary()?)
    }
}

/// One of them, protected.
pub(super) struct Guarded<E: Engine> {
    pub(super) server: E,
    pub(super) archive: Archive,
    pub(super) pitrd: Pitrd,
    /// The same for every start.
    plain: PitrdBuilder,
    pub(super) spool: PathBuf,
    gate: Gate<E>,
    /// The newest moment of the gate's.
    last: Option<E::Moment>,
    _folder: Folder,
}

impl<E: Engine> Guarded<E> {
    /// Starts server and sidecar, and waits for the first base.
    pub(super) fn start(
        archive: Archive,
        with: impl FnOnce(PitrdBuilder) -> PitrdBuilder,
    ) -> Result<Self> {
        let folder = Folder::new("guarded")?;
        let spool = folder.sub("spool")?;
        Self::on(E::launch()?, archive, folder, spool, with)
    }

    /// With its spool here.
    pub(super) fn with_spool(archive: Archive, spool: &Path) -> Result<Self> {
        let folder = Folder::new("guarded")?;
        Self::on(E::launch()?, archive, folder, spool.to_owned(), |builder| builder)
    }

    fn on(
        server: E,
        archive: Archive,
        folder: Folder,
        spool: PathBuf,
        with: impl FnOnce(PitrdBuilder) -> PitrdBuilder,
    ) -> Result<Self> {
        let plain = plain(&server, &archive, &spool);
        let mut pitrd = with(plain.clone()).start()?;
        pitrd.wait_for_log("base complete", &Deadline::seconds(300))?;
        Ok(Self {
            server,
            archive,
            pitrd,
            plain,
            spool,
            gate: Gate::new(),
            last: None,
            _folder: folder,
        })
    }

    /// The same sidecar on the same spool, run otherwise from here on.
    pub(super) fn again_with(
        &mut self,
        with: impl FnOnce(PitrdBuilder) -> PitrdBuilder,
    ) -> Result<()> {
        if self.pitrd.is_running() {
            self.pitrd.kill9()?;
        }
        self.pitrd = with(self.plain.clone()).start()?;
        Ok(())
    }

    /// The same, but for its spool: another folder, which knows nothing.
    pub(super) fn again_elsewhere(
        &mut self,
        spool: &Path,
        with: impl FnOnce(PitrdBuilder) -> PitrdBuilder,
    ) -> Result<()> {
        self.plain = plain(&self.server, &self.archive, spool);
        self.spool = spool.to_owned();
        self.again_with(with)
    }

    /// Records what the server holds now, for the gate.
    pub(super) fn note(&mut self) -> Result<()> {
        let moment = self.server.record()?;
        self.last = Some(moment.clone());
        self.gate.keep(moment);
        Ok(())
    }

    /// Restores what was noted last: its exit code. Whatever is restored is equal.
    pub(super) fn try_latest(&self) -> Result<Option<i32>> {
        let folder = Folder::new("try")?;
        let data = folder.path().join("data");
        let moment = self.last.as_ref().context("a moment was noted")?;
        let mut all: Vec<String> =
            ["restore", "--archive", self.archive.url(), "--into"].map(str::to_owned).to_vec();
        all.push(data.display().to_string());
        all.extend(E::target(moment));
        all.extend(self.server.restore_arguments()?);
        let output = programs::run("pitr", &all, &self.archive.environment())?;
        if output.code == Some(0) {
            self.server.assert_restored(&data, moment)?;
        }
        println!("restore: exit {:?}: {}", output.code, output.stderr.lines().next().unwrap_or(""));
        Ok(output.code)
    }

    /// The end of every test here: nothing is missing, and a random moment is restored.
    pub(super) fn pass(mut self, what: &str) -> Result<()> {
        self.note()?;
        let found = self.server.assert_archived(&mut self.pitrd, &self.archive)?;
        println!("{what}: {found}");
        self.gate.pass(&self.server, &self.archive)?;
        Ok(())
    }
}

fn plain<E: Engine>(server: &E, archive: &Archive, spool: &Path) -> PitrdBuilder {
    // The address stands in a variable: MongoDB's names a user and may name a password.
    PitrdBuilder::default()
        .args(["run", "--archive", archive.url(), "--flush", "100ms"])
        .args(["--spool", &spool.display().to_string()])
        .env("PITR_SOURCE", &server.address())
        .envs(archive.environment())
}
