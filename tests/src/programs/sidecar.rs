//! `pitrd run` in the background: started, watched through its log and its metrics, ended, and started
//! again on the same spool.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result, bail};

use super::{Metrics, clean, http, program};
use crate::ports::Port;
use crate::process::{self, Death, Signal};
use crate::scratch::Folder;
use crate::wait::{self, Deadline};

/// A `pitrd run` to be.
#[derive(Debug, Clone, Default)]
pub struct PitrdBuilder {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    listens: bool,
}

impl PitrdBuilder {
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn envs(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment.extend(environment);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it under another program, as with `["strace", "-f", …]` or `["prlimit", …]`. Signals
    /// then go to the child of that program.
    pub fn under<S: Into<String>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// More arguments of that program.
    pub fn under_more<S: Into<String>>(mut self, more: impl IntoIterator<Item = S>) -> Self {
        self.wrapper.extend(more.into_iter().map(Into::into));
        self
    }

    /// The test gives `--listen` itself.
    pub fn listens_itself(mut self) -> Self {
        self.listens = true;
        self
    }

    pub fn start(self) -> Result<Pitrd> {
        let folder = Folder::new("pitrd")?;
        let port = Port::take()?;
        let mut pitrd = Pitrd { child: None, builder: self, port, folder };
        pitrd.start()?;
        Ok(pitrd)
    }
}

/// A running `pitrd run`; killed when this value goes.
#[derive(Debug)]
pub struct Pitrd {
    child: Option<Child>,
    builder: PitrdBuilder,
    port: Port,
    folder: Folder,
}

impl Pitrd {
    /// `pitrd run` of this source into this archive, with a spool of its own.
    pub fn builder(source: &str, archive: &str) -> PitrdBuilder {
        PitrdBuilder::default().args(["run", "--source", source, "--archive", archive])
    }

    /// Starts it again after its end, with the same arguments and the same spool.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("pitrd is already running");
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = self.command()?;
        command.stdout(File::try_clone(&log)?).stderr(log);
        self.child = Some(process::spawn(command)?);
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let builder = &self.builder;
        let mut command = super::command("pitrd")?;
        if let Some((first, rest)) = builder.wrapper.split_first() {
            command = process::command(first, None, Death::Kill);
            command.args(rest).arg(program("pitrd")?);
            clean(&mut command);
        }
        command.args(&builder.arguments).envs(builder.environment.iter().cloned());
        if !builder.arguments.iter().any(|argument| argument.starts_with("--spool")) {
            command.arg("--spool").arg(self.spool()?);
        }
        if !builder.listens {
            command.arg("--listen").arg(format!("127.0.0.1:{}", self.port.number()));
        }
        command.current_dir(self.folder.path());
        Ok(command)
    }

    /// Its spool, unless the test gave another one.
    pub fn spool(&self) -> Result<PathBuf> {
        self.folder.sub("spool")
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("pitrd.log")
    }

    /// All that it has said so far, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|raw| String::from_utf8_lossy(&raw).into_owned())
            .unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn listen_port(&self) -> u16 {
        self.port.number()
    }

    /// The pid of `pitrd` itself, also below a wrapper.
    pub fn pid(&self) -> Result<u32> {
        let child = self.child.as_ref().context("pitrd was not started")?;
        if self.builder.wrapper.is_empty() {
            return Ok(child.id());
        }
        let below = process::children_of(child.id());
        let first = below.first().context("the wrapper has no child")?;
        Ok(u32::try_from(first.as_raw_nonzero().get())?)
    }

    /// Waits until its log holds this text, and fails at once if it ends before.
    pub fn wait_for_log(&mut self, text: &str, deadline: &Deadline) -> Result<()> {
        self.wait(&format!("{text:?} in pitrd's log"), deadline, |pitrd| {
            Ok(pitrd.log().contains(text))
        })
    }

    /// Waits until this holds, and fails at once if it ends before.
    pub fn wait(
        &mut self,
        what: &str,
        deadline: &Deadline,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let log = self.log_path();
        wait::until(deadline, what, || {
            if holds(self)? {
                return Ok(Some(()));
            }
            if !self.is_running() {
                bail!("pitrd ended while waiting for {what}");
            }
            Ok(None)
        })
        .with_context(|| process::tail_of(&log, 30))
    }

    /// Waits until its metrics satisfy this.
    pub fn wait_for_metrics(
        &mut self,
        what: &str,
        deadline: &Deadline,
        mut holds: impl FnMut(&Metrics) -> bool,
    ) -> Result<()> {
        // It does not listen from its first moment.
        self.wait(what, deadline, |pitrd| Ok(pitrd.metrics().is_ok_and(|metrics| holds(&metrics))))
    }

    /// What `/metrics` says now.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::new(http::get(self.port.number(), "/metrics")?))
    }

    /// What `/health` says, as long as it answers with 200.
    pub fn health(&self) -> Result<String> {
        http::get(self.port.number(), "/health")
    }

    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.await_exit(&Deadline::seconds(30)).map(|_| ())
    }

    /// Asks it to end, and waits until it has.
    pub fn sigterm(&mut self, deadline: &Deadline) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.await_exit(deadline)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?)?;
        let pid = rustix::process::Pid::from_raw(pid).context("a process has a pid")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits for its end; `.code()` of the answer is its exit code.
    pub fn await_exit(&mut self, deadline: &Deadline) -> Result<ExitStatus> {
        let log = self.log_path();
        let child = self.child.as_mut().context("pitrd was not started")?;
        let status = process::wait_for(child, "pitrd", deadline)
            .with_context(|| process::tail_of(&log, 30))?;
        self.child = None;
        Ok(status)
    }

    /// The memory that it holds now, and the most it ever held, in bytes (proc_pid_status(5)).
    pub fn memory(&self) -> Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.with_context(|| format!("no {name} in {status}"))?;
            Ok(kibibytes.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
        };
        let (resident, peak) = (field("VmRSS:")?, field("VmHWM:")?);
        Ok(Memory { resident, peak, file: field("RssFile:")? })
    }

    /// A folder of its own for what a test puts beside it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Pitrd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let below = process::children_of(child.id());
            process::end(&mut child);
            let _ = process::kill_all(&below);
        }
        if std::thread::panicking() {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("--- pitrd's log\n{}\n", process::tail_of(&self.log_path(), 60)).as_bytes(),
            );
        }
    }
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub resident: u64,
    pub peak: u64,
    /// Of what is resident: pages of the program's own file and its libraries.
    pub file: u64,
}
