//! The commands of `pitr`.
//!
//! Enters: the command line. Leaves: text for people or JSON for programs on the standard output,
//! errors on the standard error, and an exit code. The commands that look change nothing.

pub mod error;
mod args;
mod interrupt;
mod show;
mod status;
mod list;
mod plan;
mod reindex;
mod restore;
mod verify;
mod mongodb;

pub use args::{Cli, Command, Global, RestoreArgs, TargetArgs};
pub use error::{CliError, Code, Exit};

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::cli::{LogFormat, Parsed, Program, emit, fail};
use proto::clock::{Clock, SystemClock};

use crate::catalog::{Catalog, OplogArchive};
use crate::fetch::{WORK_FOLDER, command};
use crate::target::progress;
use interrupt::interruptible;

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

const PROGRAM: Program = Program {
    name: "pitr",
    other: "pitrd",
    of_other: &["run", "base", "check", "point", "rules"],
    either: &["at", "at-lsn", "at-xid", "at-name", "latest"],
    holds_secret: |_| false,
};

/// Runs the command in `arguments` (program name first), and gives its exit code.
pub fn run(arguments: Vec<OsString>) -> u8 {
    let wants_json = proto::cli::wants_json(&arguments);
    let of_recovery = arguments.iter().any(|word| word == command::NAME);
    let cli = match parse(arguments, std::env::var_os("PITR_CONFIG")) {
        Ok(Parsed::Command(cli)) => *cli,
        Ok(Parsed::Help(text)) => {
            emit(&text);
            return Exit::Done as u8;
        }
        Err(error) => {
            let exit = fail(&error, wants_json) as u8;
            // Any other code would end recovery where it stands.
            return if of_recovery { command::DOUBT } else { exit };
        }
    };
    proto::cli::to_stderr("warn", LogFormat::Text);
    if let Command::WalFetch { name, path } = cli.command {
        return command::run(vec![name.into(), path.into()], Path::new(WORK_FOLDER));
    }
    let json = cli.global.json;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(execute(cli))),
        Err(error) => {
            Err(CliError::caused(Code::Failed, &error, "check the limits of this process"))
        }
    };
    let exit = match done {
        Ok(Outcome { output, error }) => {
            emit(&output);
            error.map_or(Exit::Done, |error| fail(&error, json))
        }
        Err(error) => fail(&error, json),
    };
    exit as u8
}

async fn execute(cli: Cli) -> Result<Outcome, CliError> {
    let terminal = std::io::stdout().is_terminal();
    let context = Context { global: cli.global, clock: SystemClock::new(), terminal };
    let oplog = match &cli.command {
        Command::Reindex | Command::WalFetch { .. } => None,
        _ => interruptible(context.oplog()).await?,
    };
    match (cli.command, oplog) {
        (Command::Status(args), Some(archive)) => {
            interruptible(status::mongodb::run(&context, &archive, &args)).await
        }
        (Command::Verify(args), Some(archive)) => {
            interruptible(mongodb::verify(&context, &archive, &args)).await
        }
        (Command::List, Some(archive)) => Ok(mongodb::list(&context, &archive)),
        (Command::Plan(args), Some(archive)) => {
            interruptible(mongodb::plan(&context, &archive, &args)).await
        }
        (Command::Restore(args), Some(archive)) => {
            Box::pin(mongodb::restore_into(&context, &archive, &args)).await
        }
        (command, _) => execute_postgres(&context, command).await,
    }
}

async fn execute_postgres(context: &Context, command: Command) -> Result<Outcome, CliError> {
    match command {
        Command::Status(args) => interruptible(status::postgres::run(context, &args)).await,
        Command::List => interruptible(list::run(context)).await,
        Command::Verify(args) => interruptible(verify::run(context, &args)).await,
        Command::Plan(args) => plan::run(context, &args).await,
        Command::Reindex => interruptible(reindex::run(context)).await,
        Command::Restore(args) => restore::run(context, &args).await,
        Command::WalFetch { .. } => unreachable!("it runs without a runtime of its own"),
    }
}

impl Context {
    pub async fn catalog(&self) -> Result<Catalog, CliError> {
        Ok(Catalog::open(self.archive()?, self.global.lineage).await?)
    }

    /// The archive, if it is of MongoDB.
    async fn oplog(&self) -> Result<Option<OplogArchive>, CliError> {
        Ok(OplogArchive::open(self.archive()?, self.global.lineage).await?)
    }

    /// The catalog for a search in it: what it must read for want of an index is told.
    pub async fn searchable(&self) -> Result<Catalog, CliError> {
        let mut catalog = self.catalog().await?;
        let (progress, begun) = (progress::for_stderr(), AtomicBool::new(false));
        catalog.on_search(move |search| {
            if !begun.swap(true, Ordering::Relaxed) {
                progress.say(&format!(
                    "{} of {} segments have no index: those that the search comes by are read, \
                     {} at most; `pitr reindex` makes the index once for all",
                    search.unindexed, search.segments, search.total
                ));
                progress.begin("search", Some(search.total));
            }
            progress.done(search.done, "");
        });
        Ok(catalog)
    }

    fn archive(&self) -> Result<&str, CliError> {
        self.global.archive.as_deref().filter(|address| !address.is_empty()).ok_or_else(|| {
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

fn parse(arguments: Vec<OsString>, variable: Option<OsString>) -> Result<Parsed<Cli>, CliError> {
    proto::cli::parse(&PROGRAM, arguments, variable)
}

/// A line on the standard error: progress where nobody watches.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests;
