//! The commands of `pitrd`.
//!
//! Enters: the command line. Leaves: a running sidecar, or text for people and JSON for programs,
//! errors on the standard error, and an exit code.

pub mod error;
mod args;
mod prepare;
mod run;
mod ready;
mod once;
pub(crate) mod writer;
mod base;
mod check;
mod point;

pub use args::{Cli, Command};
pub use error::{CliError, Code, Exit};

use std::ffi::OsString;

use proto::cli::{Parsed, Program, emit, fail};

use crate::source::mongodb;
use crate::source::postgres::{ConnectOptions, Environment};
use args::{ArchiveArgs, SourceArgs};
use error::mongodb_error;

const PROGRAM: Program = Program {
    name: "pitrd",
    other: "pitr",
    of_other: &[
        "status",
        "list",
        "verify",
        "reindex",
        "timeline",
        "find",
        "plan",
        "restore",
        "peek",
        "wal-fetch",
    ],
    either: &[],
    holds_secret,
};

/// What runs beside the command may say of itself.
const LOG: &str = "info,aws_config=warn,aws_smithy_runtime=warn";

/// Runs the command in `arguments` (program name first).
pub fn run(arguments: Vec<OsString>) -> Exit {
    let wants_json = proto::cli::wants_json(&arguments);
    let cli = match parse(arguments) {
        Ok(Parsed::Command(cli)) => cli,
        Ok(Parsed::Help(text)) => {
            emit(&text);
            return Exit::Done;
        }
        Err(error) => return fail(&error, wants_json),
    };
    proto::cli::to_stderr(LOG, cli.global.log_format);
    let json = cli.global.json || wants_json;
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

fn parse(arguments: Vec<OsString>) -> Result<Parsed<Cli>, CliError> {
    proto::cli::parse(&PROGRAM, arguments, std::env::var_os("PITR_CONFIG"))
}

/// What libpq would take as a password, whatever its notation; and a MongoDB address's.
fn holds_secret(word: &str) -> bool {
    let value = word.strip_prefix("--source=").unwrap_or(word);
    if mongodb::options::holds_secret(value) {
        return true;
    }
    (value.contains("://") || value.contains('='))
        && ConnectOptions::parse(value, &Environment::process())
            .is_ok_and(|options| options.has_password())
}

/// Which database `--source` names.
enum Address {
    Postgres(Box<ConnectOptions>),
    Mongodb(Box<mongodb::ConnectOptions>),
}

impl SourceArgs {
    async fn address(&self) -> Result<Address, CliError> {
        match self.source.as_deref().filter(|text| mongodb::options::is_address(text)) {
            Some(uri) => {
                let options = mongodb::ConnectOptions::parse(uri).await;
                options
                    .map(|options| Address::Mongodb(Box::new(options)))
                    .map_err(|error| mongodb_error(&error))
            }
            None => self.postgres().map(|options| Address::Postgres(Box::new(options))),
        }
    }

    fn postgres(&self) -> Result<ConnectOptions, CliError> {
        let text = self.source.clone().unwrap_or_default();
        if text.is_empty()
            && std::env::var_os("PGHOST").is_none()
            && std::env::var_os("PGSERVICE").is_none()
        {
            return Err(CliError::new(
                Code::Missing,
                "no source is given",
                "give --source postgresql://USER@HOST/ or mongodb://HOST/, PITR_SOURCE, or `source = …` in the file of --config",
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
