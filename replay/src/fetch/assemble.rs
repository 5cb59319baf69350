//! One file that recovery asked for, out of what the archive holds of it.
//!
//! Enters: a name. Leaves: a segment of exactly the full size (the planned bytes, hashes checked,
//! then zeros; nothing from the plan's end on), a history file, the plan's proof that there is no
//! such file, or an error. Nothing is written here.

use bytes::Bytes;
use proto::archive::layout::Lineage;
use proto::postgres::history::History;
use proto::postgres::lsn::{SegmentId, Timeline};
use proto::store::{Range, Store};

use super::FetchError;
use crate::catalog::read::{padded, read_planned};
use crate::plan::{Answer, Plan, PlannedSegment};

/// The bytes of `name`; `None` where the plan proves that it lies beyond or does not exist.
///
/// # Errors
/// When the store fails, or holds something else than was planned, or nobody can ask for `name`.
pub async fn file(store: &dyn Store, plan: &Plan, name: &str) -> Result<Option<Bytes>, FetchError> {
    match plan.answer(name) {
        Answer::Segment(planned) => segment(store, plan, planned).await.map(Some),
        Answer::History(timeline) => history(store, plan, timeline).await.map(Some),
        Answer::Absent => Ok(None),
        Answer::Unknown => Err(FetchError::NotInPlan { name: name.to_owned() }),
    }
}

async fn segment(
    store: &dyn Store,
    plan: &Plan,
    planned: &PlannedSegment,
) -> Result<Bytes, FetchError> {
    let size = plan.segment_size();
    let id = SegmentId::parse(&planned.name, size)
        .map_err(|_| FetchError::NotInPlan { name: planned.name.clone() })?;
    let raw = read_planned(store, Lineage(plan.head.lineage), planned, size).await?;
    let served = plan.end.lsn.since(id.start(size)).0;
    let served = usize::try_from(served).map_or(raw.len(), |served| served.min(raw.len()));
    Ok(padded(raw.slice(..served), size))
}

async fn history(store: &dyn Store, plan: &Plan, timeline: Timeline) -> Result<Bytes, FetchError> {
    let raw = store.get(&Lineage(plan.head.lineage).history(timeline), Range::All).await?;
    // Recovery would take an empty or torn one for a timeline without ancestors.
    History::parse(timeline, raw.clone())
        .map_err(|e| FetchError::History { timeline, detail: e.to_string() })?;
    Ok(raw)
}
