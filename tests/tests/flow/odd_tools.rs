//! What the tests of odd clusters share: moments recorded while nobody writes, and a restored folder
//! started as its owner would.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use tests::postgres::{Cluster, Moment};
use tests::process;

/// What the tables hold now. For a database without load: it takes no lock, so that a prepared
/// transaction does not keep it waiting for ever.
pub(super) fn quiet_moment(cluster: &Cluster, database: &str) -> Result<Moment> {
    // Between two commits by a clear distance of the clock.
    let now = "SELECT to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
               FROM pg_sleep(0.005)";
    let hashes = cluster.table_hashes(database)?;
    let lsn = cluster.insert_position()?;
    let time = cluster.value(database, now)?;
    cluster.value(database, "SELECT 1 FROM pg_sleep(0.005)")?;
    Ok(Moment { database: database.to_owned(), hashes, lsn, time })
}

/// A restored folder that `pg_ctl` started, with nothing on its command line but where to listen.
pub(super) struct Plain<'a> {
    source: &'a Cluster,
    data: PathBuf,
}

impl<'a> Plain<'a> {
    pub(super) fn start(source: &'a Cluster, data: &Path, port: u16) -> Result<Self> {
        let plain = Self { source, data: data.to_path_buf() };
        let sockets = source.scratch("sockets")?;
        let mut start = plain.pg_ctl();
        start
            .args(["start", "-w", "-s", "-l"])
            .arg(sockets.join("plain.log"))
            .arg("-o")
            .arg(format!("-p {port} -k {}", sockets.display()));
        process::run(start)?;
        Ok(plain)
    }

    fn pg_ctl(&self) -> Command {
        let mut command = self.source.tool("pg_ctl");
        command.arg("-D").arg(&self.data);
        command
    }

    /// A clean stop, which must succeed.
    pub(super) fn stop(self) -> Result<()> {
        let mut stop = self.pg_ctl();
        stop.args(["stop", "-w", "-s", "-m", "fast"]);
        process::run(stop)?;
        ensure!(!self.data.join("postmaster.pid").exists(), "it has stopped");
        Ok(())
    }
}

impl Drop for Plain<'_> {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            let mut stop = self.pg_ctl();
            let _ = stop.args(["stop", "-w", "-s", "-m", "immediate"]).output();
        }
    }
}
