//! Why a moment cannot be restored, with the nearest ones that can.

use std::fmt;

use proto::postgres::lsn::Lsn;
use proto::timestamp::Timestamp;

use super::{Candidate, Gap};
use crate::catalog::CatalogError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the log could not be read")]
    Log(#[from] CatalogError),
}

/// A moment that is refused. Nothing was written and nothing fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("{asked} lies before the first moment that a base can be replayed to{nearest}")]
    TooEarly { asked: String, nearest: Nearest },
    #[error(
        "{asked} lies where the log is lost, between {} and {} ({}){nearest}",
        gap.from, gap.to, gap.reason
    )]
    InGap { asked: String, gap: Gap, nearest: Nearest },
    #[error(
        "{asked} lies behind a gap in the log, {} to {} ({}), and before the next base{nearest}",
        gap.from, gap.to, gap.reason
    )]
    BehindGap { asked: String, gap: Gap, nearest: Nearest },
    #[error("{asked} is later than what is archived: {}{nearest}", reach(*.proven, *.end))]
    TooLate { asked: String, proven: Option<Timestamp>, end: Lsn, nearest: Nearest },
    #[error("no restore point is named {name:?} in the archived log{}", names(known))]
    UnknownName { name: String, known: Vec<String> },
    #[error("transaction {xid} neither committed nor aborted in the archived log{}", range(*.seen))]
    UnknownXid { xid: u32, seen: Option<(u64, u64)> },
    #[error("{asked} could be any of {} moments:{}", candidates.len(), listed(candidates))]
    Ambiguous { asked: String, candidates: Vec<Candidate> },
    #[error("there is no candidate {wanted}: {asked} has {count}")]
    NoSuchCandidate { asked: String, wanted: usize, count: usize },
    #[error("the archive holds no complete base that the log follows")]
    NoBase,
    #[error("the archive holds no complete record of log")]
    NoLog,
}

/// A moment that can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub lsn: Lsn,
    pub time: Option<Timestamp>,
}

/// The nearest restorable moments on both sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nearest {
    pub before: Option<Moment>,
    pub after: Option<Moment>,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.time {
            Some(time) => write!(f, "{time} (LSN {})", self.lsn),
            None => write!(f, "LSN {}", self.lsn),
        }
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.before, self.after) {
            (None, None) => Ok(()),
            (Some(before), None) => write!(f, "; the latest before it is {before}"),
            (None, Some(after)) => write!(f, "; the earliest after it is {after}"),
            (Some(before), Some(after)) => {
                write!(f, "; the nearest are {before} before it and {after} after it")
            }
        }
    }
}

fn reach(time: Option<Timestamp>, end: Lsn) -> String {
    match time {
        Some(time) => format!("complete up to {time}, LSN {end}"),
        None => format!("it ends at LSN {end}"),
    }
}

fn names(known: &[String]) -> String {
    if known.is_empty() {
        return ", which has none".to_owned();
    }
    format!("; it has {}", known.join(", "))
}

fn range(seen: Option<(u64, u64)>) -> String {
    seen.map_or_else(String::new, |(low, high)| format!(", which has {low} to {high}"))
}

fn listed(candidates: &[Candidate]) -> String {
    let lines = candidates.iter().enumerate();
    lines.map(|(at, candidate)| format!("\n  {}: {candidate}", at + 1)).collect()
}
