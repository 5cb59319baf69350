//! Starting, stopping, killing and freezing a server, always by its own pid.

use std::net::TcpStream;

use anyhow::Result;

use super::Node;
use crate::process::{self, Death, Signal};
use crate::user;
use crate::wait::Deadline;

impl Node {
    /// Starts it and waits until it answers.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.await_ready(&Deadline::seconds(120))
    }

    /// Starts it and does not wait.
    pub fn launch(&self) -> Result<()> {
        let mut mongod = process::command(&self.program, user::server_user(), Death::Kill);
        mongod
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .arg(format!("--dbpath={}", self.data().display()))
            .arg(format!("--port={}", self.port()))
            .args(&self.arguments);
        self.server.launch(mongod)
    }

    /// Waits until it takes connections.
    pub fn await_ready(&self, deadline: &Deadline) -> Result<()> {
        let address = ("127.0.0.1", self.port());
        self.server.await_ready(deadline, || Ok(TcpStream::connect(address).is_ok()))
    }

    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Stops it as an operator does, and waits until it has gone.
    pub fn stop(&self) -> Result<()> {
        self.server.signal(Signal::TERM)?;
        self.await_exit(&Deadline::seconds(120))
    }

    /// Waits until it has gone by itself.
    pub fn await_exit(&self, deadline: &Deadline) -> Result<()> {
        self.server.await_exit(deadline)
    }

    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// SIGKILL: as if the machine had crashed, but for the page cache.
    pub fn kill9(&self) -> Result<()> {
        self.server.kill9()
    }

    /// Stands still, connections open, until [`Self::resume`].
    pub fn pause(&self) -> Result<()> {
        self.server.signal(Signal::STOP)
    }

    pub fn resume(&self) -> Result<()> {
        self.server.signal(Signal::CONT)
    }
}
