//! pgbench as a load that runs in the background until it is told to stop.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Result, bail};

use super::{Cluster, SUPERUSER};
use crate::process::{self, Signal};
use crate::wait::Deadline;

/// A running pgbench.
#[derive(Debug)]
pub struct Pgbench {
    child: Child,
    log: PathBuf,
}

impl Cluster {
    /// Fills pgbench's tables: 100,000 rows for each step of the scale.
    pub fn pgbench_init(&self, database: &str, scale: u32) -> Result<()> {
        let mut pgbench = self.pgbench_command(database);
        pgbench.args(["-i", "-q", "-s", &scale.to_string()]);
        process::run(pgbench)?;
        Ok(())
    }

    /// Runs pgbench with these arguments to its end, and gives what it printed.
    pub fn pgbench(&self, database: &str, arguments: &[&str]) -> Result<String> {
        let mut pgbench = self.pgbench_command(database);
        pgbench.args(arguments);
        Ok(String::from_utf8(process::run(pgbench)?.stdout)?)
    }

    /// Loads it in the background with this many clients until stopped (at most an hour).
    pub fn pgbench_start(&self, database: &str, clients: u32) -> Result<Pgbench> {
        self.pgbench_start_with(database, &["-c", &clients.to_string(), "-j", "1", "-T", "3600"])
    }

    /// [`Self::pgbench_start`] with arguments of one's own, such as a rate or a script.
    pub fn pgbench_start_with(&self, database: &str, arguments: &[&str]) -> Result<Pgbench> {
        let log = tempfile::Builder::new().prefix("pgbench-").tempfile_in(self.folder.path())?;
        let (file, log) = log.keep()?;
        let mut pgbench = self.pgbench_command(database);
        pgbench.args(["-n"]).args(arguments);
        pgbench.stdin(Stdio::null()).stdout(File::try_clone(&file)?).stderr(file);
        Ok(Pgbench { child: process::spawn(pgbench)?, log })
    }

    fn pgbench_command(&self, database: &str) -> std::process::Command {
        let mut pgbench = self.tool("pgbench");
        pgbench.arg("-h").arg(self.socket_dir()).args(["-p", &self.port().to_string()]);
        pgbench.args(["-U", SUPERUSER]);
        pgbench.env("PGDATABASE", database);
        pgbench
    }
}

impl Pgbench {
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it now; it must have been running until then.
    pub fn stop(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("pgbench had already ended with {status}:\n{}", self.output());
        }
        process::signal(&self.child, Signal::TERM)?;
        process::wait_for(&mut self.child, "pgbench", &Deadline::seconds(60))?;
        Ok(())
    }

    /// Waits for its own end, and gives what it printed.
    pub fn wait(mut self, deadline: &Deadline) -> Result<String> {
        let status = process::wait_for(&mut self.child, "pgbench", deadline)?;
        if !status.success() {
            bail!("pgbench ended with {status}:\n{}", self.output());
        }
        Ok(self.output())
    }

    fn output(&self) -> String {
        process::tail_of(&self.log, 40)
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}
