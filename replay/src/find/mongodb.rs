//! A wanted moment becomes one timestamp of the oplog: the last one that is in.
//!
//! Enters: an archive and what is wanted. Leaves: the timestamp with the commits on either side, or
//! a refusal with what can be restored instead. Decodes the log from where the moment can be on.
//!
//! Times are the `wall` of entries, the clock of whoever was the primary. Let A be the first commit
//! later than T and B the last one not later than T: if A stands behind B, everything before A is in.
//! Otherwise the clock was set back, or another primary's was behind: under a second apart A is
//! taken and it is said so, further apart the candidates are listed.

use std::fmt;

use proto::mongodb::{Documents, Note, OplogTs, Order, Record};
use proto::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::CatalogError;
use crate::catalog::mongodb::OplogArchive;

/// How far clocks may differ without a word.
const APART_MAX_MICROS: i64 = 1_000_000;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    At(OplogTs),
    Time(Timestamp),
    Name(String),
    Latest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub target: Target,
    /// Without what stands exactly there.
    pub exclusive: bool,
    /// One of the candidates of an earlier refusal, from 1 on.
    pub candidate: Option<usize>,
}

/// An entry with which something becomes visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub at: OplogTs,
    pub time: Option<Timestamp>,
}

/// The moment as one timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The last moment that is in.
    pub until: OplogTs,
    pub last_kept: Option<Commit>,
    pub first_left_out: Option<Commit>,
    pub notes: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    #[error(transparent)]
    Log(#[from] CatalogError),
    #[error("the archive holds no log yet")]
    NoLog,
    #[error("{asked} is later than what is archived, which ends at {end}{}", proof(.proven))]
    TooLate { asked: String, end: Commit, proven: Option<Timestamp> },
    #[error("no restore point is named {name:?} in the archived log{}", names(known))]
    UnknownName { name: String, known: Vec<String> },
    #[error("{asked} could be any of {} moments:{}", candidates.len(), listed(candidates))]
    Ambiguous { asked: String, candidates: Vec<Commit> },
    #[error("there is no candidate {wanted}: there are {count}")]
    NoSuchCandidate { wanted: usize, count: usize },
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.time {
            Some(time) => write!(f, "{time} ({})", self.at),
            None => write!(f, "{}", self.at),
        }
    }
}

fn proof(proven: &Option<Timestamp>) -> String {
    proven.map_or_else(String::new, |proven| format!(" and is proved complete up to {proven}"))
}

fn names(known: &[String]) -> String {
    if known.is_empty() {
        return ", which has none".to_owned();
    }
    format!("; it has {}", known.join(", "))
}

fn listed(candidates: &[Commit]) -> String {
    let lines = candidates.iter().enumerate();
    lines.map(|(at, candidate)| format!("\n  {}: up to {candidate}", at + 1)).collect()
}

/// Everything that a search over the log remembers.
#[derive(Debug, Default)]
struct Seen {
    last_kept: Option<Commit>,
    first_left_out: Option<Commit>,
}

/// Decides which moment is meant.
///
/// # Errors
/// [`FindError`]: the refusal, or what kept the log from being read.
pub async fn resolve(archive: &OplogArchive, request: &Request) -> Result<Resolved, FindError> {
    let end = end_of(archive).await?;
    let (mut until, mut notes) = match &request.target {
        Target::At(at) => {
            // A later entry of the same second could follow the last one.
            let proven = archive.watermark.map(|mark| mark.proven());
            let proves = |proven: Timestamp| seconds(proven) > i64::from(at.seconds());
            if *at > end.at && !proven.is_some_and(proves) {
                return Err(FindError::TooLate { asked: at.to_string(), end, proven });
            }
            (*at, Vec::new())
        }
        Target::Time(time) => by_time(archive, *time, end, request.candidate).await?,
        Target::Name(name) => (by_name(archive, name, request.candidate).await?, Vec::new()),
        Target::Latest => (end.at, Vec::new()),
    };
    if request.exclusive {
        until = before(until);
    }
    let seen = around(archive, until).await?;
    if seen.last_kept.is_none() {
        notes.push("no commit stands before this moment in its segment".to_owned());
    }
    Ok(Resolved { until, last_kept: seen.last_kept, first_left_out: seen.first_left_out, notes })
}

fn before(at: OplogTs) -> OplogTs {
    OplogTs(at.0.saturating_sub(1))
}

fn seconds(time: Timestamp) -> i64 {
    time.0.div_euclid(1_000_000)
}

