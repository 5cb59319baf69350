//! Starting, stopping, killing and freezing a server, always by its own pid.

use std::fs::OpenOptions;
use std::net::TcpStream;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use super::Node;
use crate::process::{self, Death, Signal};
use crate::user;
use crate::wait::{self, Deadline};

impl Node {
    /// Starts it and waits until it answers.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.await_ready(&Deadline::seconds(120))
    }

    /// Starts it and does not wait.
    pub fn launch(&self) -> Result<()> {
        let mut child = self.child.lock().expect("no panic under this lock");
        if child.is_some() {
            bail!("the server on port {} is already running", self.port());
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut mongod = process::command(&self.program, user::server_user(), Death::Kill);
        mongod
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .arg(format!("--dbpath={}", self.data().display()))
            .arg(format!("--port={}", self.port()))
            .args(&self.arguments);
        mongod.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        *child = Some(process::spawn(mongod)?);
        Ok(())
    }

    /// Waits until it takes connections.
    pub fn await_ready(&self, deadline: &Deadline) -> Result<()> {
        wait::until(deadline, "mongod to take connections", || {
            if let Some(status) = self.exit_status()? {
                bail!("mongod did not start ({status}):\n{}", self.log_tail());
            }
            Ok(TcpStream::connect(("127.0.0.1", self.port())).ok().map(drop))
        })
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.lock().expect("no panic under this lock").as_ref().map(std::process::Child::id)
    }

    /// How it ended, if it ended by itself.
    fn exit_status(&self) -> Result<Option<ExitStatus>> {
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

    /// Stops it as an operator does, and waits until it has gone.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.await_exit(&Deadline::seconds(120))
    }

    /// Waits until it has gone by itself.
    pub fn await_exit(&self, deadline: &Deadline) -> Result<()> {
        wait::until(deadline, "mongod to stop", || Ok(self.exit_status()?.map(|_| ())))
            .with_context(|| self.log_tail())
    }

    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// SIGKILL: as if the machine had crashed, but for the page cache.
    pub fn kill9(&self) -> Result<()> {
        let child = self.child.lock().expect("no panic under this lock").take();
        process::end(&mut child.context("the server was not started")?);
        Ok(())
    }

    /// Stands still, connections open, until [`Self::resume`].
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.lock().expect("no panic under this lock");
        process::signal(child.as_ref().context("the server was not started")?, signal)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.get_mut().map(Option::take).unwrap_or_default() {
            process::end(&mut child);
        }
    }
}
