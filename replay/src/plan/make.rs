//! Making a plan.
//!
//! Enters: a catalog and what is wanted. Leaves: the plan, or why there is none: nothing was
//! fetched but what a search needs, and nothing written.

use proto::postgres::lsn::{Lsn, SegmentId, Timeline};
use proto::timestamp::Timestamp;

use super::{
    FetchBytes, FrozenEnd, Head, Plan, PlanError, PlannedBase, PlannedSegment, PlannedTarget,
    damaged, settings,
};
use crate::catalog::read::source_of;
use crate::catalog::{ArchiveView, Base, Catalog, LogPath, LogRange};
use crate::find::{LogView, Refusal, Request, Resolved, resolve};

/// Log that recovery keeps in the folder at most, as far as that can be said: `max_wal_size` is 1
/// GiB by default, and restored segments stay until the second checkpoint behind them.
const LOG_KEPT_MAX: u64 = 2 << 30;

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub request: Request,
    /// As it was asked for, for the record.
    pub asked: String,
    /// Begin with this base and no other, damaged or not.
    pub base: Option<String>,
    /// Follow the log to this timeline instead of the newest.
    pub timeline: Option<Timeline>,
}

/// Decides what a restore will do. `now` is for the record only.
///
/// # Errors
/// [`PlanError`]: the moment or the base is refused, or the archive cannot be read.
pub async fn make(catalog: &Catalog, wanted: &Wanted, now: Timestamp) -> Result<Plan, PlanError> {
    let mut path = match wanted.timeline {
        Some(timeline) => catalog.path_to(timeline)?,
        None => catalog.path(),
    };
    if let Some(id) = &wanted.base {
        check_base(catalog, &path, id)?;
    }
    // A damaged segment counts as lost from where it is found on: what stands before it, and what a
    // later base makes reachable behind it, can be restored still.
    loop {
        let damaged = match attempt(catalog, &path, wanted, now).await {
            Ok(plan) => match damaged::in_footers(catalog, &plan).await? {
                None => return damaged::unless_latest(plan, &path, wanted, catalog),
                Some(found) => found,
            },
            Err(error) => match damaged::named_by(&error, catalog.segment_size()) {
                Some(found) if !path.holes.contains_key(&found.0) => found,
                _ => return Err(damaged::or_behind(error, &path, catalog)),
            },
        };
        if path.holes.len() == damaged::HOLES_MAX || path.holes.contains_key(&damaged.0) {
            return Err(PlanError::Damaged {
                segment: damaged::name(catalog, &path, damaged.0),
                detail: damaged.1,
                before: None,
            });
        }
        path.holes.insert(damaged.0, damaged.1);
    }
}

async fn attempt(
    catalog: &Catalog,
    path: &LogPath,
    wanted: &Wanted,
    now: Timestamp,
) -> Result<Plan, PlanError> {
    let allowed = |base: &Base| match &wanted.base {
        Some(id) => base.id() == id,
        None => !base.is_damaged(),
    };
    let view = catalog.view(path.clone(), allowed).await?;
    let resolved = match resolve(&view, &wanted.request).await {
        Ok(resolved) => resolved,
        Err(error) => return Err(refused(catalog, path, wanted, error.into()).await),
    };
    build(catalog, path, &view, wanted, &resolved, now).await
}

fn check_base(catalog: &Catalog, path: &LogPath, id: &str) -> Result<(), PlanError> {
    let Some(base) = catalog.base(id) else {
        let known = catalog.bases.iter().map(|base| base.id().to_owned()).collect();
        return Err(PlanError::NoSuchBase { id: id.to_owned(), known });
    };
    if catalog.is_on(path, base) {
        return Ok(());
    }
    Err(PlanError::BaseElsewhere {
        id: id.to_owned(),
        timeline: base.complete.postgres().stop_timeline,
        stop: base.complete.postgres().stop,
        wanted: path.timeline(),
    })
}

/// A refusal, told apart: because of the base that was asked for, or because only damaged ones
/// would do.
async fn refused(
    catalog: &Catalog,
    path: &LogPath,
    wanted: &Wanted,
    error: PlanError,
) -> PlanError {
    let PlanError::Refused(reason) = error else { return error };
    if let Some(id) = &wanted.base {
        return PlanError::BaseRefused { id: id.clone(), reason };
    }
    let early =
        matches!(*reason, Refusal::NoBase | Refusal::TooEarly { .. } | Refusal::BehindGap { .. });
    if early && catalog.bases.iter().any(Base::is_damaged) {
        let with_damaged = match catalog.view(path.clone(), |_| true).await {
            Ok(view) => resolve(&view, &wanted.request).await.ok(),
            Err(error) => return error.into(),
        };
        if let Some(resolved) = with_damaged {
            return PlanError::OnlyDamaged { ids: resolved.bases };
        }
    }
    PlanError::Refused(reason)
}

