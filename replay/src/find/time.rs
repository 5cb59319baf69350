//! A time: the state in which exactly the commits up to it are in.
//!
//! In: a moment of the database's clock. Out: the position before A, the first commit that is
//! later, if B, the end of the last one that is not, lies no further (DESIGN §5.8). Commit times
//! are not monotonic in the log: they are read before the record is inserted, and clocks step.

use proto::archive::index::Ends;
use proto::postgres::lsn::Lsn;
use proto::timestamp::Timestamp;

use super::log::Log;
use super::ranges::{bases_for, gap_before, nearest_time, range_of, windows_of};
use super::{
    Candidate, Commit, FindError, Note, Refusal, Request, Resolved, Stop, commit_of, point,
    record_of,
};

/// Times out of order by less than this are taken for jitter, not for a clock that was set.
const JITTER_MICROS: i64 = 1_000_000;
/// So many candidates are listed at most.
const CANDIDATES_MAX: usize = 16;

/// Which commits the asked for moment has seen.
#[derive(Debug, Clone, Copy)]
struct Moment {
    time: Timestamp,
    exclusive: bool,
}

/// The times on the way from the first later commit to the last that is not.
#[derive(Debug, Clone, Copy)]
struct Spread {
    low: Timestamp,
    high: Timestamp,
}

pub(super) async fn resolve(
    log: &mut Log<'_>,
    time: Timestamp,
    request: &Request,
) -> Result<Resolved, FindError> {
    let moment = Moment { time, exclusive: request.exclusive };
    let later = log.first(0, |e| moment.may_be_later(e), |c| moment.is_later(c.time)).await?;
    let last_piece = log.pieces().len() - 1;
    let kept =
        log.last(last_piece, |e| moment.may_be_kept(e), |c| !moment.is_later(c.time)).await?;
    let Some((later_piece, first_later)) = later else {
        return everything(log, moment, request).await;
    };
    let mut notes = Vec::new();
    let stop = match kept {
        Some((kept_piece, last_kept)) if last_kept.end > first_later.start => {
            let pieces = later_piece..=kept_piece;
            let spread = spread(log, pieces, first_later.start, last_kept.end).await?;
            if spread.micros() < JITTER_MICROS && request.candidate.is_none() {
                notes.push(Note::OutOfOrder { micros: spread.micros() });
                Stop::before(record_of(&first_later))
            } else {
                let candidates = candidates(log, moment).await?;
                let candidates = fill(log, candidates).await?;
                let (stop, note) = point::choose(request, candidates)?;
                notes.push(note);
                stop
            }
        }
        _ => {
            if let Some(wanted) = request.candidate.filter(|wanted| *wanted != 1) {
                let asked = request.asked();
                return Err(Refusal::NoSuchCandidate { asked, wanted, count: 1 }.into());
            }
            Stop::before(record_of(&first_later))
        }
    };
    check_time(log, moment, stop, request).await?;
    point::finish(log, stop, request, notes).await
}

/// No commit is later: the whole log, if it is proven to reach so far.
async fn everything(
    log: &mut Log<'_>,
    moment: Moment,
    request: &Request,
) -> Result<Resolved, FindError> {
    let end = log.view.end().ok_or(Refusal::NoLog)?;
    let mut proven = log.view.watermark();
    for piece in 0..log.pieces().len() {
        proven = proven.max(log.ends(piece).await?.times.map(|(_, high)| high));
    }
    if proven.is_none_or(|proven| moment.time > proven) {
        let nearest = nearest_time(&windows_of(log).await?, moment.time);
        let asked = request.asked();
        return Err(Refusal::TooLate { asked, proven, end: end.end, nearest }.into());
    }
    let stop = Stop::after(end);
    check_time(log, moment, stop, request).await?;
    point::finish(log, stop, request, vec![Note::EndOfLog]).await
}

/// Whether the log before `stop` shows that the moment lies in it, and not in what is lost or was
/// never archived before it.
async fn check_time(
    log: &mut Log<'_>,
    moment: Moment,
    stop: Stop,
    request: &Request,
) -> Result<(), FindError> {
    let position = stop.position();
    let Some((at, range)) = range_of(log.view, position) else {
        return Err(refuse(log, moment, request, 0, false).await?);
    };
    // A commit that is kept shows that the moment is later than the beginning.
    let kept = log.last(
        log.piece_of(position),
        |e| e.commits > 0,
        |c| c.end <= position && c.end > range.from,
    );
    let seen = kept.await?.is_some_and(|(_, commit)| !moment.is_later(commit.time));
    // So does a base whose copy had begun by then: its start stands behind all that came before.
    let mut bases = log.view.bases().iter().filter(|b| range.holds(b) && b.start <= position);
    let begun = bases.any(|base| base.started <= moment.time);
    if (seen || begun) && !bases_for(log.view, position).is_empty() {
        return Ok(());
    }
    Err(refuse(log, moment, request, at, seen || begun).await?)
}

