//! `pitr status` of a replica set: in the words of every engine, with timestamps of the oplog in place
//! of positions.
//!
//! Enters: an archive and this machine's clock. Leaves: a [`Status`] as text or JSON.

use serde::Serialize;

use proto::archive::identity::Identity;
use proto::archive::ledger::Event;
use proto::mongodb::{OplogTs, SourceMode};
use proto::position::ByteCount;
use proto::timestamp::Timestamp;

use super::args::StatusArgs;
use super::error::CliError;
use super::status::{PROOF_AGE_MAX, ShownWriter, headline, over};
use super::{Context, Outcome, show};
use crate::catalog::mongodb::{OplogArchive, OplogWindow, Stored};
use crate::find::mongodb::{Commit, end_of};

/// What is known of a set's protection.
#[derive(Debug, Serialize)]
struct Status {
    archive: String,
    engine: String,
    lineage: u32,
    identity: Identity,
    source_mode: SourceMode,
    /// What such a log does not carry.
    not_carried: Vec<&'static str>,
    protected: bool,
    reason: Option<String>,
    since: Option<Timestamp>,
    restorable_until: Option<Timestamp>,
    lag_seconds: Option<f64>,
    lag_is_approximate: bool,
    durable: Durable,
    windows: Vec<ShownWindow>,
    gaps: Vec<ShownGap>,
    bases: Vec<ShownBase>,
    writer: Option<ShownWriter>,
    tail_objects: u64,
    damaged: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Durable {
    position: Option<OplogTs>,
    time: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct ShownWindow {
    from: Timestamp,
    to: Timestamp,
    from_ts: OplogTs,
    to_ts: OplogTs,
}

#[derive(Debug, Serialize)]
struct ShownGap {
    from: OplogTs,
    to: OplogTs,
    reason: String,
    recorded: Timestamp,
}

#[derive(Debug, Serialize)]
struct ShownBase {
    id: String,
    start: OplogTs,
    stop: OplogTs,
    finished: Timestamp,
    bytes: u64,
    raw_bytes: u64,
    collections: usize,
}

pub(super) async fn run(
    context: &Context,
    archive: &OplogArchive,
    args: &StatusArgs,
) -> Result<Outcome, CliError> {
    let limit = args.fail_if_lag.as_deref().map(show::parse_duration).transpose()?;
    let end = if archive.segments.is_empty() { None } else { end_of(archive).await.ok() };
    let status = collect(archive, end, context.now());
    let output = if context.global.json {
        serde_json::to_string_pretty(&status).expect("our own types have string keys")
    } else {
        text(&status)
    };
    Ok(Outcome { output, error: over(limit, status.lag_seconds) })
}

fn collect(archive: &OplogArchive, end: Option<Commit>, now: Timestamp) -> Status {
    let windows = end.map(|end| archive.windows(end.at)).unwrap_or_default();
    let watermark = archive.watermark.map(|mark| mark.proven());
    let proven = end.and_then(|end| end.time).max(watermark);
    let lag = proven.map(|proven| now.seconds_since(proven).max(0.0));
    let trouble = trouble(archive, &windows, end, proven, lag);
    let reaches = |window: &OplogWindow| end.is_some_and(|end| end.at == window.to);
    // A window that reaches the end goes as far as that is proved.
    let until = |window: &OplogWindow| {
        proven.filter(|_| reaches(window)).unwrap_or_else(|| time_of(window.to))
    };
    let source_mode = archive.identity.mongodb().map(|mongodb| mongodb.source_mode);
    let source_mode = source_mode.unwrap_or_default();
    Status {
        source_mode,
        not_carried: source_mode.not_carried().to_vec(),
        archive: archive.address(),
        engine: archive.identity.engine.to_string(),
        lineage: archive.lineage.0,
        identity: archive.identity.clone(),
        protected: trouble.is_none(),
        since: trouble.as_ref().map(|(since, _)| *since),
        reason: trouble.map(|(_, reason)| reason),
        restorable_until: windows.last().map(until),
        lag_seconds: lag,
        lag_is_approximate: true,
        durable: Durable { position: end.map(|end| end.at), time: proven },
        windows: windows
            .iter()
            .map(|window| ShownWindow {
                from: time_of(window.from),
                to: until(window),
                from_ts: window.from,
                to_ts: window.to,
            })
            .collect(),
        gaps: gaps(archive),
        bases: bases(archive),
        writer: writer(archive),
        tail_objects: tail_objects(archive),
        damaged: archive.damage.iter().map(|d| format!("{}: {}", d.key, d.detail)).collect(),
    }
}

/// The second that a timestamp counts in.
fn time_of(at: OplogTs) -> Timestamp {
    Timestamp(i64::from(at.seconds()) * 1_000_000)
}

/// Since when and why a set is not protected.
fn trouble(
    archive: &OplogArchive,
    windows: &[OplogWindow],
    end: Option<Commit>,
    proven: Option<Timestamp>,
    lag: Option<f64>,
) -> Option<(Timestamp, String)> {
    let begun = archive.identity.created;
    let Some(end) = end else { return Some((begun, "no log is archived".to_owned())) };
    if windows.last().is_none_or(|window| window.to != end.at) {
        let since = windows.last().map_or(begun, |window| time_of(window.to));
        let reason = match archive.gaps().last() {
            Some(gap) if !archive.bases.is_empty() => {
                let from = gap.last.ts;
                format!("the log is lost from {from} on ({}), and no base follows", gap.reason)
            }
            _ => "there is no complete base".to_owned(),
        };
        return Some((since, reason));
    }
    match (proven, lag) {
        (Some(proven), Some(lag)) if lag > PROOF_AGE_MAX => {
            Some((proven, format!("the newest proof is {} old", show::duration(lag))))
        }
        _ => None,
    }
}

fn gaps(archive: &OplogArchive) -> Vec<ShownGap> {
    let gaps = archive.gaps().into_iter().map(|gap| ShownGap {
        from: gap.last.ts,
        to: gap.first.ts,
        reason: gap.reason,
        recorded: gap.recorded,
    });
    gaps.collect()
}

fn bases(archive: &OplogArchive) -> Vec<ShownBase> {
    let bases = archive.bases.iter().map(|base| ShownBase {
        id: base.id.clone(),
        start: base.mongodb().start.ts,
        stop: base.mongodb().stop,
        finished: base.finished,
        bytes: base.stored_bytes,
        raw_bytes: base.raw_bytes,
        collections: base.mongodb().collections.len(),
    });
    bases.collect()
}

fn writer(archive: &OplogArchive) -> Option<ShownWriter> {
    archive.ledger.iter().rev().find_map(|entry| match &entry.event {
        Event::Writer { host, program } => Some(ShownWriter {
            epoch: entry.seq,
            host: host.clone(),
            program: program.clone(),
            since: entry.time,
        }),
        _ => None,
    })
}

fn tail_objects(archive: &OplogArchive) -> u64 {
    match archive.segments.last().map(|segment| &segment.stored) {
        Some(Stored::Tails(chain)) => chain.links.len() as u64,
        _ => 0,
    }
}

fn text(status: &Status) -> String {
    let trouble = status.since.zip(status.reason.as_deref());
    let mut lines = vec![headline(status.protected, trouble, status.restorable_until)];
    let (version, set) = status
        .identity
        .mongodb()
        .map_or(("", ""), |mongodb| (mongodb.version.as_str(), mongodb.set_name.as_str()));
    lines.push(format!(
        "archive  {}  lineage {}  {} {version}  replica set {set}",
        status.archive, status.lineage, status.engine
    ));
    let lag = status.lag_seconds.map_or("unknown".to_owned(), show::duration);
    lines
        .push(format!("lag      {lag} (by this machine's clock: approximate where clocks differ)"));
    if let (Some(position), Some(time)) = (status.durable.position, status.durable.time) {
        lines.push(format!("durable  {position}, complete up to {}", show::time(time)));
    }
    for window in &status.windows {
        lines.push(format!(
            "window   {} .. {}  ({} .. {})",
            show::time(window.from),
            show::time(window.to),
            window.from_ts,
            window.to_ts
        ));
    }
    let bytes: u64 = status.bases.iter().map(|base| base.bytes).sum();
    let gaps = match status.gaps.len() {
        0 => "no gap".to_owned(),
        1 => "1 gap".to_owned(),
        many => format!("{many} gaps"),
    };
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
    lines.extend(status.gaps.iter().map(|gap| {
        format!(
            "GAP      {} .. {}  ({})  {}",
            gap.from,
            gap.to,
            show::time(gap.recorded),
            gap.reason
        )
    }));
    lines.extend(status.damaged.iter().map(|damaged| format!("DAMAGED  {damaged}")));
    if !status.not_carried.is_empty() {
        lines.push(format!("source   {}, which does not carry:", status.source_mode));
        lines.extend(status.not_carried.iter().map(|what| format!("         - {what}")));
    }
    lines.join("\n") + "\n"
}
