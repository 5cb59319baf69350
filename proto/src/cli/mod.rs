//! What both command lines share: reading one with its configuration file and variables, errors
//! with their codes, and the log. The commands themselves stand in each program.
//!
//! Enters: the words of a command line. Leaves: a parsed command, or what is wrong with it; output
//! on the standard output, errors and the log on the standard error.

mod config;
mod error;
mod log;
mod parse;
mod secret;

pub use error::{ArchiveCode, CliError, ErrorCode, Exit, causes, listed, table};
pub use log::{LogFormat, to_stderr};
pub use parse::{Parsed, parse};

use std::ffi::OsString;
use std::io::Write;

/// One of the two programs.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    /// The other program, and its commands.
    pub other: &'static str,
    pub of_other: &'static [&'static str],
    /// Flags of which one excludes the others: given one of them, the configuration file's own
    /// does not count.
    pub either: &'static [&'static str],
    /// Whether a word holds a secret, beyond what every program looks for.
    pub holds_secret: fn(&str) -> bool,
}

/// Whether errors are wanted as JSON, before the command line is understood.
pub fn wants_json(arguments: &[OsString]) -> bool {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let json_log = arguments.windows(2).any(|two| two[0] == "--log-format" && two[1] == "json");
    arguments.iter().any(|word| word == "--json" || word == "--log-format=json")
        || json_log
        || ["1", "true", "yes", "on"].contains(&variable("PITR_JSON").as_str())
        || variable("PITR_LOG_FORMAT") == "json"
}

/// To the standard output; a reader that went away (`| head`) is no error.
pub fn emit(text: &str) {
    let mut out = std::io::stdout().lock();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(out, "{text}{newline}").and_then(|()| out.flush());
}

/// Says an error on the standard error.
pub fn fail<C: ErrorCode>(error: &CliError<C>, json: bool) -> Exit {
    let text = if json { error.to_json() } else { error.to_string() };
    let _ = writeln!(std::io::stderr(), "{text}");
    error.exit()
}