/// The refusal of a moment before what can be replayed: it fell into the range `at`, and is `held`
/// by its log or lies before it.
async fn refuse(
    log: &mut Log<'_>,
    moment: Moment,
    request: &Request,
    at: usize,
    held: bool,
) -> Result<FindError, FindError> {
    let nearest = nearest_time(&windows_of(log).await?, moment.time);
    let asked = request.asked();
    Ok(match gap_before(log.view, at) {
        Some(gap) if held => Refusal::BehindGap { asked, gap, nearest }.into(),
        Some(gap) => Refusal::InGap { asked, gap, nearest }.into(),
        None => Refusal::TooEarly { asked, nearest }.into(),
    })
}

/// The lowest and highest time between two positions.
async fn spread(
    log: &mut Log<'_>,
    pieces: std::ops::RangeInclusive<usize>,
    from: Lsn,
    to: Lsn,
) -> Result<Spread, FindError> {
    let mut spread = Spread { low: Timestamp(i64::MAX), high: Timestamp(i64::MIN) };
    for piece in pieces {
        let summary = &log.pieces()[piece];
        if summary.from >= from && summary.until <= to {
            if let Some((low, high)) = log.ends(piece).await?.times {
                spread.add(low);
                spread.add(high);
            }
            continue;
        }
        let events = log.events(piece).await?;
        let commits = events.iter().filter_map(commit_of);
        commits.filter(|c| c.start >= from && c.end <= to).for_each(|c| spread.add(c.time));
    }
    Ok(spread)
}

/// Every place where the log passes from commits up to the moment to a later one; those that only
/// jitter separates count as one.
async fn candidates(log: &mut Log<'_>, moment: Moment) -> Result<Vec<Stop>, FindError> {
    let mut found: Vec<Stop> = Vec::new();
    let mut before_is_later = false;
    let mut since = Spread { low: Timestamp(i64::MAX), high: Timestamp(i64::MIN) };
    for piece in 0..log.pieces().len() {
        let ends = log.ends(piece).await?;
        let Some((low, high)) = ends.times else { continue };
        // A piece on one side only, like the one before it, holds no crossing.
        let one_sided = !moment.may_be_kept(&ends) && before_is_later
            || !moment.may_be_later(&ends) && !before_is_later;
        if one_sided {
            since.add(low);
            since.add(high);
            continue;
        }
        for commit in log.events(piece).await?.iter().filter_map(commit_of) {
            since.add(commit.time);
            let later = moment.is_later(commit.time);
            if later && !before_is_later {
                let apart = found.is_empty() || since.micros() >= JITTER_MICROS;
                if apart && found.len() < CANDIDATES_MAX {
                    found.push(Stop::before(record_of(&commit)));
                }
                since = Spread { low: commit.time, high: commit.time };
            }
            before_is_later = later;
        }
    }
    if !before_is_later && let Some(end) = log.view.end() {
        found.push(Stop::after(end));
    }
    Ok(found)
}

async fn fill(log: &mut Log<'_>, stops: Vec<Stop>) -> Result<Vec<Candidate>, FindError> {
    let mut filled = Vec::with_capacity(stops.len());
    for stop in stops {
        let (last_kept, first_left_out): (Option<Commit>, Option<Commit>) =
            log.neighbours(stop.position()).await?;
        filled.push(Candidate { stop, last_kept, first_left_out });
    }
    Ok(filled)
}

impl Moment {
    fn is_later(self, time: Timestamp) -> bool {
        if self.exclusive { time >= self.time } else { time > self.time }
    }

    fn may_be_later(self, ends: &Ends) -> bool {
        ends.times.is_some_and(|(_, high)| self.is_later(high))
    }

    fn may_be_kept(self, ends: &Ends) -> bool {
        ends.times.is_some_and(|(low, _)| !self.is_later(low))
    }
}

impl Spread {
    fn add(&mut self, time: Timestamp) {
        self.low = self.low.min(time);
        self.high = self.high.max(time);
    }

    const fn micros(self) -> i64 {
        self.high.0.saturating_sub(self.low.0)
    }
}
