//! From words to a command.
//!
//! Enters: the command line, the configuration file, variables. Leaves: the parsed command, help,
//! or an error that says where the value that is wrong stands.

use std::ffi::OsString;
use std::path::Path;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::error::{CliError, ErrorCode};
use super::{Program, config, secret};

#[derive(Debug)]
pub enum Parsed<P> {
    Command(Box<P>),
    Help(String),
}

/// Reads the command line in `arguments` (program name first); `variable` names the configuration
/// file if no flag does.
///
/// # Errors
/// When it is not understood, holds a secret, or its configuration file is wrong.
pub fn parse<P: Parser, C: ErrorCode>(
    program: &Program,
    arguments: Vec<OsString>,
    variable: Option<OsString>,
) -> Result<Parsed<P>, CliError<C>> {
    secret::refuse(&arguments, program.holds_secret)?;
    let file = config::file_of(&arguments, variable);
    let mut command = P::command();
    let mut keys = Vec::new();
    if let Some(path) = &file {
        let applied = config::apply(program, command, path, &arguments)?;
        (command, keys) = (applied.command, applied.keys);
    }
    let from = Origin { arguments: &arguments, keys: &keys, file: file.as_deref() };
    match command.try_get_matches_from(&arguments).and_then(|matches| P::from_arg_matches(&matches))
    {
        Ok(parsed) => Ok(Parsed::Command(Box::new(parsed))),
        Err(error) if !error.use_stderr() => Ok(Parsed::Help(error.render().to_string())),
        Err(error) => Err(usage(program, &error, &from)),
    }
}

/// Where the values of flags can come from.
struct Origin<'a> {
    arguments: &'a [OsString],
    keys: &'a [String],
    file: Option<&'a Path>,
}

impl Origin<'_> {
    /// Where the value of a flag stands, if not on the command line.
    fn of(&self, flag: &str) -> Option<String> {
        if config::is_given(self.arguments, flag) {
            return None;
        }
        // Every flag has the variable of its name; a variable is stronger than the file.
        let variable = format!("PITR_{}", flag.to_uppercase().replace('-', "_"));
        if std::env::var_os(&variable).is_some() {
            return Some(format!("it stands in the variable {variable}"));
        }
        let file = self.file.filter(|_| self.keys.iter().any(|key| key == flag))?;
        Some(format!("it stands in {}", file.display()))
    }
}

fn usage<C: ErrorCode>(program: &Program, error: &clap::Error, from: &Origin) -> CliError<C> {
    let help = format!("run `{} --help`", program.name);
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand)
        && program.of_other.contains(&name.as_str())
    {
        let what = format!("that is `{} {name}`", program.other);
        let next = format!("`{} {name} --help`: it is a program of its own", program.other);
        return CliError::new(C::OTHER_PROGRAM, what, next);
    }
    // Without a command clap answers with the whole help.
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return CliError::new(C::USAGE, "no command is given", help);
    }
    let text = error.render().to_string();
    let (what, tips) = split(&text);
    if let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg)
        && let Some(flag) = shown.strip_prefix("--").and_then(|rest| rest.split(' ').next())
        && let Some(why) = from.of(flag)
    {
        return CliError::new(C::CONFIG_VALUE, what, format!("correct it; {help} tells the form"))
            .why(why);
    }
    CliError::new(C::USAGE, what, if tips.is_empty() { help } else { tips })
}

/// What is wrong, and what clap advises, on one line each.
fn split(text: &str) -> (String, String) {
    let (mut what, mut tips) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            tips.push(tip);
        } else if line.starts_with("Usage:") {
            tips.push(line);
            break;
        } else if tips.is_empty() && !line.starts_with("For more information") {
            what.push(line);
        }
    }
    let what = what.join(" ");
    (what.trim_start_matches("error: ").to_owned(), tips.join(". "))
}
