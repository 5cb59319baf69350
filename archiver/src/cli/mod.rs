//! The commands of `pitrd`.
//!
//! Enters: the command line. Leaves: a running sidecar, or text for people and JSON for programs,
//! errors on the standard error, and an exit code.

pub mod error;
mod args;
mod config;
mod run;
mod once;
mod writer;
mod base;
mod check;
mod point;

pub use args::{Cli, Command};
pub use error::{CliError, Code, Exit};

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::{CommandFactory, FromArgMatches};

use crate::source::postgres::{ConnectOptions, Environment};
use args::{ArchiveArgs, Global, LogFormat, SourceArgs};

/// The commands of the other program.
const OF_PITR: [&str; 9] =
    ["status", "list", "verify", "reindex", "timeline", "find", "plan", "restore", "peek"];

/// Runs the command in `arguments` (program name first).
pub fn run(arguments: Vec<OsString>) -> Exit {
    let wants_json = arguments.iter().any(|word| word == "--json");
    let cli = match parse(arguments) {
        Ok(Parsed::Command(cli)) => cli,
        Ok(Parsed::Help(text)) => {
            print!("{text}");
            return Exit::Done;
        }
        Err(error) => return fail(&error, wants_json),
    };
    log_to_stderr(&cli.global);
    let json = cli.global.json;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(Box::pin(execute(*cli)));
            // What still runs holds nothing that was promised.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            done
        }
        Err(error) => {
            Err(CliError::caused(Code::Failed, &error, "check the limits of this process"))
        }
    };
    match done {
        Ok(exit) => exit,
        Err(error) => fail(&error, json),
    }
}

async fn execute(cli: Cli) -> Result<Exit, CliError> {
    match cli.command {
        Command::Run(args) if args.once => once::run(&args).await?,
        Command::Run(args) => run::run(&args).await?,
        Command::Base(args) => base::run(&cli.global, &args).await?,
        Command::Check(args) => return check::run(&cli.global, &args).await,
        Command::Point(args) => point::run(&cli.global, &args).await?,
    }
    Ok(Exit::Done)
}

enum Parsed {
    Command(Box<Cli>),
    Help(String),
}

fn parse(arguments: Vec<OsString>) -> Result<Parsed, CliError> {
    refuse_secrets(&arguments)?;
    let mut command = Cli::command();
    if let Some(path) = config::file_of(&arguments, std::env::var_os("PITR_CONFIG")) {
        command = config::apply(command, &path)?;
    }
    let name = arguments
        .iter()
        .skip(1)
        .find_map(|word| word.to_str().filter(|word| OF_PITR.contains(word)).map(str::to_owned));
    let matches = match command.try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Parsed::Help(error.render().to_string())),
        Err(error) => {
            if let Some(name) = name
                && error.kind() == clap::error::ErrorKind::InvalidSubcommand
            {
                let what = format!("pitrd has no command {name:?}");
                let next = format!("it is a command of the restore tool: `pitr {name}`");
                return Err(CliError::new(Code::OtherProgram, what, next));
            }
            let text = error.render().to_string();
            let what = text.trim_start_matches("error: ").trim_end().to_owned();
            return Err(CliError::new(Code::Usage, what, "see `pitrd --help`"));
        }
    };
    let cli = Cli::from_arg_matches(&matches)
        .map_err(|error| CliError::new(Code::Usage, error.to_string(), "see `pitrd --help`"))?;
    Ok(Parsed::Command(Box::new(cli)))
}

/// A password on a command line is read by everybody on the machine.
fn refuse_secrets(arguments: &[OsString]) -> Result<(), CliError> {
    let environment = Environment::process();
    for word in arguments.iter().skip(1).filter_map(|word| word.to_str()) {
        let value = word.strip_prefix("--source=").unwrap_or(word);
        let looks = value.contains("://") || value.contains('=');
        let secret = looks
            && ConnectOptions::parse(value, &environment)
                .is_ok_and(|options| options.has_password());
        if secret {
            return Err(CliError::new(
                Code::Secret,
                "a password stands on the command line, where every user of this machine can read it",
                "put it into ~/.pgpass, PGPASSWORD, or a service file, and leave it out of --source",
            ));
        }
    }
    Ok(())
}

fn fail(error: &CliError, json: bool) -> Exit {
    if json {
        println!("{}", error.to_json());
    } else {
        eprintln!("{error}");
    }
    error.exit()
}

fn log_to_stderr(global: &Global) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PITR_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("info,aws_config=warn,aws_smithy_runtime=warn")
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match global.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

impl SourceArgs {
    fn options(&self) -> Result<ConnectOptions, CliError> {
        let text = self.source.clone().unwrap_or_default();
        if text.is_empty()
            && std::env::var_os("PGHOST").is_none()
            && std::env::var_os("PGSERVICE").is_none()
        {
            return Err(CliError::new(
                Code::Missing,
                "no source is given",
                "give --source postgresql://USER@HOST/, PITR_SOURCE, or `source = …` in the file of --config",
            ));
        }
        let mut options = ConnectOptions::parse(&text, &Environment::process())
            .map_err(|error| CliError::caused(Code::Source, &error, "correct --source"))?;
        options.tls.min_version = match self.tls_min.as_str() {
            "1.3" => crate::source::postgres::tls::TlsMin::V1_3,
            "1.2" => crate::source::postgres::tls::TlsMin::V1_2,
            other => {
                let what = format!("--tls-min {other:?}");
                return Err(CliError::new(Code::Usage, what, "give 1.3 or 1.2"));
            }
        };
        Ok(options)
    }
}

impl ArchiveArgs {
    fn address(&self) -> Result<&str, CliError> {
        self.archive.as_deref().filter(|address| !address.is_empty()).ok_or_else(|| {
            CliError::new(
                Code::Missing,
                "no archive is given",
                "give --archive URL, PITR_ARCHIVE, or `archive = …` in the file of --config",
            )
        })
    }
}
