//! From what a person asks for to the one position that recovery stops at.
//!
//! In: a target and a frozen view of the log. Out: [`Resolved`], or a [`Refusal`] that names the
//! nearest moments which can be restored. Only reads; a crash leaves nothing. The rules are
//! DESIGN §5.8 and §5.9 and PostgreSQL's own (src/backend/access/transam/xlogrecovery.c,
//! `recoveryStopsBefore`, `recoveryStopsAfter`).

pub mod time_input;
pub mod view;
pub mod decode;
mod refusal;
mod log;
mod ranges;
mod time;
mod point;
pub mod mongodb;

pub use crate::catalog::Commit;
pub(crate) use log::ends_of;
pub use ranges::{Window, windows};
pub use refusal::{FindError, Moment, Nearest, Refusal};
pub use view::{BaseSummary, Gap, LogView, SegmentSummary};

use std::fmt;

use proto::postgres::lsn::{Lsn, Timeline};
use proto::postgres::scan::{Event, Span};
use proto::postgres::transaction::Meaning;
use proto::timestamp::Timestamp;

use log::Log;
use ranges::is_restorable;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub target: Target,
    /// Without the commit, record or restore point that stands exactly at the target.
    pub exclusive: bool,
    /// Which of the candidates that a refusal listed, counted from 1.
    pub candidate: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Time(Timestamp),
    Lsn(Lsn),
    Xid(u32),
    Name(String),
    Latest,
}

/// Where recovery stops, and what stands on either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// `recovery_target_lsn`: always where a record begins.
    pub stop: Stop,
    /// `recovery_target_timeline`
    pub timeline: Timeline,
    pub last_kept: Option<Commit>,
    pub first_left_out: Option<Commit>,
    /// Bases that it can be replayed from, the nearest first; never empty.
    pub bases: Vec<String>,
    pub notes: Vec<Note>,
}

/// `recovery_target_lsn` with `recovery_target_inclusive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    pub lsn: Lsn,
    /// Where that record ends. Recovery reads it even when it is left out.
    pub record_end: Lsn,
    pub inclusive: bool,
}

/// One of several positions that a target could mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub stop: Stop,
    pub last_kept: Option<Commit>,
    pub first_left_out: Option<Commit>,
}

/// What the operator should know of how a target was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Commits around the target carry times out of order, by so many microseconds: it stops at
    /// the first later one.
    OutOfOrder { micros: i64 },
    /// The candidate that was asked for.
    Chosen { candidate: usize, of: usize },
    /// The transaction was rolled back.
    Aborted { xid: u32 },
    /// Nothing stands behind the target: everything archived is replayed.
    EndOfLog,
    /// The record at the LSN, a commit, is replayed as well.
    IncludesCommit { commit: Commit },
    /// Others of the same name or number lie where no base reaches.
    OthersNotRestorable { count: usize },
    /// Records before the target are not as they should be.
    Anomalies { count: u64 },
}

/// Resolves `request` to one position, or says why not.
///
/// # Errors
/// [`FindError::Refused`] when there is no such moment, it cannot be restored, or it is not one
/// alone; [`FindError::Log`] when the log cannot be read.
pub async fn resolve(view: &dyn LogView, request: &Request) -> Result<Resolved, FindError> {
    if view.end().is_none() || view.segments().is_empty() {
        return Err(Refusal::NoLog.into());
    }
    if !is_restorable(view) {
        return Err(Refusal::NoBase.into());
    }
    let mut log = Log::new(view);
    match &request.target {
        Target::Time(time) => time::resolve(&mut log, *time, request).await,
        Target::Lsn(lsn) => point::resolve_lsn(&mut log, *lsn, request).await,
        Target::Xid(xid) => point::resolve_xid(&mut log, *xid, request).await,
        Target::Name(name) => point::resolve_name(&mut log, name, request).await,
        Target::Latest => point::resolve_latest(&mut log, request).await,
    }
}

impl Stop {
    pub(crate) const fn before(record: Span) -> Self {
        Self { lsn: record.start, record_end: record.end, inclusive: false }
    }

    pub(crate) const fn after(record: Span) -> Self {
        Self { lsn: record.start, record_end: record.end, inclusive: true }
    }

    /// Every record that ends here or before is replayed.
    pub const fn position(&self) -> Lsn {
        if self.inclusive { self.record_end } else { self.lsn }
    }
}

/// Where a commit's record stands.
pub(crate) const fn record_of(commit: &Commit) -> Span {
    Span { start: commit.start, end: commit.end }
}

/// The commit that an event is, if it is one.
pub(crate) fn commit_of(event: &Event) -> Option<Commit> {
    match &event.meaning {
        Meaning::Transaction(t) if t.end.is_commit() => {
            Some(Commit { xid: t.xid, time: t.time, start: event.start, end: event.end })
        }
        _ => None,
    }
}

impl Request {
    /// What was asked, in words.
    pub fn asked(&self) -> String {
        let exclusive = if self.exclusive { ", exclusive" } else { "" };
        match &self.target {
            Target::Time(time) => format!("{time}{exclusive}"),
            Target::Lsn(lsn) => format!("LSN {lsn}{exclusive}"),
            Target::Xid(xid) => format!("transaction {xid}{exclusive}"),
            Target::Name(name) => format!("restore point {name:?}{exclusive}"),
            Target::Latest => "the latest moment".to_owned(),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.inclusive { "after" } else { "before" };
        write!(f, "{side} the record at {}", self.lsn)
    }
}

fn shown(commit: &Commit) -> String {
    match commit.xid {
        Some(xid) => format!("transaction {xid} at {}", commit.time),
        None => format!("a transaction at {}", commit.time),
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stop)?;
        if let Some(kept) = &self.last_kept {
            write!(f, ", with {}", shown(kept))?;
        }
        if let Some(left) = &self.first_left_out {
            write!(f, ", without {}", shown(left))?;
        }
        Ok(())
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfOrder { micros } => write!(
                f,
                "commits around this moment carry times out of order by {:.6} s; it stops before \
                 the first later one",
                *micros as f64 / 1e6
            ),
            Self::Chosen { candidate, of } => write!(f, "candidate {candidate} of {of}"),
            Self::Aborted { xid } => write!(f, "transaction {xid} was rolled back"),
            Self::EndOfLog => f.write_str("nothing stands behind it: all that is archived"),
            Self::IncludesCommit { commit } => {
                write!(f, "the record at this LSN is replayed as well: {}", shown(commit))
            }
            Self::OthersNotRestorable { count } => {
                write!(f, "{count} more of this name or number lie where no base reaches")
            }
            Self::Anomalies { count } => {
                write!(f, "{count} records on the way are not as they should be")
            }
        }
    }
}

#[cfg(test)]
mod tests;
