//! The commands of `pitr`.
//!
//! Enters: the command line. Leaves: text for people or JSON for programs on the standard output,
//! errors on the standard error, and an exit code. The commands that look change nothing.

pub mod error;
mod args;
mod config;
mod show;
mod status;
mod list;
mod plan;
mod reindex;
mod verify;

pub use args::{Cli, Command, Global, RestoreArgs, TargetArgs};
pub use error::{CliError, Code, Exit};

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use clap::{CommandFactory, FromArgMatches};

use crate::catalog::Catalog;
use proto::clock::{Clock, SystemClock};

/// What a command has to say, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub output: String,
    pub error: Option<CliError>,
}

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    pub global: Global,
    pub clock: SystemClock,
    /// Whether a person watches: tables and progress bars instead of plain lines.
    pub terminal: bool,
}

/// The commands of the other program.
const OF_PITRD: [&str; 5] = ["run", "base", "check", "point", "rules"];

/// Runs the command in `arguments` (program name first).
pub fn run(arguments: Vec<OsString>) -> Exit {
    let wants_json = arguments.iter().any(|word| word == "--json");
    let cli = match parse(arguments, std::env::var_os("PITR_CONFIG")) {
        Ok(Parsed::Command(cli)) => cli,
        Ok(Parsed::Help(text)) => {
            emit(&text);
            return Exit::Done;
        }
        Err(error) => return fail(&error, wants_json),
    };
    log_to_stderr();
    let json = cli.global.json;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(execute(*cli))),
        Err(error) => {
            Err(CliError::caused(Code::Failed, &error, "check the limits of this process"))
        }
    };
    match done {
        Ok(Outcome { output, error }) => {
            emit(&output);
            error.map_or(Exit::Done, |error| fail(&error, json))
        }
        Err(error) => fail(&error, json),
    }
}

async fn execute(cli: Cli) -> Result<Outcome, CliError> {
    let terminal = std::io::stdout().is_terminal();
    let context = Context { global: cli.global, clock: SystemClock::new(), terminal };
    match cli.command {
        Command::Status(args) => status::run(&context, &args).await,
        Command::List => list::run(&context).await,
        Command::Verify(args) => verify::run(&context, &args).await,
        Command::Plan(args) => plan::run(&context, &args).await,
        Command::Reindex => reindex::run(&context).await,
        Command::Restore(_) | Command::WalFetch { .. } => {
            Err(CliError::new(Code::Failed, "not built in", "use another version"))
        }
    }
}

impl Context {
    pub async fn catalog(&self) -> Result<Catalog, CliError> {
        Ok(Catalog::open(self.archive()?, self.global.lineage).await?)
    }

    fn archive(&self) -> Result<&str, CliError> {
        self.global.archive.as_deref().ok_or_else(|| {
            CliError::new(
                Code::Missing,
                "no archive is given",
                "give --archive URL, PITR_ARCHIVE, or `archive = …` in the file of --config",
            )
        })
    }

    fn now(&self) -> proto::timestamp::Timestamp {
        self.clock.wall()
    }
}

impl Outcome {
    fn done(output: String) -> Self {
        Self { output, error: None }
    }
}

#[derive(Debug)]
enum Parsed {
    Command(Box<Cli>),
    Help(String),
}

fn parse(arguments: Vec<OsString>, variable: Option<OsString>) -> Result<Parsed, CliError> {
    refuse_secrets(&arguments)?;
    let mut command = Cli::command();
    if let Some(path) = config::file_of(&arguments, variable) {
        command = config::apply(command, &path, &arguments)?;
    }
    let matches = match command.try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Parsed::Help(error.render().to_string())),
        Err(error) => return Err(usage(&error)),
    };
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => Ok(Parsed::Command(Box::new(cli))),
        Err(error) => Err(usage(&error)),
    }
}

/// A password in an argument stands in every process list; it is not repeated here.
fn refuse_secrets(arguments: &[OsString]) -> Result<(), CliError> {
    let has_secret = |word: &str| {
        let lower = word.to_ascii_lowercase();
        let user_info = word.split_once("://").and_then(|(_, rest)| {
            rest.split(['/', '?']).next().and_then(|authority| authority.rsplit_once('@'))
        });
        user_info.is_some_and(|(user, _)| user.contains(':')) || lower.contains("password=")
    };
    if arguments.iter().any(|word| has_secret(&word.to_string_lossy())) {
        return Err(CliError::new(
            Code::Secret,
            "a password stands on the command line, where every user of this machine can read it",
            "give it in the environment, in a file, or by the AWS credential chain, and change it",
        ));
    }
    Ok(())
}

fn usage(error: &clap::Error) -> CliError {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand)
        && OF_PITRD.contains(&name.as_str())
    {
        let what = format!("that is `pitrd {name}`");
        let next = format!("run `pitrd {name} --help` on the database's machine");
        return CliError::new(Code::OtherProgram, what, next);
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    // Without a command clap answers with the whole help.
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return CliError::new(Code::Usage, "no command is given", "run `pitr --help`");
    }
    let next = lines.find(|line| line.starts_with("Usage:")).unwrap_or("run `pitr --help`");
    CliError::new(Code::Usage, first.trim_start_matches("error: "), next)
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PITR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let made = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Set already when another command of the same process was run: that is as good.
    let _ = made.try_init();
}

/// To the standard output; a reader that went away (`| head`) is no error.
fn emit(text: &str) {
    let mut out = std::io::stdout().lock();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(out, "{text}{newline}").and_then(|()| out.flush());
}

/// A line on the standard error: progress where nobody watches.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn fail(error: &CliError, json: bool) -> Exit {
    let text = if json { error.to_json() } else { error.to_string() };
    let _ = writeln!(std::io::stderr(), "{text}");
    error.exit()
}

#[cfg(test)]
mod tests;
