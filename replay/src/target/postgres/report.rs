//! What a restore did, for people and programs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proto::postgres::lsn::{Lsn, Timeline};
use serde::{Deserialize, Serialize};

use crate::catalog::Commit;

/// How the folder was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Left {
    /// Laid out; recovery is yet to run.
    LaidOut,
    /// At the moment, stopped, startable without the archive.
    Stopped,
    /// Running at the moment, read-only.
    Paused,
    /// Running, writable.
    Running,
}

/// One thing that was looked at to prove that the stop is the right one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub what: String,
    pub expected: String,
    pub found: String,
    pub ok: bool,
}

/// A subscription that was put to sleep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub database: String,
    pub name: String,
    /// The slot on its publisher, which the copy no longer refers to.
    pub slot: Option<String>,
}

/// A collation of another version here than where the data was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collation {
    pub database: String,
    /// `default of the database` where it is the database's own.
    pub collation: String,
    pub written_with: String,
    pub here: String,
    /// To be rebuilt, with `REINDEX INDEX CONCURRENTLY`; at most a thousand are named.
    pub indexes: Vec<String>,
}

/// What became of a restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub engine: String,
    /// Of the server that ran the recovery, or of the base when none ran.
    pub version: String,
    pub archive: String,
    pub base: String,
    pub folder: PathBuf,
    pub left: Left,
    /// As the moment was asked for.
    pub asked: String,
    pub target_lsn: Lsn,
    pub inclusive: bool,
    /// The end of the last record that was replayed.
    pub reached: Option<Lsn>,
    pub last_kept: Option<Commit>,
    pub first_left_out: Option<Commit>,
    /// The target's timeline, and the one that the copy began.
    pub timeline: Timeline,
    pub new_timeline: Option<Timeline>,
    pub checks: Vec<Check>,
    pub subscriptions: Vec<Subscription>,
    pub collations: Vec<Collation>,
    /// What was changed so that the copy starts here, and disturbs nobody.
    pub notes: Vec<String>,
    pub resumed: bool,
    /// Seconds of each phase, in order of their names, and in all.
    pub seconds: BTreeMap<String, f64>,
    /// Bytes fetched from the store for the base, and raw bytes of log.
    pub base_bytes: u64,
    pub log_bytes: u64,
    /// Where a server that was left running answers.
    pub port: Option<u16>,
    pub pid: Option<u32>,
    /// The next three commands: check, cut over, protect the copy.
    pub next: Vec<String>,
}

impl Report {
    /// 0, or 12 when a check failed.
    pub fn exit(&self) -> u8 {
        if self.checks.iter().all(|check| check.ok) { 0 } else { 12 }
    }

    /// As a person reads it; the last lines are the next commands.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        let side = if self.inclusive { "after" } else { "before" };
        let state = match self.left {
            Left::LaidOut => "laid out (recovery runs at the first start)",
            Left::Stopped => "restored",
            Left::Paused => "restored and paused, read-only",
            Left::Running => "restored and running",
        };
        line(format!("{} {state}: PostgreSQL {}", self.folder.display(), self.version));
        line(format!("  asked    {}", self.asked));
        line(format!("  stopped  {side} {} on timeline {}", self.target_lsn, self.timeline));
        for (what, commit) in [("kept", &self.last_kept), ("left out", &self.first_left_out)] {
            if let Some(commit) = commit {
                let xid = commit.xid.map_or_else(String::new, |xid| format!(", transaction {xid}"));
                line(format!("  {what:8} commit of {}{xid}", commit.time));
            }
        }
        for check in &self.checks {
            let (what, mark) = (&check.what, if check.ok { "ok" } else { "WRONG" });
            let expected =
                if check.ok { String::new() } else { format!(", expected {}", check.expected) };
            line(format!("  check    {mark}: {what}: {}{expected}", check.found));
        }
        for subscription in &self.subscriptions {
            let (name, database) = (&subscription.name, &subscription.database);
            line(format!("  note     subscription {name} in {database} is disabled"));
        }
        for collation in &self.collations {
            let Collation { database, collation, written_with, here, indexes } = collation;
            line(format!(
                "  note     {database}: collation {collation} is {here} here and was \
                 {written_with}; rebuild: {}",
                if indexes.is_empty() { "no index".to_owned() } else { indexes.join(", ") }
            ));
        }
        for note in &self.notes {
            line(format!("  note     {note}"));
        }
        let total = self.seconds.get("total").copied().unwrap_or_default();
        line(format!("  took     {total:.1} s"));
        for next in &self.next {
            line(next.clone());
        }
        text
    }
}
