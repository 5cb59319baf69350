//! `pitr status` of a PostgreSQL cluster: places are LSNs on timelines.

use std::fmt;

use serde::Serialize;

use super::slot::Slot;
use super::{Found, limit, told};
use crate::catalog::{Base, Catalog, Gap, LogEnd, LogPath, LogRange, Stored, Window};
use crate::cli::args::StatusArgs;
use crate::cli::error::CliError;
use crate::cli::{Context, Outcome};
use proto::position::Position;
use proto::postgres::lsn::{Lsn, Timeline};
use proto::timestamp::Timestamp;

/// Segments that `pitrd` brings up at once: so many may be missing before newer ones.
const SIDE_BY_SIDE: u64 = 4;

pub(in crate::cli) type Status = super::Status<Place, Lsns, ShownBase, Slot>;
pub(in crate::cli) type ShownWindow = super::ShownWindow<Lsns>;
pub(in crate::cli) type ShownGap = super::ShownGap<Place>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Place {
    pub(in crate::cli) timeline: Timeline,
    pub(in crate::cli) lsn: Lsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Lsns {
    pub(in crate::cli) from_lsn: Lsn,
    pub(in crate::cli) to_lsn: Lsn,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::cli) struct ShownBase {
    pub(in crate::cli) id: String,
    pub(in crate::cli) start: Lsn,
    pub(in crate::cli) stop: Lsn,
    pub(in crate::cli) timeline: Timeline,
    pub(in crate::cli) finished: Timestamp,
    /// Bytes in the store.
    pub(in crate::cli) bytes: u64,
    pub(in crate::cli) raw_bytes: u64,
    pub(in crate::cli) damaged: bool,
}

pub(in crate::cli) async fn run(context: &Context, args: &StatusArgs) -> Result<Outcome, CliError> {
    let limit = limit(args)?;
    let catalog = context.catalog().await?;
    let status = collect(&catalog, context.now()).await?;
    Ok(told(context, &status, limit, || text(&status, context.terminal)))
}

pub(in crate::cli) async fn collect(catalog: &Catalog, now: Timestamp) -> Result<Status, CliError> {
    let path = catalog.path();
    let windows = catalog.windows(&path).await?;
    let (last, on_its_way) = last_range(catalog, &path, &windows);
    let end = match last {
        Some(range) => Some(catalog.known_end_of(&path, range).await?),
        None => None,
    };
    let reaches = |window: &Window| end.as_ref().is_some_and(|end| window.to_lsn == end.lsn);
    let found = Found {
        end: end.as_ref().map(|end| Place { timeline: path.timeline(), lsn: end.lsn }),
        proven: end.as_ref().and_then(LogEnd::proven),
        reaches_end: windows.last().is_some_and(reaches),
        windows: windows.iter().map(ShownWindow::of).collect(),
        based: catalog.bases.iter().any(|base| !base.is_damaged()),
        on_its_way,
        lacking: None,
        gaps: catalog.gaps().iter().map(ShownGap::of).collect(),
        bases: catalog.bases.iter().map(ShownBase::of).collect(),
        tail_objects: tail_objects(catalog, path.timeline()),
    };
    let at = found.end.map(|end| end.lsn.at(end.timeline));
    let slot = Slot::of(&catalog.ledger, at);
    Ok(Status::of(&catalog.about(), slot, found, now))
}

/// The range that the log ends with, and whether there is more behind a hole that is about to close:
/// sealed segments come up side by side, so a few may be missing before the newest ones. One that
/// stays away shows in the lag.
fn last_range(catalog: &Catalog, path: &LogPath, windows: &[Window]) -> (Option<LogRange>, bool) {
    let ranges = catalog.ranges(path);
    let [.., before, last] = ranges.as_slice() else { return (ranges.last().copied(), false) };
    let few = last.from.since(before.to).0 <= SIDE_BY_SIDE * catalog.segment_size().bytes();
    let lost = catalog.gaps_on(path).iter().any(|gap| before.to <= gap.from.offset.into());
    let based = windows.last().is_some_and(|window| window.to_lsn > last.from);
    if few && !lost && !based && catalog.damage.is_empty() {
        return (Some(*before), true);
    }
    (Some(*last), false)
}

fn tail_objects(catalog: &Catalog, timeline: Timeline) -> u64 {
    let last = catalog.logs.get(&timeline).and_then(|log| log.segments.values().next_back());
    match last {
        Some(Stored::Tails(chain)) => chain.links.len() as u64,
        _ => 0,
    }
}

impl Place {
    pub(in crate::cli) fn of(position: Position) -> Self {
        Self { timeline: position.epoch.into(), lsn: position.offset.into() }
    }
}

/// The LSN alone: on which timeline is told where it matters.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lsn.fmt(f)
    }
}

impl ShownWindow {
    pub(in crate::cli) fn of(window: &Window) -> Self {
        let Window { from, to, from_lsn, to_lsn, .. } = *window;
        Self { from, to, places: Lsns { from_lsn, to_lsn } }
    }
}

impl ShownGap {
    pub(in crate::cli) fn of(gap: &Gap) -> Self {
        Self {
            from: Place::of(gap.from),
            to: Place::of(gap.to),
            reason: gap.reason.clone(),
            recorded: gap.recorded,
        }
    }
}

impl ShownBase {
    pub(in crate::cli) fn of(base: &Base) -> Self {
        let complete = &base.complete;
        Self {
            id: complete.id.clone(),
            start: complete.postgres().start,
            stop: complete.postgres().stop,
            timeline: complete.postgres().timeline,
            finished: complete.finished,
            bytes: complete.stored_bytes,
            raw_bytes: complete.raw_bytes,
            damaged: base.is_damaged(),
        }
    }
}

pub(in crate::cli) fn text(status: &Status, terminal: bool) -> String {
    let version = status.identity.postgres().map_or(0, |postgres| postgres.version_num / 10_000);
    let mut lines = status.lines(
        &format!("{version}  cluster {}", status.identity.cluster),
        |place| format!("{} on timeline {}", place.lsn, place.timeline),
        ShownWindow::span,
        |base| base.bytes,
    );
    lines.extend(status.more.lines());
    lines.extend(status.damaged_lines());
    let mut text = lines.join("\n") + "\n";
    if !status.gaps.is_empty() {
        text.push('\n');
        text.push_str(&crate::cli::list::gap_table(&status.gaps, terminal));
    }
    text
}
