//! The configuration file: its keys become the defaults of the flags of the same name, so that a
//! variable is stronger than the file, and a flag stronger than both.
//!
//! Enters: the command line's definition and a TOML file. Leaves: the definition with defaults. A
//! key that no command knows is an error: a misspelt key would silently do nothing.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Command;

use super::error::{CliError, Code};

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
    variable.map(PathBuf::from)
}

/// Takes the keys of the file at `path` into the defaults of `command`.
pub(super) fn apply(command: Command, path: &std::path::Path) -> Result<Command, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format!("{} cannot be read", path.display());
        CliError::new(Code::ConfigFile, what, "check the path and its rights")
            .why(error.to_string())
    })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let what = format!("{} is no TOML", path.display());
        CliError::new(Code::ConfigFile, what, "correct the file").why(error.to_string())
    })?;
    let mut command = command;
    for (key, value) in table {
        let values = values(&value).ok_or_else(|| {
            let what = format!("{key} in {} is neither a value nor a list", path.display());
            CliError::new(Code::ConfigKey, what, "write it as text, a number, true or a list")
        })?;
        command = set(command, &key, &values).ok_or_else(|| {
            let what = format!("no command of pitrd knows {key:?} in {}", path.display());
            CliError::new(Code::ConfigKey, what, "keys are flags without dashes: `pitrd --help`")
        })?;
    }
    Ok(command)
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
