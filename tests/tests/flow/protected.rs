//! A real server under a real `pitrd run`, and what a restore of it is compared with.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proto::postgres::lsn::Lsn;
use tests::postgres::{Builder, Cluster, Moment};
use tests::programs::{self, Pitrd};
use tests::scratch::Folder;
use tests::seaweed::{BUCKET, Seaweed};
use tests::user;
use tests::wait::{Deadline, until};

/// Where the archive lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Folder,
    S3,
}

pub(crate) struct Protected {
    pub(crate) cluster: Cluster,
    pub(crate) pitrd: Pitrd,
    pub(crate) archive: String,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) folder: Folder,
}

impl Protected {
    /// Starts the server and `pitrd run`; the first base may still be running.
    pub(crate) fn start(builder: Builder, place: Place, arguments: &[&str]) -> Result<Self> {
        Self::around(builder.start()?, place, arguments)
    }

    pub(crate) fn around(cluster: Cluster, place: Place, arguments: &[&str]) -> Result<Self> {
        let url = cluster.replication_url();
        Self::around_at(cluster, &url, place, arguments)
    }

    /// The same with a source URL of one's own, such as one with several hosts.
    pub(crate) fn around_at(
        cluster: Cluster,
        source: &str,
        place: Place,
        arguments: &[&str],
    ) -> Result<Self> {
        let folder = Folder::new("protected")?;
        let (archive, environment) = match place {
            Place::Folder => (folder.path().join("archive").display().to_string(), Vec::new()),
            Place::S3 => {
                let store = Seaweed::shared()?;
                let prefix = folder.path().file_name().context("a folder's name")?;
                (store.url(BUCKET, &prefix.to_string_lossy()), store.environment())
            }
        };
        let pitrd = Pitrd::builder(source, &archive)
            .envs(environment.clone())
            .args(arguments.iter().copied())
            .start()?;
        Ok(Self { cluster, pitrd, archive, environment, folder })
    }

    pub(crate) fn await_base(&mut self) -> Result<()> {
        self.pitrd.wait_for_log("base complete", &Deadline::seconds(300))
    }

    /// Waits until the store holds the log up to `lsn`.
    pub(crate) fn await_durable(&mut self, lsn: Lsn) -> Result<()> {
        let what = format!("the log is durable up to {lsn}");
        self.pitrd.wait_for_metrics(&what, &Deadline::seconds(120), |metrics| {
            metrics.sum("pitr_durable_position").is_some_and(|at| at >= lsn.0 as f64)
        })?;
        Ok(())
    }

    /// Waits until everything that the server has is durable.
    pub(crate) fn await_everything(&mut self) -> Result<Lsn> {
        let lsn = self.cluster.flush_position()?;
        self.await_durable(lsn)?;
        Ok(lsn)
    }

    /// Runs a command of `pitr` on this archive.
    pub(crate) fn pitr(&self, arguments: &[&str]) -> Result<programs::Output> {
        let mut all = arguments.to_vec();
        all.extend(["--archive", &self.archive]);
        programs::run("pitr", &all, &self.environment)
    }

    /// Restores into a new folder and returns it.
    pub(crate) fn restore(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let into = self.folder.sub(name)?.join("data");
        let text = into.display().to_string();
        let bin = self.cluster.bin_dir().display().to_string();
        let mut all = vec!["restore", "--into", &text, "--pg-bin", &bin];
        if let Some(user) = user::run_as() {
            all.extend(["--run-as", user]);
        }
        all.extend(arguments);
        let output = self.pitr(&all)?.ok()?;
        println!("{}", output.stdout);
        Ok(into)
    }

    /// Starts a restored folder and fails unless it holds exactly what was recorded.
    pub(crate) fn assert_restored(&self, data: &Path, moment: &Moment) -> Result<()> {
        let copy = Cluster::open(self.cluster.major(), data)?;
        copy.start()?;
        copy.assert_holds(moment)?;
        println!(
            "PostgreSQL {} from {}: {} ({}) restored, {} tables equal, {}",
            self.cluster.major(),
            self.archive,
            moment.time,
            moment.lsn,
            moment.hashes.len(),
            combined(moment),
        );
        Ok(())
    }

    /// Waits until `pitr status` proves that nothing was committed up to `time` that is missing.
    pub(crate) fn await_proof(&self, time: &str) -> Result<()> {
        let wanted: proto::timestamp::Timestamp = proto::timestamp::Timestamp::parse(time)?;
        until(&Deadline::seconds(180), "the archive proves the moment complete", || {
            let status = self.pitr(&["status", "--json"])?.json()?;
            let to = status["windows"]
                .as_array()
                .and_then(|w| w.last()?["to"].as_str().map(str::to_owned));
            let to = to.and_then(|to| proto::timestamp::Timestamp::parse(&to).ok());
            Ok(to.filter(|to| *to >= wanted).map(drop))
        })
    }
}

/// One hash of all tables, for the report.
fn combined(moment: &Moment) -> String {
    let all: String = moment.hashes.iter().map(|(name, hash)| format!("{name}={hash};")).collect();
    proto::segment::Hash::of(all.as_bytes()).to_string()[..16].to_owned()
}
