//! `pitr status`: whether a database is protected, from nothing but its archive, so that a sidecar
//! that is dead cannot hide it.
//!
//! Enters: a catalog and this machine's clock. Leaves: a [`Status`] as text or JSON.

use std::time::Duration;

use serde::Serialize;

use super::args::StatusArgs;
use super::error::{CliError, Code};
use super::{Context, Outcome, show};
use crate::catalog::{Base, Catalog, Gap, LogEnd, LogPath, LogRange, Stored, Window};
use proto::archive::identity::Identity;
use proto::position::{ByteCount, Position};
use proto::postgres::lsn::{Lsn, Timeline};
use proto::timestamp::Timestamp;

/// An idle database writes a watermark each minute: without a newer proof, nothing is written.
pub(super) const PROOF_AGE_MAX: f64 = 300.0;

/// Segments that `pitrd` brings up at once: so many may be missing before newer ones.
const SIDE_BY_SIDE: u64 = 4;

/// What is known of a database's protection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Status {
    pub(super) archive: String,
    pub(super) engine: String,
    pub(super) lineage: u32,
    pub(super) identity: Identity,
    pub(super) protected: bool,
    /// Why it is not.
    pub(super) reason: Option<String>,
    pub(super) since: Option<Timestamp>,
    /// The latest moment that can be restored.
    pub(super) restorable_until: Option<Timestamp>,
    /// This machine's clock less the newest proof of the database's: approximate by what the two
    /// clocks differ.
    pub(super) lag_seconds: Option<f64>,
    pub(super) lag_is_approximate: bool,
    pub(super) durable: Durable,
    pub(super) windows: Vec<ShownWindow>,
    pub(super) gaps: Vec<ShownGap>,
    pub(super) bases: Vec<ShownBase>,
    pub(super) writer: Option<ShownWriter>,
    /// Objects in the chain of tails of the open segment.
    pub(super) tail_objects: u64,
    pub(super) damaged: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    pub(super) timeline: Timeline,
    pub(super) lsn: Lsn,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Durable {
    pub(super) position: Option<Place>,
    pub(super) time: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ShownWindow {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) from_lsn: Lsn,
    pub(super) to_lsn: Lsn,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ShownGap {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) reason: String,
    pub(super) recorded: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ShownBase {
    pub(super) id: String,
    pub(super) start: Lsn,
    pub(super) stop: Lsn,
    pub(super) timeline: Timeline,
    pub(super) finished: Timestamp,
    /// Bytes in the store.
    pub(super) bytes: u64,
    pub(super) raw_bytes: u64,
    pub(super) damaged: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ShownWriter {
    pub(super) epoch: u64,
    pub(super) host: String,
    pub(super) program: String,
    pub(super) since: Timestamp,
}

pub(super) async fn run(context: &Context, args: &StatusArgs) -> Result<Outcome, CliError> {
    let limit = args.fail_if_lag.as_deref().map(show::parse_duration).transpose()?;
    let catalog = context.catalog().await?;
    let status = collect(&catalog, context.now()).await?;
    let output = if context.global.json {
        serde_json::to_string_pretty(&status).expect("our own types have string keys")
    } else {
        text(&status, context.terminal)
    };
    Ok(Outcome { output, error: over(limit, status.lag_seconds) })
}

/// A lag over the limit that was given; one that is unknown is over every limit.
pub(super) fn over(limit: Option<Duration>, lag: Option<f64>) -> Option<CliError> {
    let max = limit.filter(|max| lag.is_none_or(|lag| lag > max.as_secs_f64()))?;
    let lag = lag.map_or("unknown".to_owned(), show::duration);
    let what = format!("the lag is {lag}, and {} is the limit", show::duration(max.as_secs_f64()));
    let next = "look at pitrd: `systemctl status pitrd`, /metrics";
    Some(CliError::new(Code::LagOver, what, next))
}

pub(super) async fn collect(catalog: &Catalog, now: Timestamp) -> Result<Status, CliError> {
    let path = catalog.path();
    let windows = catalog.windows(&path).await?;
    let (last, on_its_way) = last_range(catalog, &path, &windows);
    let end = match last {
        Some(range) => Some(catalog.known_end_of(&path, range).await?),
        None => None,
    };
    let proven = end.as_ref().and_then(LogEnd::proven);
    let lag = proven.map(|proven| now.seconds_since(proven).max(0.0));
    let trouble = trouble(catalog, &windows, end.as_ref(), lag, on_its_way);
    let position = end.as_ref().map(|end| Place { timeline: path.timeline(), lsn: end.lsn });
    Ok(Status {
        archive: catalog.address(),
        engine: catalog.identity.engine.to_string(),
        lineage: catalog.lineage.0,
        identity: catalog.identity.clone(),
        protected: trouble.is_none(),
        since: trouble.as_ref().map(|(since, _)| *since),
        reason: trouble.map(|(_, reason)| reason),
        restorable_until: windows.last().map(|window| window.to),
        lag_seconds: lag,
        lag_is_approximate: true,
        durable: Durable { position, time: proven },
        windows: windows.iter().map(ShownWindow::of).collect(),
        gaps: catalog.gaps().iter().map(ShownGap::of).collect(),
        bases: catalog.bases.iter().map(ShownBase::of).collect(),
        writer: catalog.writer().map(|writer| ShownWriter {
            epoch: writer.epoch,
            host: writer.host,
            program: writer.program,
            since: writer.since,
        }),
        tail_objects: tail_objects(catalog, path.timeline()),
        damaged: catalog.damage.iter().map(|d| format!("{}: {}", d.key, d.detail)).collect(),
    })
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

/// Since when and why a database is not protected.
fn trouble(
    catalog: &Catalog,
    windows: &[Window],
    end: Option<&LogEnd>,
    lag: Option<f64>,
    on_its_way: bool,
) -> Option<(Timestamp, String)> {
    let begun = catalog.identity.created;
    let hole = || "the log has a hole, and no base follows".to_owned();
    let Some(end) = end else { return Some((begun, "no log is archived".to_owned())) };
    let reaches_end = windows.last().is_some_and(|window| window.to_lsn == end.lsn);
    if !reaches_end {
        let since = windows.last().map_or(begun, |window| window.to);
        let usable = catalog.bases.iter().any(|base| !base.is_damaged());
        let reason = match (catalog.gaps().last(), usable) {
            (Some(gap), true) => {
                format!(
                    "the log is lost from {} on ({}), and no base follows",
                    lsn(gap.from),
                    gap.reason
                )
            }
            (None, true) => hole(),
            (_, false) => "there is no complete base".to_owned(),
        };
        return Some((since, reason));
    }
    match (end.proven(), lag) {
        (Some(proven), Some(lag)) if lag > PROOF_AGE_MAX => {
            let old = || format!("the newest proof is {} old", show::duration(lag));
            Some((proven, if on_its_way { hole() } else { old() }))
        }
        (None, _) => Some((begun, "the log holds neither a commit nor a watermark".to_owned())),
        _ => None,
    }
}

fn lsn(position: Position) -> Lsn {
    position.offset.into()
}

fn tail_objects(catalog: &Catalog, timeline: Timeline) -> u64 {
    let last = catalog.logs.get(&timeline).and_then(|log| log.segments.values().next_back());
    match last {
        Some(Stored::Tails(chain)) => chain.links.len() as u64,
        _ => 0,
    }
}

impl Place {
    pub(super) fn of(position: Position) -> Self {
        Self { timeline: position.epoch.into(), lsn: position.offset.into() }
    }
}

impl ShownWindow {
    pub(super) fn of(window: &Window) -> Self {
        let Window { from, to, from_lsn, to_lsn, .. } = *window;
        Self { from, to, from_lsn, to_lsn }
    }
}

impl ShownGap {
    pub(super) fn of(gap: &Gap) -> Self {
        Self {
            from: Place::of(gap.from),
            to: Place::of(gap.to),
            reason: gap.reason.clone(),
            recorded: gap.recorded,
        }
    }
}

impl ShownBase {
    pub(super) fn of(base: &Base) -> Self {
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

/// The first line says it all.
pub(super) fn headline(
    protected: bool,
    trouble: Option<(Timestamp, &str)>,
    restorable_until: Option<Timestamp>,
) -> String {
    let until = restorable_until.map_or_else(
        || "nothing can be restored".to_owned(),
        |until| format!("restorable until {}", show::time(until)),
    );
    match (protected, trouble) {
        (true, _) => format!("PROTECTED  {until}"),
        (false, Some((since, reason))) => {
            format!("NOT PROTECTED since {}: {reason}; {until}", show::time(since))
        }
        (false, None) => format!("NOT PROTECTED; {until}"),
    }
}

pub(super) fn text(status: &Status, terminal: bool) -> String {
    let trouble = status.since.zip(status.reason.as_deref());
    let mut lines = vec![headline(status.protected, trouble, status.restorable_until)];
    let version = status.identity.postgres().map_or(0, |postgres| postgres.version_num / 10_000);
    lines.push(format!(
        "archive  {}  lineage {}  {} {version}  cluster {}",
        status.archive, status.lineage, status.engine, status.identity.cluster
    ));
    let lag = status.lag_seconds.map_or("unknown".to_owned(), show::duration);
    lines
        .push(format!("lag      {lag} (by this machine's clock: approximate where clocks differ)"));
    if let (Some(place), Some(time)) = (status.durable.position, status.durable.time) {
        lines.push(format!(
            "durable  {} on timeline {}, complete up to {}",
            place.lsn,
            place.timeline,
            show::time(time)
        ));
    }
    let gaps = match status.gaps.len() {
        0 => "no gap".to_owned(),
        1 => "1 gap".to_owned(),
        many => format!("{many} gaps"),
    };
    for window in &status.windows {
        lines.push(format!("window   {} .. {}", show::time(window.from), show::time(window.to)));
    }
    let bytes: u64 = status.bases.iter().map(|base| base.bytes).sum();
    lines.push(format!("bases    {}, {}; {gaps}", status.bases.len(), ByteCount(bytes)));
    if let Some(writer) = &status.writer {
        lines.push(format!(
            "writer   {} on {} since {} (epoch {}); {} objects in the open segment",
            writer.program,
            writer.host,
            show::time(writer.since),
            writer.epoch,
            status.tail_objects
        ));
    }
    lines.extend(status.damaged.iter().map(|damaged| format!("DAMAGED  {damaged}")));
    let mut text = lines.join("\n");
    text.push('\n');
    if !status.gaps.is_empty() {
        text.push('\n');
        text.push_str(&super::list::gap_table(&status.gaps, terminal));
    }
    text
}
