//! The configuration file: its keys become the defaults of the flags of the same name, so that a
//! variable is stronger than the file, and a flag stronger than both.
//!
//! Enters: the command line's definition and a TOML file. Leaves: the definition with defaults. A
//! key that no command knows is an error: a misspelt key would silently do nothing. The file may
//! hold passwords, so no error repeats a line of it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Command;

use super::Program;
use super::error::{CliError, ErrorCode};

/// The file that `--config` or its variable names.
pub(super) fn file_of(arguments: &[OsString], variable: Option<OsString>) -> Option<PathBuf> {
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    variable.filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// What a file changed.
pub(super) struct Applied {
    pub command: Command,
    /// The flags that it gives.
    pub keys: Vec<String>,
}

/// Takes the keys of the file at `path` into the defaults of `command`.
pub(super) fn apply<C: ErrorCode>(
    program: &Program,
    command: Command,
    path: &Path,
    arguments: &[OsString],
) -> Result<Applied, CliError<C>> {
    let table = read(path)?;
    let given = program.either.iter().any(|flag| is_given(arguments, flag));
    let mut applied = Applied { command, keys: Vec::new() };
    for (key, value) in table {
        // Given one of these on the command line, the file's own does not count.
        if given && program.either.contains(&key.as_str()) {
            continue;
        }
        let values = values(&value).ok_or_else(|| {
            let what = format!("{key} in {} is neither a value nor a list", path.display());
            CliError::new(C::CONFIG_KEY, what, "write it as text, a number, true or a list")
        })?;
        applied.command = set(applied.command, &key, &values).ok_or_else(|| {
            let what =
                format!("no command of {} knows {key:?} in {}", program.name, path.display());
            let next = format!("keys are flags without dashes: `{} --help`", program.name);
            CliError::new(C::CONFIG_KEY, what, next)
        })?;
        applied.keys.push(key);
    }
    Ok(applied)
}

#[allow(clippy::disallowed_methods, reason = "settings are no data: Disk has none")]
fn read<C: ErrorCode>(path: &Path) -> Result<toml::Table, CliError<C>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format!("{} cannot be read", path.display());
        CliError::new(C::CONFIG_FILE, what, "check the path and its rights").why(error.to_string())
    })?;
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(&text));
        let line = before.matches('\n').count() + 1;
        let what = format!("{} is no TOML", path.display());
        CliError::new(C::CONFIG_FILE, what, "correct the file")
            .why(format!("line {line}: {}", error.message()))
    })
}

/// Whether the command line has this flag.
pub(super) fn is_given(arguments: &[OsString], flag: &str) -> bool {
    arguments.iter().any(|word| is_flag(word, flag))
}

fn is_flag(word: &OsStr, flag: &str) -> bool {
    let rest = word.to_str().and_then(|w| w.strip_prefix("--")).and_then(|w| w.strip_prefix(flag));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

fn values(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_) => Some(vec![value.to_string()]),
        toml::Value::Array(items) => {
            items.iter().map(values).collect::<Option<Vec<_>>>().map(|lists| lists.concat())
        }
        toml::Value::Table(_) => None,
    }
}

/// Every command that has the flag takes the default.
fn set(mut command: Command, flag: &str, values: &[String]) -> Option<Command> {
    let id_of = |command: &Command| {
        let found = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
        found.map(|arg| arg.get_id().clone())
    };
    let default = |arg: clap::Arg| arg.default_values(values.to_vec());
    let mut known = false;
    if let Some(id) = id_of(&command) {
        command = command.mut_arg(id, default);
        known = true;
    }
    let names: Vec<String> =
        command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let id = command.find_subcommand(&name).and_then(id_of);
        if let Some(id) = id {
            command = command.mut_subcommand(name, |sub| sub.mut_arg(id, default));
            known = true;
        }
    }
    known.then_some(command)
}
