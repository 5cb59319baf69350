//! What the archive knows of bases and gaps, as far as the schedule asks.
//!
//! Enters: a lineage. Leaves: the newest base that counts, and every one after it. Only reads.

use serde::Deserialize;
use serde::de::IgnoredAny;

use proto::archive::layout::Lineage;
use proto::archive::ledger::{Entry, Event};
use proto::archive::{ArchiveError, from_json};
use proto::postgres::history::History;
use proto::postgres::lsn::{Lsn, Timeline};
use proto::store::{Range, Store};
use proto::timestamp::Timestamp;

use super::schedule::{Gap, Taken, leads_here};

/// The part of `complete.json` that is needed here: a large base names tens of thousands of parts.
#[derive(Deserialize)]
struct Brief {
    finished: Timestamp,
    postgres: BriefPostgres,
    #[serde(default)]
    damaged: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct BriefPostgres {
    start: Lsn,
    timeline: Timeline,
    stop: Lsn,
    stop_timeline: Timeline,
}

/// The gaps that a ledger tells of.
pub fn gaps(ledger: &[Entry]) -> Vec<Gap> {
    let gap = |entry: &Entry| match &entry.event {
        Event::Gap { from, to, .. } => {
            let timeline = from.epoch.into();
            Some(Gap { timeline, from: from.offset.into(), to: to.offset.into() })
        }
        _ => None,
    };
    ledger.iter().filter_map(gap).collect()
}

/// The complete bases, newest first, up to the first from which the log leads to the present.
///
/// # Errors
/// When the store fails or a `complete.json` is no JSON of ours.
pub async fn bases(
    store: &dyn Store,
    lineage: Lineage,
    gaps: &[Gap],
    history: &History,
) -> Result<Vec<Taken>, ArchiveError> {
    let mut found = Vec::new();
    for id in store.folders(&lineage.bases()).await?.iter().rev() {
        let key = lineage.base_complete(id);
        let json = match store.get(&key, Range::All).await {
            Ok(json) => json,
            // One that was interrupted, or is being taken.
            Err(error) if error.is_absent() => continue,
            Err(error) => return Err(error.into()),
        };
        let brief: Brief = from_json(&key, &json)?;
        let taken = Taken {
            start: brief.postgres.start,
            timeline: brief.postgres.timeline,
            stop: brief.postgres.stop,
            stop_timeline: brief.postgres.stop_timeline,
            finished: brief.finished,
            damaged: !brief.damaged.is_empty(),
        };
        let enough = leads_here(&taken, gaps, history);
        found.push(taken);
        if enough {
            break;
        }
    }
    Ok(found)
}