async fn build(
    catalog: &Catalog,
    path: &LogPath,
    view: &ArchiveView<'_>,
    wanted: &Wanted,
    resolved: &Resolved,
    now: Timestamp,
) -> Result<Plan, PlanError> {
    let base = resolved.bases.first().and_then(|id| catalog.base(id));
    let base = base.ok_or(PlanError::Refused(Box::new(Refusal::NoBase)))?;
    let postgres = base.complete.postgres();
    // Recovery reads the record at the target even when it is left out, and never stops before the
    // base is consistent.
    let end = resolved.stop.record_end.max(postgres.stop);
    let segments = segments(catalog, path, postgres.start, end)?;
    let log = segments.iter().map(|segment| segment.bytes).sum();
    let fetch = FetchBytes { base: base.complete.stored_bytes, log };
    let mut warnings: Vec<String> = resolved.notes.iter().map(ToString::to_string).collect();
    if base.is_damaged() {
        let pages = base.complete.damaged.len();
        warnings.push(format!("{pages} pages of the base had wrong checksums at the source"));
    }
    let (settings, unknown) = settings::needed(view, base, end).await?;
    if unknown > 0 {
        warnings.push(format!(
            "{unknown} segments without an index were not searched for changed settings \
             (`pitr reindex` makes it)"
        ));
    }
    let log_kept = (segments.len() as u64).saturating_mul(catalog.segment_size().bytes());
    Ok(Plan {
        head: Head::of(&catalog.about(), now),
        base: planned(base),
        target: PlannedTarget {
            asked: wanted.asked.clone(),
            lsn: resolved.stop.lsn,
            inclusive: resolved.stop.inclusive,
            timeline: resolved.timeline,
            record_end: Some(resolved.stop.record_end),
            last_kept: resolved.last_kept,
            first_left_out: resolved.first_left_out,
        },
        end: frozen(catalog, path, view, end),
        segments,
        histories: histories(catalog, path),
        fetch,
        disk_bytes: base.complete.raw_bytes.saturating_add(log_kept.min(LOG_KEPT_MAX)),
        settings,
        warnings,
    })
}

fn planned(base: &Base) -> PlannedBase {
    let complete = &base.complete;
    PlannedBase {
        id: complete.id.clone(),
        timeline: complete.postgres().timeline,
        start: complete.postgres().start,
        stop: complete.postgres().stop,
        stop_timeline: complete.postgres().stop_timeline,
        finished: complete.finished,
        version_num: complete.postgres().version_num,
        stored_bytes: complete.stored_bytes,
        raw_bytes: complete.raw_bytes,
        damaged: base.is_damaged(),
    }
}

/// Where each segment from the one of `start` to the one that holds the byte before `end` comes
/// from.
fn segments(
    catalog: &Catalog,
    path: &LogPath,
    start: Lsn,
    end: Lsn,
) -> Result<Vec<PlannedSegment>, PlanError> {
    let size = catalog.segment_size();
    let (first, last) = (size.segment_of(start), size.segment_of(Lsn(end.0.saturating_sub(1))));
    let mut segments = Vec::new();
    for number in first..=last {
        let needed = end.since(size.start_of(number)).0.min(size.bytes());
        let located = catalog.locate(path, number).filter(|l| l.raw_bytes >= needed);
        let Some(located) = located else {
            let timeline = path.history.owner_of(size.start_of(number));
            let missing = SegmentId { timeline, number }.name(size);
            return Err(PlanError::Hole { from: start, to: end, missing });
        };
        segments.push(PlannedSegment {
            name: located.id.name(size),
            source: source_of(located.stored),
            bytes: located.stored.stored_bytes(),
        });
    }
    Ok(segments)
}

/// The end of the unbroken log that the target stands in.
fn frozen(catalog: &Catalog, path: &LogPath, view: &ArchiveView<'_>, end: Lsn) -> FrozenEnd {
    let ranges = catalog.ranges(path);
    let holding = |range: &&LogRange| range.from < end && end <= range.to;
    let at = ranges.iter().find(holding).map_or(end, |range| range.to);
    let is_last = ranges.last().is_some_and(|last| last.to == at);
    FrozenEnd {
        timeline: path.timeline(),
        lsn: at,
        proven: if is_last { view.watermark() } else { None },
    }
}

fn histories(catalog: &Catalog, path: &LogPath) -> Vec<Timeline> {
    let timelines = path.stretches.iter().map(|stretch| stretch.timeline);
    timelines.filter(|timeline| catalog.histories.contains_key(timeline)).collect()
}
