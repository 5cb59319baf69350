//! Starting, stopping, killing and promoting a server, always by its own pid.

use anyhow::{Result, bail};
use rustix::process::Pid;

use super::Cluster;
use crate::process::{self, Death, Signal};
use crate::small_disk;
use crate::user;
use crate::wait::Deadline;

/// How to stop, as in `pg_ctl stop -m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits for clients to leave.
    Smart,
    /// Throws clients out, and waits for replication clients to have everything.
    Fast,
    /// No checkpoint: recovery at the next start.
    Immediate,
}

impl Stop {
    /// The postmaster's own signals (postmaster.c).
    fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::TERM,
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }
}

impl Cluster {
    /// Starts it and waits until it takes connections.
    pub fn start(&self) -> Result<()> {
        self.launch(&[])?;
        self.await_ready(&Deadline::seconds(120))
    }

    /// Starts it with more `-c` settings, and does not wait.
    pub fn launch(&self, settings: &[(&str, &str)]) -> Result<()> {
        // Through `env`: what libfaketime makes in setpriv would belong to root.
        let mut command = process::command("env", user::server_user(), Death::Quit);
        self.prepare(&mut command);
        command
            .args(self.environment.iter().map(|(name, value)| format!("{name}={value}")))
            .arg(self.bin("postgres"))
            .arg("-D")
            .arg(&self.data)
            .args(["-c", &format!("port={}", self.port())])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "logging_collector=off"])
            .args(["-c", &format!("unix_socket_directories={}", self.socket_dir().display())]);
        for (name, value) in settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        let command = match self.wal_disk {
            Some(mebibytes) => small_disk::under(&command, &self.wal_dir(), mebibytes),
            None => command,
        };
        self.server.launch(command)
    }

    /// Waits as pg_ctl does: the eighth line of postmaster.pid says `ready` or `standby`.
    pub fn await_ready(&self, deadline: &Deadline) -> Result<()> {
        self.server.await_ready(deadline, || {
            let Ok(text) = std::fs::read_to_string(self.data.join("postmaster.pid")) else {
                return Ok(false);
            };
            let mut lines = text.lines();
            let ours = lines.next().and_then(|line| line.parse().ok()) == self.pid();
            let state = lines.nth(6).map(str::trim);
            Ok(ours && matches!(state, Some("ready" | "standby")))
        })
    }

    /// The postmaster's pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Stops it and waits until it has stopped.
    pub fn stop(&self, mode: Stop) -> Result<()> {
        self.stop_within(mode, &Deadline::seconds(120))
    }

    /// [`Self::stop`] with a limit, for tests of who may delay a shutdown. After an error the
    /// server still runs, on its way down.
    pub fn stop_within(&self, mode: Stop, deadline: &Deadline) -> Result<()> {
        self.request_stop(mode)?;
        self.await_exit(deadline)
    }

    /// Asks it to stop and does not wait.
    pub fn request_stop(&self, mode: Stop) -> Result<()> {
        self.server.signal(mode.signal())
    }

    /// Waits until it has gone by itself, as at a recovery target with `shutdown`.
    pub fn await_exit(&self, deadline: &Deadline) -> Result<()> {
        self.server.await_exit(deadline)
    }

    pub fn restart(&self) -> Result<()> {
        self.stop(Stop::Fast)?;
        self.start()
    }

    /// SIGKILL for the postmaster and all its children: as if the machine had crashed, but for the
    /// page cache.
    pub fn kill9(&self) -> Result<()> {
        // Stopped first: it could fork between the look and the kill.
        self.server.signal(Signal::STOP)?;
        let children = self.children();
        self.server.kill9()?;
        process::kill_all(&children)
    }

    /// Freezes or resumes the postmaster and its children.
    pub fn pause(&self, paused: bool) -> Result<()> {
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        self.server.signal(signal)?;
        for pid in self.children() {
            // One that has just ended is no error.
            let _ = rustix::process::kill_process(pid, signal);
        }
        Ok(())
    }

    /// The postmaster's children.
    fn children(&self) -> Vec<Pid> {
        self.pid().map(process::children_of).unwrap_or_default()
    }

    /// Ends recovery and waits until it takes writes.
    pub fn promote(&self) -> Result<()> {
        let answer = self.value("postgres", "SELECT pg_promote(true, 120)")?;
        if answer != "t" {
            bail!("pg_promote answered {answer}:\n{}", self.server.log_tail());
        }
        Ok(())
    }

    /// Reads the configuration files again.
    pub fn reload(&self) -> Result<()> {
        self.sql("SELECT pg_reload_conf()").map(|_| ())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.take() {
            // It may be frozen; then nothing but CONT lets it see the rest.
            for signal in [Signal::QUIT, Signal::CONT] {
                let _ = process::signal(&child, signal);
            }
            let children = process::children_of(child.id());
            let down = process::wait_for(&mut child, "PostgreSQL", &Deadline::seconds(10));
            if down.is_err() {
                process::end(&mut child);
            }
            let _ = process::kill_all(&children);
        }
    }
}
