//! Starting, stopping, killing and promoting a server, always by its own pid.

use std::fs::OpenOptions;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use super::Cluster;
use crate::process::{self, Death, Signal};
use crate::user;
use crate::wait::{self, Deadline};

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
        let mut child = self.child.lock().expect("no panic under this lock");
        if child.is_some() {
            bail!("the server on port {} is already running", self.port());
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
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
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *child = Some(process::spawn(command)?);
        Ok(())
    }

    /// Waits as pg_ctl does: the eighth line of postmaster.pid says `ready` or `standby`.
    pub fn await_ready(&self, deadline: &Deadline) -> Result<()> {
        wait::until(deadline, "PostgreSQL to take connections", || {
            if let Some(status) = self.exit_status()? {
                let log = process::tail_of(&self.log_path(), 30);
                bail!("PostgreSQL {} did not start ({status}):\n{log}", self.major);
            }
            let Ok(text) = std::fs::read_to_string(self.data.join("postmaster.pid")) else {
                return Ok(None);
            };
            let mut lines = text.lines();
            let ours = lines.next().and_then(|line| line.parse().ok()) == self.pid();
            let state = lines.nth(6).map(str::trim);
            Ok((ours && matches!(state, Some("ready" | "standby"))).then_some(()))
        })
    }

    /// The postmaster's pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().expect("no panic under this lock").as_ref().map(std::process::Child::id)
    }

    /// How it ended, if it ended by itself.
    fn exit_status(&self) -> Result<Option<std::process::ExitStatus>> {
        let mut child = self.child.lock().expect("no panic under this lock");
        let Some(running) = child.as_mut() else { bail!("the server was not started") };
        let status = running.try_wait()?;
        if status.is_some() {
            *child = None;
        }
        Ok(status)
    }

    pub fn is_running(&self) -> bool {
        matches!(self.exit_status(), Ok(None))
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
        let child = self.child.lock().expect("no panic under this lock");
        process::signal(child.as_ref().context("the server was not started")?, mode.signal())
    }

    /// Waits until it has gone by itself, as at a recovery target with `shutdown`.
    pub fn await_exit(&self, deadline: &Deadline) -> Result<()> {
        wait::until(deadline, "PostgreSQL to stop", || Ok(self.exit_status()?.map(|_| ())))
            .with_context(|| process::tail_of(&self.log_path(), 15))
    }

    pub fn restart(&self) -> Result<()> {
        self.stop(Stop::Fast)?;
        self.start()
    }

    /// SIGKILL for the postmaster and all its children: as if the machine had crashed, but for the
    /// page cache.
    pub fn kill9(&self) -> Result<()> {
        let child = self.child.lock().expect("no panic under this lock").take();
        let mut child = child.context("the server was not started")?;
        // Stopped first: it could fork between the look and the kill.
        process::signal(&child, Signal::STOP)?;
        let children: Vec<Pid> = process::children_of(child.id());
        process::end(&mut child);
        process::kill_all(&children)
    }

    /// Freezes or resumes the postmaster and its children.
    pub fn pause(&self, paused: bool) -> Result<()> {
        let guard = self.child.lock().expect("no panic under this lock");
        let child = guard.as_ref().context("the server was not started")?;
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        process::signal(child, signal)?;
        for pid in process::children_of(child.id()) {
            // One that has just ended is no error.
            let _ = rustix::process::kill_process(pid, signal);
        }
        Ok(())
    }

    /// Ends recovery and waits until it takes writes.
    pub fn promote(&self) -> Result<()> {
        let answer = self.value("postgres", "SELECT pg_promote(true, 120)")?;
        if answer != "t" {
            bail!("pg_promote answered {answer}:\n{}", process::tail_of(&self.log_path(), 15));
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
        let child = self.child.get_mut().map(Option::take).unwrap_or_default();
        if let Some(mut child) = child {
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
