//! `pitr list`: bases, restorable ranges, gaps and timelines.

use serde::Serialize;

use super::error::CliError;
use super::status::postgres::{ShownBase, ShownGap, ShownWindow};
use super::{Context, Outcome, show};
use crate::catalog::Catalog;
use proto::position::ByteCount;
use proto::postgres::lsn::{Lsn, Timeline};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Listing {
    pub(super) archive: String,
    pub(super) lineages: Vec<u32>,
    pub(super) lineage: u32,
    pub(super) bases: Vec<ShownBase>,
    /// Folders of bases that are not complete.
    pub(super) unfinished: Vec<String>,
    pub(super) windows: Vec<ShownWindow>,
    pub(super) gaps: Vec<ShownGap>,
    pub(super) timelines: Vec<ShownTimeline>,
    pub(super) damaged: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ShownTimeline {
    pub(super) timeline: Timeline,
    pub(super) parent: Option<Timeline>,
    /// Where it left its parent.
    pub(super) branch: Option<Lsn>,
    pub(super) reason: Option<String>,
    /// Its own log: segments, and bytes in the store.
    pub(super) segments: u64,
    pub(super) bytes: u64,
    /// Where the unbroken log to its end begins, and where it ends.
    pub(super) from: Option<Lsn>,
    pub(super) to: Option<Lsn>,
}

pub(super) async fn run(context: &Context) -> Result<Outcome, CliError> {
    let catalog = context.catalog().await?;
    let listing = collect(&catalog).await?;
    Ok(Outcome::done(if context.global.json {
        show::json(&listing)
    } else {
        text(&listing, context.terminal)
    }))
}

pub(super) async fn collect(catalog: &Catalog) -> Result<Listing, CliError> {
    let windows = catalog.windows(&catalog.path()).await?;
    let mut numbers: Vec<Timeline> = catalog.histories.keys().copied().collect();
    numbers.extend(catalog.logs.keys().copied());
    numbers.sort();
    numbers.dedup();
    Ok(Listing {
        archive: catalog.address(),
        lineages: catalog.lineages.iter().map(|lineage| lineage.0).collect(),
        lineage: catalog.lineage.0,
        bases: catalog.bases.iter().map(ShownBase::of).collect(),
        unfinished: catalog.unfinished.clone(),
        windows: windows.iter().map(ShownWindow::of).collect(),
        gaps: catalog.gaps().iter().map(ShownGap::of).collect(),
        timelines: numbers.into_iter().map(|timeline| shown(catalog, timeline)).collect(),
        damaged: catalog.damage.iter().map(ToString::to_string).collect(),
    })
}

fn shown(catalog: &Catalog, timeline: Timeline) -> ShownTimeline {
    let history = catalog.history(timeline);
    let branch = history.branch().cloned();
    let log = catalog.logs.get(&timeline);
    let path = crate::catalog::LogPath::new(history);
    let range = catalog.ranges(&path).last().copied();
    ShownTimeline {
        timeline,
        parent: branch.as_ref().map(|branch| branch.parent),
        branch: branch.as_ref().map(|branch| branch.at),
        reason: branch.map(|branch| branch.reason),
        segments: log.map_or(0, |log| log.segments.len() as u64),
        bytes: log.map_or(0, |log| log.segments.values().map(|s| s.stored_bytes()).sum()),
        from: range.map(|range| range.from),
        to: range.map(|range| range.to),
    }
}

pub(super) fn text(listing: &Listing, terminal: bool) -> String {
    let mut out = format!("archive {}  lineage {}\n", listing.archive, listing.lineage);
    let mut section = |title: &str, body: String| {
        out.push_str(&format!("\n{title}\n"));
        out.push_str(&body);
    };
    section("RESTORABLE", windows(listing, terminal));
    section("BASES", bases(listing, terminal));
    if !listing.gaps.is_empty() {
        section("GAPS", gap_table(&listing.gaps, terminal));
    }
    section("TIMELINES", timelines(listing, terminal));
    if !listing.unfinished.is_empty() {
        let ids = listing.unfinished.iter().map(|id| format!("{id}\n")).collect();
        section("BASES THAT ARE NOT COMPLETE", ids);
    }
    if !listing.damaged.is_empty() {
        let lines = listing.damaged.iter().map(|line| format!("{line}\n")).collect();
        section("DAMAGED", lines);
    }
    out
}

fn windows(listing: &Listing, terminal: bool) -> String {
    if listing.windows.is_empty() {
        return "nothing: no complete base that the log follows\n".to_owned();
    }
    let rows = listing.windows.iter().map(|window| {
        vec![
            show::time(window.from),
            show::time(window.to),
            window.places.from_lsn.to_string(),
            window.places.to_lsn.to_string(),
        ]
    });
    show::table(&["FROM", "TO", "FROM LSN", "TO LSN"], rows.collect(), terminal)
}

fn bases(listing: &Listing, terminal: bool) -> String {
    if listing.bases.is_empty() {
        return "none\n".to_owned();
    }
    let rows = listing.bases.iter().map(|base| {
        vec![
            base.id.clone(),
            show::time(base.finished),
            base.timeline.to_string(),
            base.start.to_string(),
            base.stop.to_string(),
            ByteCount(base.bytes).to_string(),
            ByteCount(base.raw_bytes).to_string(),
            if base.damaged { "damaged" } else { "complete" }.to_owned(),
        ]
    });
    let header = ["ID", "FINISHED", "TIMELINE", "START", "STOP", "STORED", "UNPACKED", "STATE"];
    show::table(&header, rows.collect(), terminal)
}

pub(super) fn gap_table(gaps: &[ShownGap], terminal: bool) -> String {
    let rows = gaps.iter().map(|gap| {
        vec![
            gap.from.timeline.to_string(),
            gap.from.lsn.to_string(),
            gap.to.lsn.to_string(),
            show::time(gap.recorded),
            gap.reason.clone(),
        ]
    });
    show::table(&["TIMELINE", "LOST FROM", "TO", "RECORDED", "REASON"], rows.collect(), terminal)
}

fn timelines(listing: &Listing, terminal: bool) -> String {
    let dash = || "-".to_owned();
    let rows = listing.timelines.iter().map(|shown| {
        vec![
            shown.timeline.to_string(),
            shown.parent.map_or_else(dash, |parent| parent.to_string()),
            shown.branch.map_or_else(dash, |branch| branch.to_string()),
            shown.segments.to_string(),
            ByteCount(shown.bytes).to_string(),
            shown.from.map_or_else(dash, |from| from.to_string()),
            shown.to.map_or_else(dash, |to| to.to_string()),
            shown.reason.clone().unwrap_or_else(dash),
        ]
    });
    let header =
        ["TIMELINE", "PARENT", "BRANCH", "SEGMENTS", "STORED", "LOG FROM", "LOG TO", "REASON"];
    show::table(&header, rows.collect(), terminal)
}
