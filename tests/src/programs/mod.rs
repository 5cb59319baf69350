//! Our own programs as a user runs them: `pitr` to its end, `pitrd` in the background.
//!
//! They are built by cargo for the packages' own integration tests, before any test runs; nothing
//! here builds them, because cargo holds its lock while tests run.

mod http;
mod metrics;
mod sidecar;
mod watch;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

pub use metrics::Metrics;
pub use sidecar::{Memory, Pitrd, PitrdBuilder};

use crate::fetch;
use crate::process::{self, Death};
use crate::wait::{self, Deadline};

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
    clean(&mut command);
    Ok(command)
}

/// Settings of whoever runs the tests must not decide what a program does.
fn clean(command: &mut Command) {
    for (variable, _) in std::env::vars_os() {
        let variable = variable.to_string_lossy();
        if ["PITR_", "AWS_", "PG"].iter().any(|prefix| variable.starts_with(prefix)) {
            command.env_remove(&*variable);
        }
    }
    command.stdin(Stdio::null());
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

/// Waits until `pitr status --json` of this archive satisfies this, and gives what it said. The
/// archive may not exist at first.
pub fn wait_for_status(
    archive: &str,
    environment: &[(String, String)],
    what: &str,
    deadline: &Deadline,
    mut holds: impl FnMut(&serde_json::Value) -> bool,
) -> Result<serde_json::Value> {
    let mut last = String::new();
    wait::until(deadline, what, || {
        let output = run("pitr", &["status", "--archive", archive, "--json"], environment)?;
        last = format!("{}{}", output.stdout, output.stderr);
        Ok(output.json().ok().filter(|status| holds(status)))
    })
    .with_context(|| format!("the last status was {last}"))
}
