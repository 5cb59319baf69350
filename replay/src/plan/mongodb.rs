//! What a restore of a MongoDB replica set will do, decided before anything is fetched or written.
//!
//! Enters: an archive and a wanted moment. Leaves: an [`OplogPlan`], which `pitr plan` prints and
//! `pitr restore` executes. Nothing is written.

use serde::{Deserialize, Serialize};

use proto::archive::base::Complete;
use proto::mongodb::{OpTime, OplogTs};
use proto::timestamp::Timestamp;

use super::shared::{FetchBytes, Head, Summary};
use crate::catalog::CatalogError;
use crate::catalog::mongodb::{OplogArchive, OplogGap};
use crate::find::mongodb::{Commit, FindError, Request, Target, resolve};

/// Everything a restore needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OplogPlan {
    #[serde(flatten)]
    pub head: Head,
    pub base: PlannedBase,
    pub target: PlannedTarget,
    /// By their first entries, in order.
    pub segments: Vec<OplogTs>,
    pub fetch: FetchBytes,
    pub warnings: Vec<String>,
    /// Dotted paths of change events that may be names are read as paths.
    #[serde(default)]
    pub accept_open_paths: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedBase {
    pub id: String,
    /// The log is replayed from here on.
    pub start: OpTime,
    /// The earliest moment that the base leads to.
    pub stop: OplogTs,
    pub finished: Timestamp,
    pub version: String,
    pub stored_bytes: u64,
    pub raw_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTarget {
    /// As it was asked for.
    pub asked: String,
    /// The last moment that is in: entries up to it, and transactions that took effect by it.
    pub until: OplogTs,
    pub last_kept: Option<Commit>,
    pub first_left_out: Option<Commit>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OplogPlanError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Log(#[from] CatalogError),
    #[error("the archive holds no complete base")]
    NoBase,
    #[error("there is no base {id:?} (there are {})", known.join(", "))]
    NoSuchBase { id: String, known: Vec<String> },
    #[error("{until} lies before the first moment that {base} can be replayed to, {stop}")]
    TooEarly { until: OplogTs, base: String, stop: OplogTs },
    #[error("the log that {base} begins with, from {start} on, is not in the archive")]
    NoStart { base: String, start: OplogTs },
    #[error("the log has a gap between segments {} and {}, which lies between base and moment", gap.0, gap.1)]
    InGap { gap: (OplogTs, OplogTs) },
}

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub request: Request,
    pub asked: String,
    /// Begin with this base and no other.
    pub base: Option<String>,
}

/// Decides what a restore will do. `now` is for the record only.
///
/// # Errors
/// [`OplogPlanError`]: the moment or the base is refused, or the archive cannot be read.
pub async fn make(
    archive: &OplogArchive,
    wanted: &Wanted,
    now: Timestamp,
) -> Result<OplogPlan, OplogPlanError> {
    let resolved = resolve(archive, &wanted.request).await?;
    let until = resolved.until;
    let left = resolved.first_left_out.as_ref().map(|commit| commit.at);
    if let Some(gap) = lost_before(&archive.gaps(), &wanted.request.target, until, left) {
        return Err(OplogPlanError::InGap { gap });
    }
    let base = choose(archive, wanted, until)?;
    let mongodb = base.mongodb();
    let start = mongodb.start;
    let (first, last) = (archive.segment_of(start.ts), archive.segment_of(until));
    let segments = archive.segments.get(first..=last).unwrap_or_default();
    if segments.first().is_none_or(|segment| segment.first > start.ts) {
        return Err(OplogPlanError::NoStart { base: base.id.clone(), start: start.ts });
    }
    if let Some(gap) = archive.gap_between(start.ts, until).await? {
        return Err(OplogPlanError::InGap { gap });
    }
    let log = segments.iter().map(|segment| segment.stored.bytes()).sum();
    Ok(OplogPlan {
        head: Head::of(&archive.about(), now),
        base: PlannedBase {
            id: base.id.clone(),
            start,
            stop: mongodb.stop,
            finished: base.finished,
            version: mongodb.version.clone(),
            stored_bytes: base.stored_bytes,
            raw_bytes: base.raw_bytes,
        },
        target: PlannedTarget {
            asked: wanted.asked.clone(),
            until,
            last_kept: resolved.last_kept,
            first_left_out: resolved.first_left_out,
        },
        segments: segments.iter().map(|segment| segment.first).collect(),
        fetch: FetchBytes { base: base.stored_bytes, log },
        warnings: resolved.notes,
        accept_open_paths: false,
    })
}

/// The newest base that leads to the moment, or the one that was asked for.
fn choose<'a>(
    archive: &'a OplogArchive,
    wanted: &Wanted,
    until: OplogTs,
) -> Result<&'a Complete, OplogPlanError> {
    let too_early = |base: &Complete| {
        let (stop, base) = (base.mongodb().stop, base.id.clone());
        OplogPlanError::TooEarly { until, base, stop }
    };
    if let Some(id) = &wanted.base {
        let base = archive.bases.iter().find(|base| base.id == *id).ok_or_else(|| {
            let known = archive.bases.iter().map(|base| base.id.clone()).collect();
            OplogPlanError::NoSuchBase { id: id.clone(), known }
        })?;
        return if base.mongodb().stop <= until { Ok(base) } else { Err(too_early(base)) };
    }
    let leads = |base: &&Complete| base.mongodb().stop <= until;
    let newest = archive.bases.iter().rev().find(leads);
    newest.ok_or_else(|| archive.bases.first().map_or(OplogPlanError::NoBase, too_early))
}

