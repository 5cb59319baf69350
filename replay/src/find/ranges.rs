//! The stretches of log without a hole, and from where on each can be restored.

use proto::postgres::lsn::Lsn;
use proto::timestamp::Timestamp;

use crate::catalog::CatalogError;

use super::log::Log;
use super::{BaseSummary, Gap, LogView, Moment, Nearest};

/// A stretch of log without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: Lsn,
    pub(super) to: Lsn,
    /// Its first piece, and the one behind its last.
    pub(super) pieces: (usize, usize),
}

/// A stretch of moments that can be restored, each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: Moment,
    pub to: Moment,
}

/// The windows of a view, in the order of the log.
///
/// # Errors
/// When a piece without an index cannot be read.
pub async fn windows(view: &dyn LogView) -> Result<Vec<Window>, CatalogError> {
    windows_of(&mut Log::new(view)).await
}

/// Whether there is any window: without looking at what was committed in it, which without an index
/// means reading all of it.
pub(super) fn is_restorable(view: &dyn LogView) -> bool {
    !stretches(view).is_empty()
}

/// A range with its end and the base that opens a window in it.
struct Stretch<'v> {
    range: Range,
    to: Lsn,
    base: &'v BaseSummary,
    last: bool,
}

fn stretches(view: &dyn LogView) -> Vec<Stretch<'_>> {
    let ranges = ranges(view);
    let whole = view.end().map(|end| end.end);
    let stretch = |(at, range): (usize, &Range)| {
        let last = at + 1 == ranges.len();
        let to = if last { whole.unwrap_or(range.to).min(range.to) } else { range.to };
        let usable = view.bases().iter().filter(|base| range.holds(base) && base.stop <= to);
        let base = usable.min_by_key(|base| base.stop)?;
        Some(Stretch { range: *range, to, base, last })
    };
    ranges.iter().enumerate().filter_map(stretch).collect()
}

pub(super) async fn windows_of(log: &mut Log<'_>) -> Result<Vec<Window>, CatalogError> {
    let mut found = Vec::new();
    for Stretch { range, to, base, last } in stretches(log.view) {
        let mut latest = Some(base.finished);
        for piece in range.pieces.0..range.pieces.1 {
            latest = latest.max(log.ends(piece).await?.times.map(|(_, high)| high));
        }
        if last {
            latest = latest.max(log.view.watermark());
        }
        found.push(Window {
            from: Moment { lsn: base.stop, time: Some(base.finished) },
            to: Moment { lsn: to, time: latest },
        });
    }
    Ok(found)
}

/// Cuts the pieces where one does not continue the one before it, or a gap lies between.
pub(super) fn ranges(view: &dyn LogView) -> Vec<Range> {
    let mut found: Vec<Range> = Vec::new();
    for (at, piece) in view.segments().iter().enumerate() {
        let lost = |from: Lsn| view.gaps().iter().any(|g| g.from < piece.until && g.to > from);
        match found.last_mut() {
            Some(last) if last.to == piece.from && !lost(piece.from) => {
                last.to = piece.until;
                last.pieces.1 = at + 1;
            }
            _ => {
                found.push(Range { from: piece.from, to: piece.until, pieces: (at, at + 1) });
            }
        }
    }
    found
}

impl Range {
    pub(super) fn holds(&self, base: &BaseSummary) -> bool {
        base.start >= self.from && base.stop <= self.to
    }
}

/// The range in which everything up to `position` is replayed.
pub(super) fn range_of(view: &dyn LogView, position: Lsn) -> Option<(usize, Range)> {
    let all = ranges(view);
    let at = all.iter().position(|range| position > range.from && position <= range.to)?;
    Some((at, all[at]))
}

/// The bases from which the log leads to `position` without a hole, the nearest first.
pub(super) fn bases_for(view: &dyn LogView, position: Lsn) -> Vec<&BaseSummary> {
    let Some((_, range)) = range_of(view, position) else { return Vec::new() };
    let mut usable: Vec<_> =
        view.bases().iter().filter(|base| range.holds(base) && base.stop <= position).collect();
    usable.sort_by_key(|base| std::cmp::Reverse(base.stop));
    usable
}

/// What is lost between the range `at` and the one before it.
pub(super) fn gap_before(view: &dyn LogView, at: usize) -> Option<Gap> {
    let all = ranges(view);
    let (before, after) = (all.get(at.checked_sub(1)?)?, all.get(at)?);
    let known = view.gaps().iter().find(|gap| gap.from < after.to && gap.to > before.from);
    Some(known.cloned().unwrap_or_else(|| Gap {
        from: before.to,
        to: after.from,
        reason: "no segment of it is in the archive".to_owned(),
    }))
}

/// The ends of windows next to a time.
pub(super) fn nearest_time(windows: &[Window], time: Timestamp) -> Nearest {
    let edges = || windows.iter().flat_map(|w| [w.from, w.to]);
    let at = |moment: &Moment| moment.time;
    Nearest {
        before: edges().filter(|m| at(m).is_some_and(|t| t <= time)).max_by_key(at),
        after: edges().filter(|m| at(m).is_some_and(|t| t > time)).min_by_key(at),
    }
}

/// The ends of windows next to a position.
pub(super) fn nearest_lsn(windows: &[Window], lsn: Lsn) -> Nearest {
    let edges = || windows.iter().flat_map(|w| [w.from, w.to]);
    Nearest {
        before: edges().filter(|m| m.lsn <= lsn).max_by_key(|m| m.lsn),
        after: edges().filter(|m| m.lsn > lsn).min_by_key(|m| m.lsn),
    }
}
