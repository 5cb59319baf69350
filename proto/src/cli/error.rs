//! What a command says when it does not do what was asked: what, why, what to do next, with a
//! code that stays the same from version to version (docs/ERRORS.md) and an exit code.
//!
//! Enters: an error of the program. Leaves: three lines for people or one JSON object for programs.

use std::error::Error;
use std::fmt;

use serde::Serialize;

use crate::archive::ArchiveError;
use crate::store::StoreError;

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

/// The stable codes of one program: an enum made by [`crate::error_codes`].
pub trait ErrorCode: Copy + fmt::Debug + Eq + 'static {
    const ALL: &'static [Self];
    // What reading a command line can end with; every program has them.
    const USAGE: Self;
    const SECRET: Self;
    const OTHER_PROGRAM: Self;
    const CONFIG_FILE: Self;
    const CONFIG_KEY: Self;
    const CONFIG_VALUE: Self;

    fn text(self) -> &'static str;
    fn exit(self) -> Exit;
    fn meaning(self) -> &'static str;
}

/// What a program says of its store and its archive: with it both turn into errors of a command.
pub trait ArchiveCode: ErrorCode {
    fn of_store(error: &StoreError) -> CliError<Self>;
    fn of_archive(error: &ArchiveError) -> CliError<Self>;
}

/// The codes of a program as `Variant "TEXT" Exit "meaning";`.
#[macro_export]
macro_rules! error_codes {
    ($($variant:ident $text:literal $exit:ident $meaning:literal;)*) => {
        /// The stable code of an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $(#[doc = $meaning] $variant,)* }

        impl $crate::cli::ErrorCode for Code {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];
            const USAGE: Self = Self::Usage;
            const SECRET: Self = Self::Secret;
            const OTHER_PROGRAM: Self = Self::OtherProgram;
            const CONFIG_FILE: Self = Self::ConfigFile;
            const CONFIG_KEY: Self = Self::ConfigKey;
            const CONFIG_VALUE: Self = Self::ConfigValue;

            fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            fn exit(self) -> $crate::cli::Exit {
                match self { $(Self::$variant => $crate::cli::Exit::$exit,)* }
            }

            fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

/// An error as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError<C> {
    pub code: C,
    pub what: String,
    pub why: Option<String>,
    pub next: String,
}

impl<C: ErrorCode> CliError<C> {
    pub fn new(code: C, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: None, next: next.into() }
    }

    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// From an error of the program, with its causes as the reason.
    pub fn caused(code: C, error: &dyn Error, next: impl Into<String>) -> Self {
        let mut made = Self::new(code, error.to_string(), next);
        made.why = error.source().map(causes);
        made
    }

    pub fn exit(&self) -> Exit {
        self.code.exit()
    }

    /// One JSON object, for `--json`.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Shown<'a> {
            code: &'a str,
            what: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            why: Option<&'a str>,
            next: &'a str,
        }
        let Self { code, what, why, next } = self;
        let shown = Shown { code: code.text(), what, why: why.as_deref(), next };
        serde_json::json!({ "error": shown, "exit": self.exit() as u8 }).to_string()
    }
}

/// An error and its causes on one line, each once: many errors repeat their cause's text.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        next = cause.source();
    }
    text
}

impl<C: ErrorCode> fmt::Display for CliError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}: {}", self.code.text(), self.what)?;
        if let Some(why) = &self.why {
            write!(f, "\n  why:  {why}")?;
        }
        write!(f, "\n  next: {}", self.next)
    }
}

impl<C: ArchiveCode> From<StoreError> for CliError<C> {
    fn from(error: StoreError) -> Self {
        C::of_store(&error)
    }
}

impl<C: ArchiveCode> From<ArchiveError> for CliError<C> {
    fn from(error: ArchiveError) -> Self {
        C::of_archive(&error)
    }
}

/// The rows of docs/ERRORS.md for these codes, as they follow from them.
pub fn table<C: ErrorCode>() -> String {
    let row = |code: &C| {
        let (text, exit) = (code.text(), code.exit() as u8);
        format!("| {text} | {exit} | {} |\n", code.meaning())
    };
    C::ALL.iter().map(row).collect()
}

/// The rows that docs/ERRORS.md (its text in `docs`) has for `program`.
pub fn listed(docs: &str, program: &str) -> String {
    let section = docs.split("\n## ").find(|part| part.starts_with(&format!("`{program}`\n")));
    let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| PITR"));
    rows.map(|row| format!("{row}\n")).collect()
}