impl OplogPlan {
    /// What a person is shown before it is done.
    pub fn summary(&self) -> String {
        let (target, base) = (&self.target, &self.base);
        let summary = Summary {
            head: &self.head,
            asked: &target.asked,
            stop: format!("up to      {}, this entry included", target.until),
            last_kept: target.last_kept.map(|kept| kept.to_string()),
            left_out: target.first_left_out.map(|left| left.to_string()),
            base: &base.id,
            finished: base.finished,
            server: format!("MongoDB {}", base.version),
            segments: self.segments.len(),
            log: format!("from {} on", base.start.ts),
            fetch: self.fetch,
            disk: None,
            kind: "replica set",
            warnings: &self.warnings,
        };
        summary.text()
    }

    /// What tells this restore from another one.
    pub fn what(&self) -> String {
        let (Head { archive, lineage, .. }, id) = (&self.head, &self.base.id);
        format!("{archive} lineage {lineage} base {id} up to {}", self.target.until)
    }
}

/// The gap that a moment lies in, by its last entry and the first one behind it: what was committed
/// between is not known. A time lies in it from the second of the last entry on, unless something
/// behind that time is kept.
fn lost_before(
    gaps: &[OplogGap],
    target: &Target,
    until: OplogTs,
    left: Option<OplogTs>,
) -> Option<(OplogTs, OplogTs)> {
    let ends = gaps.iter().map(|gap| (gap.last.ts, gap.first.ts));
    ends.into_iter().find(|(last, first)| {
        let later = |time: &Timestamp| *time > last.time();
        let nothing_between = until <= *last && left.is_some_and(|left| left >= *first);
        let time = matches!(target, Target::Time(time) if later(time)) && nothing_between;
        time || (*last < until && until < *first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, increment: u64) -> OplogTs {
        OplogTs(seconds << 32 | increment)
    }

    #[test]
    fn a_moment_in_a_gap_is_refused_though_no_entry_stands_there() {
        let (last, first) = (at(20, 5), at(30, 1));
        let gap = OplogGap {
            last: last.at(1),
            first: first.at(1),
            reason: String::new(),
            recorded: Timestamp(0),
        };
        let gaps = [gap];
        let exactly = |until| lost_before(&gaps, &Target::At(until), until, Some(at(30, 2)));
        for inside in [at(20, 6), at(25, 0), at(30, 0)] {
            assert_eq!(exactly(inside), Some((last, first)), "{inside}");
        }
        for outside in [at(20, 5), at(20, 4), at(30, 1), at(40, 0)] {
            assert_eq!(exactly(outside), None, "{outside}");
        }
        let time = |seconds: u64, until, left| {
            lost_before(&gaps, &Target::Time(at(seconds, 0).time()), until, Some(left))
        };
        assert_eq!(time(25, last, first), Some((last, first)));
        assert_eq!(time(25, at(19, 1), first), Some((last, first)), "the last entries are noops");
        assert_eq!(time(19, at(19, 1), last), None);
        assert_eq!(time(35, at(34, 1), at(36, 1)), None);
    }
}
