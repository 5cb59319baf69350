//! What a command says when it does not do what was asked: what, why, what to do next, with a
//! code that stays the same from version to version (docs/ERRORS.md) and an exit code.

use std::fmt;

use serde::Serialize;

use crate::catalog::CatalogError;
use proto::archive::ArchiveError;
use proto::store::{Class, StoreError};

/// How a command ended (DESIGN §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Config = 3,
    /// Nothing was changed.
    Refused = 4,
    /// Can be resumed.
    Interrupted = 5,
    WrongCluster = 6,
    Fenced = 7,
    Unreachable = 8,
    VerifyFound = 9,
    NotRestorable = 10,
    Lag = 11,
    /// Restored, but a check failed.
    CheckFailed = 12,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

macro_rules! codes {
    ($($variant:ident $text:literal $exit:ident $meaning:literal;)*) => {
        /// The stable code of an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $(#[doc = $meaning] $variant,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            pub const fn exit(self) -> Exit {
                match self { $(Self::$variant => Exit::$exit,)* }
            }

            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    Usage "PITR-U001" Usage "the command line is not understood";
    Secret "PITR-U002" Usage "a password stands on the command line";
    OtherProgram "PITR-U003" Usage "the command is one of pitrd";
    Target "PITR-U004" Usage "the wanted moment is not understood, or has no zone";
    Missing "PITR-U005" Usage "a needed flag is neither given nor configured";
    ConfigFile "PITR-C001" Config "the configuration file cannot be read";
    ConfigKey "PITR-C002" Config "the configuration file has a key that no command knows";
    Store "PITR-C003" Config "the store refuses what is asked: address, bucket or rights";
    NoArchive "PITR-C004" Config "there is no archive at this address";
    NewerFormat "PITR-C005" Config "a newer program wrote the archive";
    WrongCluster "PITR-W001" WrongCluster "the archive is of another engine or lineage";
    Unreachable "PITR-S001" Unreachable "the store does not answer";
    Damaged "PITR-D001" Failed "something in the archive is damaged";
    Missed "PITR-D002" Failed "something that should be in the archive is not";
    NotRestorable "PITR-N001" NotRestorable "the wanted moment cannot be restored";
    Ambiguous "PITR-N002" NotRestorable "the wanted moment could be one of several";
    NoBase "PITR-N003" NotRestorable "no base can be replayed to the wanted moment";
    BaseRefused "PITR-N004" NotRestorable "the base asked for cannot be replayed to the moment";
    Found "PITR-V001" VerifyFound "verify found something";
    LagOver "PITR-L001" Lag "the archive lags more than --fail-if-lag allows";
    Failed "PITR-X001" Failed "something failed that has no code of its own";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

/// An error as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CliError {
    pub code: Code,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub next: String,
}

impl CliError {
    pub fn new(code: Code, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: None, next: next.into() }
    }

    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// From an error of the program, with its causes as the reason.
    pub fn caused(code: Code, error: &dyn std::error::Error, next: impl Into<String>) -> Self {
        let mut made = Self::new(code, error.to_string(), next);
        made.why = error.source().map(crate::catalog::describe);
        made
    }

    pub const fn exit(&self) -> Exit {
        self.code.exit()
    }

    /// One JSON object, for `--json`.
    pub fn to_json(&self) -> String {
        let body = serde_json::json!({ "error": self, "exit": self.exit() as u8 });
        body.to_string()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}: {}", self.code, self.what)?;
        if let Some(why) = &self.why {
            write!(f, "\n  why:  {why}")?;
        }
        write!(f, "\n  next: {}", self.next)
    }
}

impl From<CatalogError> for CliError {
    fn from(error: CatalogError) -> Self {
        match &error {
            CatalogError::Store(source) => store(source),
            CatalogError::Archive(ArchiveError::Store(source)) => store(source),
            CatalogError::NoArchive { .. } => Self::caused(
                Code::NoArchive,
                &error,
                "check --archive; `pitrd run --source … --archive …` begins a new archive",
            ),
            CatalogError::NoLineage { .. } => {
                Self::caused(Code::WrongCluster, &error, "leave out --lineage, or give one it has")
            }
            CatalogError::Engine { .. } => {
                Self::caused(Code::WrongCluster, &error, "give the archive of a PostgreSQL cluster")
            }
            CatalogError::Format { .. } => {
                Self::caused(Code::NewerFormat, &error, "use a pitr at least as new as the pitrd")
            }
            _ => by_class(error.class(), &error),
        }
    }
}

impl From<ArchiveError> for CliError {
    fn from(error: ArchiveError) -> Self {
        CatalogError::from(error).into()
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        store(&error)
    }
}

fn store(error: &StoreError) -> CliError {
    by_class(error.class(), error)
}

fn by_class(class: Class, error: &dyn std::error::Error) -> CliError {
    let (code, next) = match class {
        Class::Absent => (Code::Missed, "`pitr verify` lists all that is missing or damaged"),
        Class::Retry => {
            (Code::Unreachable, "check network and store, and try again: nothing was changed")
        }
        Class::Config => {
            (Code::Store, "check the address, the credentials and the right to read and list")
        }
        Class::Damaged => (Code::Damaged, "`pitr verify --read-data` lists all that is damaged"),
    };
    CliError::caused(code, error, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/ERRORS.md, as it follows from the codes.
    fn table() -> String {
        let rows = Code::ALL
            .iter()
            .map(|code| format!("| {code} | {} | {} |\n", code.exit() as u8, code.meaning()));
        rows.collect()
    }

    #[test]
    fn every_code_of_pitr_is_listed_and_nothing_else() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ERRORS.md");
        let docs = std::fs::read_to_string(path).expect("docs/ERRORS.md");
        let section = docs.split("\n## ").find(|section| section.starts_with("`pitr`\n"));
        let section = section.expect("a section named `pitr`");
        let listed: String = section
            .lines()
            .filter(|l| l.starts_with("| PITR-"))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(listed, table());
    }

    #[test]
    fn no_code_is_used_twice() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.text()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
    }

    #[test]
    fn an_error_says_what_why_and_what_next() {
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let (address, key) = ("/archive".to_owned(), "lineage/1/".to_owned());
        let error = StoreError::Io { address, action: "list", key, source };
        insta::assert_snapshot!(CliError::from(error), @"
        error PITR-C003: list lineage/1/ in /archive
          why:  permission denied
          next: check the address, the credentials and the right to read and list
        ");
    }
}
