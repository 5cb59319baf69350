//! A wanted moment becomes one timestamp of the oplog: the last one that is in.
//!
//! Enters: an archive and what is wanted. Leaves: the timestamp with the commits on either side, or
//! a refusal with what can be restored instead. Segments are opened where their index says that what
//! is looked for may be in them, and where they have none.
//!
//! Times are the `wall` of entries, the clock of whoever was the primary. Let A be the first commit
//! later than T and B the last one not later than T: if A stands behind B, everything before A is in.
//! Otherwise the clock was set back, or another primary's was behind: under a second apart A is
//! taken and it is said so, further apart the candidates are listed.

mod pieces;

use std::fmt;

use proto::archive::index::Ends;
use proto::mongodb::{Documents, OplogTs, Order, Record};
use proto::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::CatalogError;
use crate::catalog::mongodb::OplogArchive;
use pieces::{Pieces, Seen};

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

/// Decides which moment is meant.
///
/// # Errors
/// [`FindError`]: the refusal, or what kept the log from being read.
pub async fn resolve(archive: &OplogArchive, request: &Request) -> Result<Resolved, FindError> {
    let end = end_of(archive).await?;
    let from = match &request.target {
        Target::At(at) => *at,
        Target::Time(time) => near(*time),
        Target::Name(_) => OplogTs::default(),
        Target::Latest => end.at,
    };
    let mut log = Pieces::new(archive, from).await?;
    let (mut until, notes) = match &request.target {
        Target::At(at) => {
            // A later entry of the same second could follow the last one.
            let proven = archive.watermark.map(|mark| mark.proven());
            let proves = |proven: Timestamp| seconds(proven) > i64::from(at.seconds());
            if *at > end.at && !proven.is_some_and(proves) {
                return Err(FindError::TooLate { asked: at.to_string(), end, proven });
            }
            (*at, Vec::new())
        }
        Target::Time(time) => by_time(&mut log, archive, (*time, end), request.candidate).await?,
        Target::Name(name) => (by_name(&mut log, name, request.candidate).await?, Vec::new()),
        Target::Latest => (end.at, Vec::new()),
    };
    if request.exclusive {
        until = before(until);
    }
    let piece = archive.segment_of(until);
    let any = |ends: &Ends| ends.commits > 0;
    let kept = log.last((0, piece), any, |seen| seen.entry.at <= until).await?;
    let left = log.first(piece, any, |seen| seen.entry.at > until).await?;
    let entry = |(_, seen): (usize, Seen)| seen.entry;
    Ok(Resolved { until, last_kept: kept.map(entry), first_left_out: left.map(entry), notes })
}

/// An entry's timestamp is behind the clock of its primary by no more than the moment between the
/// two being taken: an entry later than a time stands in no segment that ends so long before it.
fn near(time: Timestamp) -> OplogTs {
    const MOMENT: i64 = 60;
    OplogTs::new(u32::try_from((seconds(time) - MOMENT).max(0)).unwrap_or(u32::MAX), 0)
}

fn before(at: OplogTs) -> OplogTs {
    OplogTs(at.0.saturating_sub(1))
}

fn seconds(time: Timestamp) -> i64 {
    time.0.div_euclid(1_000_000)
}

/// The last entry of the archive; of a log of events the last time whose events are all there.
///
/// # Errors
/// When there is none, or it cannot be read.
pub async fn end_of(archive: &OplogArchive) -> Result<Commit, FindError> {
    // The open segment may hold the beginning of its first entry alone.
    for segment in archive.segments.iter().rev() {
        let mut log = archive.log(segment.first, segment.first);
        let run = log.next().await?.unwrap_or_default();
        let (segment, mut order) = (segment.first, Order::default());
        let (mut end, mut last) = (None, None);
        for document in Documents::new(&run) {
            let (_, raw) = document.map_err(|source| CatalogError::Entries { segment, source })?;
            let record = Record::read(raw);
            let record = record.map_err(|source| CatalogError::Entry { segment, source })?;
            let here = Commit { at: record.at(), time: record.wall() };
            let earlier = order.at() < here.at;
            order.advance(&record);
            if order.whole() >= here.at {
                end = Some(here);
            } else if earlier {
                end = last.or(end);
            }
            last = Some(here);
        }
        // A segment never begins within the events of one time.
        let behind = |_| Commit { at: before(segment), time: None };
        if let Some(end) = end.or(last.map(behind)) {
            return Ok(end);
        }
    }
    Err(FindError::NoLog)
}

async fn by_time(
    log: &mut Pieces<'_>,
    archive: &OplogArchive,
    (time, end): (Timestamp, Commit),
    candidate: Option<usize>,
) -> Result<(OplogTs, Vec<String>), FindError> {
    let later = |ends: &Ends| ends.times.is_some_and(|(_, high)| high > time);
    let kept = |ends: &Ends| ends.times.is_some_and(|(low, _)| low <= time);
    let from = archive.segment_of(near(time));
    let first = log.first(from, later, |seen| seen.time() > time).await?;
    let Some((first_piece, first_later)) = first else {
        let proven = archive.watermark.map(|mark| mark.proven());
        if proven.is_some_and(|proven| proven >= time) {
            return Ok((end.at, Vec::new()));
        }
        return Err(FindError::TooLate { asked: time.to_string(), end, proven });
    };
    let at_first = before(first_later.entry.at);
    let behind = (first_piece, log.count() - 1);
    let wanted = |seen: &Seen| seen.time() <= time && seen.entry.at > first_later.entry.at;
    let Some((last_piece, last)) = log.last(behind, kept, wanted).await? else {
        if let Some(wanted) = candidate.filter(|wanted| *wanted != 1) {
            return Err(FindError::NoSuchCandidate { wanted, count: 1 });
        }
        return Ok((at_first, Vec::new()));
    };
    // How far clocks differed on the way from the one to the other.
    let mut highest = first_later.time();
    for piece in first_piece..=last_piece {
        let seen = log.seen(piece).await?;
        let between = seen.iter().filter(|seen| seen.is_commit && seen.entry.at < last.entry.at);
        highest = between.map(Seen::time).fold(highest, Timestamp::max);
    }
    let candidates = vec![Commit { at: at_first, time: None }, last.entry];
    match candidate {
        Some(wanted) => {
            let count = candidates.len();
            let chosen = wanted.checked_sub(1).and_then(|at| candidates.get(at));
            let chosen = chosen.ok_or(FindError::NoSuchCandidate { wanted, count })?;
            Ok((chosen.at, Vec::new()))
        }
        None if highest.0 - last.time().0 < APART_MAX_MICROS => {
            let note = format!(
                "commits up to {time} stand behind a later one ({}): clocks differed by less than \
                 a second",
                first_later.entry
            );
            Ok((at_first, vec![note]))
        }
        None => Err(FindError::Ambiguous { asked: time.to_string(), candidates }),
    }
}

async fn by_name(
    log: &mut Pieces<'_>,
    name: &str,
    candidate: Option<usize>,
) -> Result<OplogTs, FindError> {
    let (mut found, mut known) = (Vec::new(), Vec::new());
    for piece in 0..log.count() {
        for (noted, at) in log.names(piece).await? {
            if noted == name {
                found.push(at);
            } else if known.len() < NAMES_MAX && !known.contains(&noted) {
                known.push(noted);
            }
        }
    }
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