/// Looks at every whole entry from the segment with `from` on, until `look` has seen enough.
async fn scan(
    archive: &OplogArchive,
    from: OplogTs,
    mut look: impl FnMut(&Record<'_>, Option<Commit>) -> bool,
) -> Result<(), FindError> {
    let mut log = archive.log(from, OplogTs(u64::MAX));
    while let Some(run) = log.next().await? {
        let mut segment = OplogTs::default();
        for document in Documents::new(&run) {
            let (_, raw) = document.map_err(|source| CatalogError::Entries { segment, source })?;
            let record =
                Record::read(raw).map_err(|source| CatalogError::Entry { segment, source })?;
            segment = record.at();
            let is_commit =
                record.is_commit().map_err(|source| CatalogError::Entry { segment, source })?;
            let commit = is_commit.then_some(Commit { at: segment, time: record.wall() });
            if !look(&record, commit) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The last entry of the archive; of a log of events the last time whose events are all there.
///
/// # Errors
/// When there is none, or it cannot be read.
pub async fn end_of(archive: &OplogArchive) -> Result<Commit, FindError> {
    let from = archive.segments.last().ok_or(FindError::NoLog)?.first;
    let (mut end, mut last, mut order) = (None, None, Order::default());
    scan(archive, from, |record, _| {
        let here = Commit { at: record.at(), time: record.wall() };
        let earlier = order.at() < here.at;
        order.advance(record);
        if order.whole() >= here.at {
            end = Some(here);
        } else if earlier {
            end = last.or(end);
        }
        last = Some(here);
        true
    })
    .await?;
    // A segment never begins within the events of one time.
    let behind = |_| Commit { at: before(from), time: None };
    end.or(last.map(behind)).ok_or(FindError::NoLog)
}

/// The commits on either side of a moment.
async fn around(archive: &OplogArchive, until: OplogTs) -> Result<Seen, FindError> {
    let mut seen = Seen::default();
    scan(archive, until, |_, commit| {
        match commit {
            Some(commit) if commit.at <= until => seen.last_kept = Some(commit),
            Some(commit) => seen.first_left_out = Some(commit),
            None => {}
        }
        seen.first_left_out.is_none()
    })
    .await?;
    Ok(seen)
}

async fn by_time(
    archive: &OplogArchive,
    time: Timestamp,
    end: Commit,
    candidate: Option<usize>,
) -> Result<(OplogTs, Vec<String>), FindError> {
    // An entry's timestamp is never behind the clock of its primary by more than the second that
    // it leaves out: an entry later than T does not stand in a segment that ends before T.
    let from = u32::try_from(seconds(time).max(2) - 2).unwrap_or(u32::MAX);
    let (mut later, mut last, mut highest): (Option<Commit>, Option<Commit>, _) =
        (None, None, time);
    scan(archive, OplogTs::new(from, 0), |_, commit| {
        let Some(commit) = commit else { return true };
        match commit.time {
            Some(wall) if wall > time => {
                later = later.or(Some(commit));
                highest = highest.max(wall);
            }
            _ => last = Some(commit),
        }
        true
    })
    .await?;
    let Some(first_later) = later else {
        let proven = archive.watermark.map(|mark| mark.proven());
        if proven.is_some_and(|proven| proven >= time) {
            return Ok((end.at, Vec::new()));
        }
        return Err(FindError::TooLate { asked: time.to_string(), end, proven });
    };
    let at_first = before(first_later.at);
    let Some(last) = last.filter(|last| last.at > first_later.at) else {
        return Ok((at_first, Vec::new()));
    };
    let candidates = vec![Commit { at: at_first, time: None }, last];
    match candidate {
        Some(wanted) => {
            let count = candidates.len();
            let chosen = wanted.checked_sub(1).and_then(|at| candidates.get(at));
            let chosen = chosen.ok_or(FindError::NoSuchCandidate { wanted, count })?;
            Ok((chosen.at, Vec::new()))
        }
        None if highest.0 - time.0 < APART_MAX_MICROS => {
            let note = format!(
                "commits up to {time} stand behind a later one ({first_later}): clocks differed by \
                 less than a second"
            );
            Ok((at_first, vec![note]))
        }
        None => Err(FindError::Ambiguous { asked: time.to_string(), candidates }),
    }
}

async fn by_name(
    archive: &OplogArchive,
    name: &str,
    candidate: Option<usize>,
) -> Result<OplogTs, FindError> {
    let (mut found, mut known) = (Vec::new(), Vec::new());
    scan(archive, OplogTs::default(), |record, _| {
        if let Some(Note::Named(noted)) = record.note() {
            if noted == name {
                found.push(Commit { at: record.at(), time: record.wall() });
            } else if known.len() < NAMES_MAX && !known.iter().any(|known| known == noted) {
                known.push(noted.to_owned());
            }
        }
        true
    })
    .await?;
    let count = found.len();
    match (candidate, found.as_slice()) {
        (_, []) => Err(FindError::UnknownName { name: name.to_owned(), known }),
        (None, [one]) => Ok(one.at),
        (None, _) => Err(FindError::Ambiguous { asked: format!("{name:?}"), candidates: found }),
        (Some(wanted), found) => {
            let chosen = wanted.checked_sub(1).and_then(|at| found.get(at));
            Ok(chosen.ok_or(FindError::NoSuchCandidate { wanted, count })?.at)
        }
    }
}

/// Names that a refusal lists.
const NAMES_MAX: usize = 20;
