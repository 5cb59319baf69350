//! The targets that name a record: an LSN, a transaction, a restore point, the end of the log.
//!
//! In: what is named. Out: the record, found by PostgreSQL's own comparisons: an LSN with where a
//! record begins, a transaction by equality (a prepared one by its own number, where it is
//! committed), a restore point by its name.

use proto::postgres::lsn::Lsn;
use proto::postgres::scan::{Event, Span};
use proto::postgres::transaction::Meaning;

use super::log::Log;
use super::ranges::{bases_for, gap_before, nearest_lsn, range_of, ranges, windows_of};
use super::{Candidate, FindError, Note, Refusal, Request, Resolved, Stop, commit_of};

/// So many of one name or number are listed at most.
const CANDIDATES_MAX: usize = 16;
/// So many other names are listed at most.
const NAMES_MAX: usize = 10;

pub(super) async fn resolve_latest(
    log: &mut Log<'_>,
    request: &Request,
) -> Result<Resolved, FindError> {
    let end = log.view.end().ok_or(Refusal::NoLog)?;
    finish(log, Stop::after(end), request, vec![Note::EndOfLog]).await
}

pub(super) async fn resolve_lsn(
    log: &mut Log<'_>,
    lsn: Lsn,
    request: &Request,
) -> Result<Resolved, FindError> {
    let end = log.view.end().ok_or(Refusal::NoLog)?;
    if lsn > end.end {
        let nearest = nearest_lsn(&windows_of(log).await?, lsn);
        let (asked, proven) = (request.asked(), log.view.watermark());
        return Err(Refusal::TooLate { asked, proven, end: end.end, nearest }.into());
    }
    if !ranges(log.view).iter().any(|range| range.from <= lsn && lsn <= range.to) {
        return Err(outside(log, lsn, request).await?);
    }
    let record = log.view.record_from(lsn).await?;
    let mut notes = Vec::new();
    let stop = match record {
        Some(record) if request.exclusive => Stop::before(record),
        Some(record) => {
            let events = log.events(log.piece_of(record.end)).await?;
            let commit = events.iter().filter_map(commit_of).find(|c| c.start == record.start);
            notes.extend(commit.map(|commit| Note::IncludesCommit { commit }));
            Stop::after(record)
        }
        // No record begins there: recovery would wait for one and fail.
        None => {
            notes.push(Note::EndOfLog);
            Stop::after(end)
        }
    };
    finish(log, stop, request, notes).await
}

