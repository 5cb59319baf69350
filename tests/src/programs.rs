//! Our own programs as a user runs them: `pitr` to its end, `pitrd` in the background.
//!
//! They are built by cargo for the packages' own integration tests, before any test runs; nothing
//! here builds them, because cargo holds its lock while tests run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{self, Death, Signal};
use crate::scratch::Folder;
use crate::wait::{self, Deadline};
use crate::{fetch, http};

/// The path of a program of this workspace.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = fetch::profile()?.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built: run `cargo test --workspace`, or `cargo build --workspace` before",
            path.display()
        );
    }
    Ok(path)
}

/// A command for one of our programs: dies with us, sees none of our settings.
pub fn command(name: &str) -> Result<Command> {
    let mut command = process::command(program(name)?, None, Death::Kill);
    for (variable, _) in std::env::vars_os() {
        let variable = variable.to_string_lossy();
        if ["PITR_", "AWS_", "PG"].iter().any(|prefix| variable.starts_with(prefix)) {
            command.env_remove(&*variable);
        }
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub command: String,
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Fails, with all that was said, unless it ended with 0.
    pub fn ok(self) -> Result<Self> {
        self.code_is(0)
    }

    /// Fails, with all that was said, unless it ended with this code.
    pub fn code_is(self, code: i32) -> Result<Self> {
        if self.code == Some(code) {
            return Ok(self);
        }
        bail!(
            "expected exit code {code}, got {:?}: {}\n--- stdout\n{}\n--- stderr\n{}",
            self.code,
            self.command,
            self.stdout,
            self.stderr
        )
    }

    /// What it said with `--json`.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("not JSON: {}\n{}{}", self.command, self.stdout, self.stderr))
    }
}

/// Runs `pitr` to its end.
pub fn pitr<S: AsRef<str>>(arguments: &[S]) -> Result<Output> {
    run("pitr", arguments, &[])
}

/// Runs `pitrd` to its end, as with `base`, `check` or `run --once`.
pub fn pitrd<S: AsRef<str>>(arguments: &[S]) -> Result<Output> {
    run("pitrd", arguments, &[])
}

/// Runs a program of ours to its end with more variables.
pub fn run<S: AsRef<str>>(
    name: &str,
    arguments: &[S],
    environment: &[(String, String)],
) -> Result<Output> {
    let mut command = command(name)?;
    command.args(arguments.iter().map(AsRef::as_ref));
    command.envs(environment.iter().cloned());
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    Ok(Output {
        command: format!("{name} {}", arguments.join(" ")),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

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

    /// The test gives `--listen` itself.
    pub fn listens_itself(mut self) -> Self {
        self.listens = true;
        self
    }

    pub fn start(self) -> Result<Pitrd> {
        let folder = Folder::new("pitrd")?;
        let port = crate::ports::Port::take()?;
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
    port: crate::ports::Port,
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
        let mut command = command("pitrd")?;
        if let Some((first, rest)) = builder.wrapper.split_first() {
            command = process::command(first, None, Death::Kill);
            command.args(rest).arg(program("pitrd")?).stdin(Stdio::null());
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
        Ok(Metrics { text: http::get(self.port.number(), "/metrics")? })
    }

    pub fn kill9(&mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()?)?;
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).context("a process has a pid")?,
            Signal::KILL,
        )?;
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
        Ok(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
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
}

/// Metrics in Prometheus' text format.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    pub fn new(text: String) -> Self {
        Self { text }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The sum over all label sets of this metric; `None` if it has none.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let values: Vec<f64> = self.samples(name).map(|(_, value)| value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// The one whose labels contain this text, such as `state="streaming"`.
    pub fn labelled(&self, name: &str, label: &str) -> Option<f64> {
        self.samples(name).find(|(labels, _)| labels.contains(label)).map(|(_, value)| value)
    }

    fn samples(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            let (labels, value) = rest.rsplit_once(' ')?;
            Some((labels, value.parse().ok()?))
        })
    }
}
