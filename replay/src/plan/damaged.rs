//! Damaged segments while a plan is made: found before anything is fetched, as far as small reads
//! can tell, and then treated as lost log.
//!
//! Enters: an error of a search, or a finished plan. Leaves: the number of a segment that must not
//! be used and why, or the refusal that names it. What only reading every byte shows is found by
//! `pitr verify --read-data`, or when the segment is fetched.

use futures_util::{StreamExt, stream};

use proto::archive::ArchiveError;
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize};
use proto::segment::{FOOTER_READ, Footer};
use proto::store::{Class, Key, Range, StoreError};

use super::{Plan, PlanError, Source, Wanted};
use crate::catalog::read::check_place;
use crate::catalog::{Catalog, CatalogError, LogPath, describe};
use crate::find::{Moment, Refusal, Target};

/// So many damaged segments are worked around; an archive with more needs a person.
pub(super) const HOLES_MAX: usize = 16;
/// The footers of so many segments are read at most, the last ones: they are one small request each.
const FOOTERS_MAX: usize = 4096;
const REQUESTS_AT_ONCE: usize = 8;

/// A segment's number, and what is wrong with it.
pub(super) type Found = (u64, String);

/// The segment that an error is about, when it is damaged or gone.
pub(super) fn named_by(error: &PlanError, size: SegmentSize) -> Option<Found> {
    let (PlanError::Catalog(error) | PlanError::Search(error)) = error else { return None };
    number_in(error, size).map(|number| (number, describe(error)))
}

fn number_in(error: &CatalogError, size: SegmentSize) -> Option<u64> {
    let number = |name: &str| SegmentId::parse(name, size).ok().map(|id| id.number);
    let of_key = |key: &Key| key.as_str().split(['/', '.']).find_map(number);
    let of_store = |error: &StoreError| match error {
        StoreError::Absent { key, .. } | StoreError::Damaged { key, .. } => of_key(key),
        _ => None,
    };
    match error {
        CatalogError::Segment { key, .. } | CatalogError::Misplaced { key, .. } => of_key(key),
        CatalogError::NoSegment { name }
        | CatalogError::Changed { name, .. }
        | CatalogError::Shrunk { name, .. } => number(name),
        CatalogError::Archive(ArchiveError::Segment { key, .. }) => of_key(key),
        CatalogError::Archive(ArchiveError::Chain { segment, .. }) => number(segment),
        CatalogError::Archive(ArchiveError::Store(error)) | CatalogError::Store(error) => {
            of_store(error)
        }
        _ => None,
    }
}

/// The first sealed segment of a plan whose footer is damaged or is another's.
pub(super) async fn in_footers(
    catalog: &Catalog,
    plan: &Plan,
) -> Result<Option<Found>, CatalogError> {
    let size = catalog.segment_size();
    let sealed = plan.segment_ids().filter(|(_, segment)| segment.source == Source::Sealed);
    let ids: Vec<SegmentId> = sealed.map(|(id, _)| id).collect();
    let ids = ids[ids.len().saturating_sub(FOOTERS_MAX)..].to_vec();
    let mut checked = stream::iter(ids)
        .map(|id| async move { (id.number, check_footer(catalog, id, size).await) })
        .buffered(REQUESTS_AT_ONCE);
    while let Some((number, result)) = checked.next().await {
        match result {
            Ok(()) => {}
            Err(error) if matches!(error.class(), Class::Damaged | Class::Absent) => {
                return Ok(Some((number, describe(&error))));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

async fn check_footer(
    catalog: &Catalog,
    id: SegmentId,
    size: SegmentSize,
) -> Result<(), CatalogError> {
    let key = catalog.lineage.sealed(&catalog.name_of(id));
    let suffix = catalog.store().get(&key, Range::Last(FOOTER_READ)).await?;
    let footer = Footer::decode_suffix(&suffix)
        .map_err(|source| CatalogError::Segment { key: key.clone(), source })?;
    check_place(&key, &footer, catalog.lineage, id, size)
}

/// The newest moment of an archive whose end is damaged is not what was asked for.
pub(super) fn unless_latest(
    plan: Plan,
    path: &LogPath,
    wanted: &Wanted,
    catalog: &Catalog,
) -> Result<Plan, PlanError> {
    let last = last_number(&plan);
    let behind = path.holes.range(last..).next().or_else(|| broken_behind(catalog, path, last));
    match (behind, &wanted.request.target) {
        (Some((number, detail)), Target::Latest) => {
            let size = plan.segment_size();
            let id = SegmentId { timeline: path.timeline(), number: *number };
            let lsn = plan.target.record_end.unwrap_or(plan.target.lsn);
            let before = plan.target.last_kept.map(|kept| Moment { lsn, time: Some(kept.time) });
            let (segment, detail) = (id.name(size), detail.clone());
            Err(PlanError::Damaged { segment, detail, before })
        }
        _ => Ok(plan),
    }
}

/// An open segment of the path's own timeline whose chain of tails breaks.
fn broken_behind<'c>(
    catalog: &'c Catalog,
    path: &LogPath,
    from: u64,
) -> Option<(&'c u64, &'c String)> {
    catalog.logs.get(&path.timeline())?.broken.range(from..).next_back()
}

fn last_number(plan: &Plan) -> u64 {
    plan.segment_ids().last().map_or(0, |(id, _)| id.number)
}

/// "Later than what is archived" is not the whole truth where the end is there and damaged.
pub(super) fn or_behind(error: PlanError, path: &LogPath, catalog: &Catalog) -> PlanError {
    let PlanError::Refused(reason) = &error else { return error };
    let (Refusal::TooLate { nearest, .. }, Some((number, detail))) =
        (&**reason, path.holes.last_key_value().or_else(|| broken_behind(catalog, path, 0)))
    else {
        return error;
    };
    let segment = name(catalog, path, *number);
    PlanError::Damaged { segment, detail: detail.clone(), before: nearest.before }
}

/// The name of a segment on a path.
pub(super) fn name(catalog: &Catalog, path: &LogPath, number: u64) -> String {
    let size = catalog.segment_size();
    let timeline = path.history.owner_of(Lsn(size.start_of(number + 1).0 - 1));
    SegmentId { timeline, number }.name(size)
}
