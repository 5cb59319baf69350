//! A server's process: started, stopped, killed and frozen, always by its own pid.
//!
//! Enters: a command. Leaves: a process that writes into one log over all its starts, and that is
//! gone when this value goes.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::process::{self, Signal};
use crate::wait::{self, Deadline};

#[derive(Debug)]
pub(crate) struct Server {
    /// As messages call it.
    name: &'static str,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// One that does not run yet, whose log lies in this folder.
    pub(crate) fn new(name: &'static str, folder: &Path) -> Self {
        Self { name, log: folder.join("server.log"), child: Mutex::new(None) }
    }

    /// Starts it and does not wait.
    pub(crate) fn launch(&self, mut command: Command) -> Result<()> {
        let mut child = self.child.lock().expect("no panic under this lock");
        if child.is_some() {
            bail!("{} is already running", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *child = Some(process::spawn(command)?);
        Ok(())
    }

    /// Its pid while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.lock().expect("no panic under this lock").as_ref().map(Child::id)
    }

    /// How it ended, if it ended by itself.
    pub(crate) fn exit_status(&self) -> Result<Option<ExitStatus>> {
        let mut child = self.child.lock().expect("no panic under this lock");
        let running = child.as_mut().with_context(|| self.not_started())?;
        let status = running.try_wait()?;
        if status.is_some() {
            *child = None;
        }
        Ok(status)
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.exit_status(), Ok(None))
    }

    /// Waits until it is ready, and fails at once, with the end of its log, if it ends before.
    pub(crate) fn await_ready(
        &self,
        deadline: &Deadline,
        mut is_ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        wait::until(deadline, &format!("{} to be ready", self.name), || {
            if let Some(status) = self.exit_status()? {
                bail!("{} did not start ({status})", self.name);
            }
            Ok(is_ready()?.then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    /// Waits until it has gone by itself.
    pub(crate) fn await_exit(&self, deadline: &Deadline) -> Result<()> {
        let what = format!("{} to stop", self.name);
        wait::until(deadline, &what, || Ok(self.exit_status()?.map(|_| ())))
            .with_context(|| self.log_tail())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.lock().expect("no panic under this lock");
        process::signal(child.as_ref().with_context(|| self.not_started())?, signal)
    }

    /// SIGKILL, and waits until it has gone.
    pub(crate) fn kill9(&self) -> Result<()> {
        process::end(&mut self.take().with_context(|| self.not_started())?);
        Ok(())
    }

    /// The process, which then is the caller's to end.
    pub(crate) fn take(&self) -> Option<Child> {
        self.child.lock().expect("no panic under this lock").take()
    }

    /// Its log so far, over all its starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|raw| String::from_utf8_lossy(&raw).into_owned())
            .unwrap_or_default()
    }

    /// The end of it, for a message.
    pub(crate) fn log_tail(&self) -> String {
        process::tail_of(&self.log, 30)
    }

    fn not_started(&self) -> String {
        format!("{} was not started", self.name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.take() {
            process::end(&mut child);
        }
    }
}
