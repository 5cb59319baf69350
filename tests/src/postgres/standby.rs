//! A second server that streams from a first one.

use anyhow::{Context, Result};

use super::{Builder, Cluster, SUPERUSER};
use crate::process;
use crate::wait::{self, Deadline};

impl Cluster {
    /// A running standby of this server, cloned with pg_basebackup and streaming.
    pub fn standby(&self) -> Result<Cluster> {
        self.standby_with(Cluster::builder(self.major))
    }

    /// [`Self::standby`] with an environment or clock of its own. What the builder says of the
    /// data is the primary's affair and is not used.
    pub fn standby_with(&self, builder: Builder) -> Result<Cluster> {
        let standby = self.clone_with(builder)?;
        standby.start()?;
        standby.await_streaming()?;
        Ok(standby)
    }

    /// A copy made with pg_basebackup that would stream from here once started.
    pub fn clone_with(&self, builder: Builder) -> Result<Cluster> {
        let mut copy = builder.bare()?;
        let mut backup = copy.tool("pg_basebackup");
        backup
            .args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"])
            .args(["--no-sync", "--dbname", &self.url(SUPERUSER, "postgres")])
            .arg("--pgdata")
            .arg(&copy.data);
        for (name, folder) in &self.tablespaces {
            let own = copy.folder.path().join(format!("tablespace-{name}"));
            backup.arg(format!("--tablespace-mapping={}={}", folder.display(), own.display()));
            copy.tablespaces.insert(name.clone(), own);
        }
        process::run(backup).context("pg_basebackup failed")?;
        Ok(copy)
    }

    /// Makes of this server, which has ended, a running standby of the one that took its place: what
    /// it alone has written is thrown away (pg_rewind; it wants data checksums or wal_log_hints).
    pub fn rewind_to(&self, primary: &Cluster) -> Result<()> {
        // Before 16 pg_rewind reads the new timeline from a control file that only a checkpoint writes.
        primary.sql("CHECKPOINT")?;
        let mut rewind = self.tool("pg_rewind");
        rewind
            .args(["--no-sync", "--write-recovery-conf"])
            .args(["--source-server", &primary.url(SUPERUSER, "postgres")])
            .arg("--target-pgdata")
            .arg(&self.data);
        process::run(rewind).context("pg_rewind failed")?;
        self.start()?;
        self.await_streaming()
    }

    /// Waits until this standby receives from its primary.
    pub fn await_streaming(&self) -> Result<()> {
        let query = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        wait::until(&Deadline::seconds(60), "the standby to stream", || {
            Ok((self.value("postgres", query)? == "1").then_some(()))
        })
        .with_context(|| self.server.log_tail())
    }

    /// Waits until this standby has replayed everything that `primary` has written by now.
    pub fn await_replay_of(&self, primary: &Cluster) -> Result<()> {
        let target = primary.flush_position()?;
        wait::until(&Deadline::seconds(120), "the standby to replay", || {
            Ok((self.insert_position()? >= target).then_some(()))
        })
    }
}