pub(super) async fn resolve_xid(
    log: &mut Log<'_>,
    xid: u32,
    request: &Request,
) -> Result<Resolved, FindError> {
    let wanted = u64::from(xid);
    let (mut found, mut aborted) = (Vec::new(), Vec::new());
    let mut seen: Option<(u64, u64)> = None;
    for piece in 0..log.pieces().len() {
        let Some((low, high)) = log.ends(piece).await?.transactions else { continue };
        seen = Some(seen.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
        if !(low..=high).contains(&wanted) {
            continue;
        }
        for event in log.events(piece).await?.iter() {
            if let Meaning::Transaction(t) = &event.meaning
                && t.xid == Some(xid)
            {
                found.push(span(event));
                if !t.end.is_commit() {
                    aborted.push(event.start);
                }
            }
        }
    }
    if found.is_empty() {
        return Err(Refusal::UnknownXid { xid, seen }.into());
    }
    let (stop, mut notes) = choose_record(log, found, request).await?;
    if aborted.contains(&stop.lsn) {
        notes.push(Note::Aborted { xid });
    }
    finish(log, stop, request, notes).await
}

pub(super) async fn resolve_name(
    log: &mut Log<'_>,
    name: &str,
    request: &Request,
) -> Result<Resolved, FindError> {
    let (mut found, mut known) = (Vec::new(), Vec::<String>::new());
    for piece in 0..log.pieces().len() {
        if let Some(names) = &log.pieces()[piece].restore_points
            && !names.iter().any(|other| other == name)
        {
            known.extend(names.iter().cloned());
            continue;
        }
        for event in log.events(piece).await?.iter() {
            if let Meaning::RestorePoint { name: other, .. } = &event.meaning {
                known.push(other.clone());
                if other == name {
                    found.push(span(event));
                }
            }
        }
    }
    if found.is_empty() {
        // The latest ones are the likeliest to be meant.
        known.dedup();
        let known = known.split_off(known.len().saturating_sub(NAMES_MAX));
        return Err(Refusal::UnknownName { name: name.to_owned(), known }.into());
    }
    let (stop, notes) = choose_record(log, found, request).await?;
    finish(log, stop, request, notes).await
}

/// One of the records that match; those that no base leads to count only when there is no other.
async fn choose_record(
    log: &mut Log<'_>,
    found: Vec<Span>,
    request: &Request,
) -> Result<(Stop, Vec<Note>), FindError> {
    let stop = |record: Span| {
        if request.exclusive { Stop::before(record) } else { Stop::after(record) }
    };
    let all: Vec<Stop> = found.into_iter().map(stop).collect();
    let reachable =
        all.iter().filter(|stop| !bases_for(log.view, stop.position()).is_empty()).copied();
    let reachable: Vec<Stop> = reachable.take(CANDIDATES_MAX).collect();
    let others = all.len() - reachable.len();
    let mut candidates = Vec::new();
    for stop in if reachable.is_empty() { all[..1].to_vec() } else { reachable } {
        let (last_kept, first_left_out) = log.neighbours(stop.position()).await?;
        candidates.push(Candidate { stop, last_kept, first_left_out });
    }
    let alone = candidates.len() == 1;
    let (stop, note) = choose(request, candidates)?;
    let mut notes = Vec::new();
    if !alone {
        notes.push(note);
    }
    if others > 0 {
        notes.push(Note::OthersNotRestorable { count: others });
    }
    Ok((stop, notes))
}

/// The one candidate, or the one that was asked for.
pub(super) fn choose(
    request: &Request,
    candidates: Vec<Candidate>,
) -> Result<(Stop, Note), FindError> {
    let count = candidates.len();
    let asked = request.asked();
    let wanted = match request.candidate {
        Some(wanted) => wanted,
        None if count == 1 => 1,
        None => return Err(Refusal::Ambiguous { asked, candidates }.into()),
    };
    match wanted.checked_sub(1).and_then(|at| candidates.get(at)) {
        Some(found) => Ok((found.stop, Note::Chosen { candidate: wanted, of: count })),
        None => Err(Refusal::NoSuchCandidate { asked, wanted, count }.into()),
    }
}

/// Everything that is known of a stop, if a base leads to it.
pub(super) async fn finish(
    log: &mut Log<'_>,
    stop: Stop,
    request: &Request,
    mut notes: Vec<Note>,
) -> Result<Resolved, FindError> {
    let position = stop.position();
    let bases = bases_for(log.view, position);
    let Some(nearest) = bases.first() else {
        return Err(outside(log, position, request).await?);
    };
    let (last_kept, first_left_out) = log.neighbours(position).await?;
    let replayed = log.pieces().iter().filter(|p| p.until > nearest.start && p.from < position);
    let count = replayed.map(|piece| piece.anomalies).sum();
    if count > 0 {
        notes.push(Note::Anomalies { count });
    }
    Ok(Resolved {
        stop,
        timeline: log.pieces()[log.piece_of(stop.record_end)].timeline,
        last_kept,
        first_left_out,
        bases: bases.iter().map(|base| base.id.clone()).collect(),
        notes,
    })
}

/// The refusal of a position that no base leads to.
async fn outside(log: &mut Log<'_>, lsn: Lsn, request: &Request) -> Result<FindError, FindError> {
    let nearest = nearest_lsn(&windows_of(log).await?, lsn);
    let asked = request.asked();
    let held = range_of(log.view, lsn).map(|(at, _)| at);
    let passed = ranges(log.view).iter().filter(|range| range.to < lsn).count();
    let at = held.unwrap_or(passed);
    Ok(match gap_before(log.view, at) {
        Some(gap) if held.is_some() => Refusal::BehindGap { asked, gap, nearest }.into(),
        Some(gap) => Refusal::InGap { asked, gap, nearest }.into(),
        None => Refusal::TooEarly { asked, nearest }.into(),
    })
}

fn span(event: &Event) -> Span {
    Span { start: event.start, end: event.end }
}
