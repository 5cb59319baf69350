//! `pitrd check`: whether this server can be protected into this archive.
//!
//! Enters: an address of each. Leaves: one line a fact, with what to do about it. Nothing is
//! changed on the server; the store gets a few canary objects, which are removed if that is allowed.

pub mod ask;
pub mod judge;
mod mongodb;

use std::io::{self, Write};

use serde::Serialize;

use proto::store::{Access, url};

use crate::cli::Exit;
use crate::source::mongodb as mongo;
use crate::source::postgres::{ConnectOptions, SlotName};
pub use ask::{ArchiveFacts, ServerFacts};

/// How a fact is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Stable: programs look for it.
    pub check: &'static str,
    pub level: Level,
    pub fact: String,
    /// What to do; nothing when all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Line {
    pub(super) fn ok(check: &'static str, fact: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, fact: fact.into(), remedy: None }
    }

    pub(super) fn warn(
        check: &'static str,
        fact: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, level: Level::Warn, fact: fact.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn fail(
        check: &'static str,
        fact: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, level: Level::Fail, fact: fact.into(), remedy: Some(remedy.into()) }
    }
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub lines: Vec<Line>,
    /// The exit code that says the same.
    pub exit: Exit,
}

/// Asks both sides and judges what they say. Never fails: what cannot be asked is a line.
pub async fn check(options: &ConnectOptions, archive: &str, slot: &SlotName) -> Report {
    let mut lines = Vec::new();
    let server = match ask::server(options, slot).await {
        Ok(facts) => {
            lines.extend(judge::server(&facts));
            Some(facts)
        }
        Err(error) => {
            lines.push(judge::no_server(&error));
            None
        }
    };
    lines.extend(look(archive, |facts| judge::archive(facts, server.as_ref())).await);
    Report::of(lines)
}

/// The same for a replica set.
pub async fn check_mongodb(options: &mongo::ConnectOptions, archive: &str) -> Report {
    let (mut lines, set) = mongodb::server(options).await;
    lines.extend(look(archive, |facts| mongodb::archive(facts, set.as_ref(), options.mode)).await);
    Report::of(lines)
}

async fn look(archive: &str, judge: impl FnOnce(&ArchiveFacts) -> Vec<Line>) -> Vec<Line> {
    let found = match url::open(archive, Access::ReadWrite).await {
        Ok(store) => ask::archive(&store).await,
        Err(error) => Err(error.into()),
    };
    match found {
        Ok(facts) => judge(&facts),
        Err(error) => vec![judge::no_archive(archive, &error)],
    }
}

impl Report {
    fn of(lines: Vec<Line>) -> Self {
        let exit = judge::exit(&lines);
        Self { lines, exit }
    }

    /// A table for people.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = self.lines.iter().map(|line| line.check.len()).max().unwrap_or(0);
        for line in &self.lines {
            let level = match line.level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            writeln!(out, "{level}  {:width$}  {}", line.check, line.fact)?;
            if let Some(remedy) = &line.remedy {
                writeln!(out, "      {:width$}  -> {remedy}", "")?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// When `out` fails.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let json = serde_json::json!({ "lines": self.lines, "exit": self.exit as u8 });
        out.write_all(&proto::archive::to_json(&json))
    }
}
