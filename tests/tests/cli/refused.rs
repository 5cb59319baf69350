//! What every refusal must be: one message that says what, why and what next, the right exit code,
//! the same as JSON, and nothing half made.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::postgres::Cluster;
use tests::programs::{self, Output};

/// A command that is to be refused.
pub(super) struct Attempt {
    program: &'static str,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

pub(super) fn pitrd<S: AsRef<str>>(arguments: &[S]) -> Attempt {
    Attempt::new("pitrd", arguments)
}

pub(super) fn pitr<S: AsRef<str>>(arguments: &[S]) -> Attempt {
    Attempt::new("pitr", arguments)
}

impl Attempt {
    fn new<S: AsRef<str>>(program: &'static str, arguments: &[S]) -> Self {
        let arguments = arguments.iter().map(|word| word.as_ref().to_owned()).collect();
        Self { program, arguments, environment: Vec::new() }
    }

    /// `pitrd run --once` of this source into this archive, with a spool beside the archive.
    pub(super) fn once(source: &str, archive: &str, spool: &Path) -> Self {
        let spool = spool.display().to_string();
        pitrd(&["run", "--once", "--source", source, "--archive", archive, "--spool", &spool])
    }

    pub(super) fn arg(mut self, word: &str) -> Self {
        self.arguments.push(word.to_owned());
        self
    }

    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn envs(mut self, variables: Vec<(String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    fn run(&self, more: &[&str]) -> Result<Output> {
        let mut arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        arguments.extend(more);
        programs::run(self.program, &arguments, &self.environment)
    }

    /// Whatever it says, this is not in it.
    pub(super) fn never_says(&self, secret: &str) -> Result<()> {
        for more in [&[][..], &["--json"]] {
            let output = self.run(more)?;
            let said = format!("{}{}", output.stdout, output.stderr);
            ensure!(!said.contains(secret), "{said}");
        }
        Ok(())
    }

    /// Refused with this code and exit code; the message holds these texts. As JSON too.
    pub(super) fn is_refused(&self, code: &str, exit: i32, says: &[&str]) -> Result<()> {
        let output = self.run(&[])?.code_is(exit)?;
        let told = told(&output)?;
        ensure!(told.starts_with(&format!("error {code}: ")), "{code} expected: {told}");
        ensure!(told.contains("\n  next: "), "no advice: {told}");
        for text in says {
            ensure!(told.contains(text), "{text:?} is missing in: {told}");
        }
        let output = self.run(&["--json"])?.code_is(exit)?;
        let last = output.stderr.lines().last().unwrap_or_default();
        let json: serde_json::Value =
            serde_json::from_str(last).with_context(|| format!("no JSON: {}", output.stderr))?;
        ensure!(json["exit"] == exit && json["error"]["code"] == code, "{json}");
        for key in ["what", "next"] {
            let text = json["error"][key].as_str().unwrap_or_default();
            ensure!(!text.is_empty(), "no {key} in {json}");
        }
        Ok(())
    }
}

/// The one error message of an output.
fn told(output: &Output) -> Result<String> {
    ensure!(output.stdout.is_empty(), "on standard output: {}", output.stdout);
    ensure!(!output.stderr.contains("panicked"), "{}", output.stderr);
    let messages = output.stderr.matches("error PITR").count();
    ensure!(messages == 1, "{messages} messages in: {}", output.stderr);
    let start = output.stderr.find("error PITR").context("there is one")?;
    Ok(output.stderr[start..].trim_end().to_owned())
}

/// No slot on the server, and no object in the folder.
pub(super) fn nothing_is_left(cluster: Option<&Cluster>, archive: &Path) -> Result<()> {
    if let Some(cluster) = cluster {
        let slots = cluster.query("postgres", "SELECT slot_name FROM pg_replication_slots")?;
        ensure!(slots.is_empty(), "a slot is left: {slots:?}");
    }
    let left = files_below(archive);
    ensure!(left.is_empty(), "objects are left: {left:?}");
    Ok(())
}

fn files_below(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}
