//! `pitr status` of a replica set: with timestamps of the oplog in place of positions, and what its
//! source mode does not carry.

use serde::Serialize;

use super::{Found, ShownGap, ShownWindow, limit, told};
use crate::catalog::mongodb::{OplogArchive, OplogWindow, Stored};
use crate::cli::args::StatusArgs;
use crate::cli::error::CliError;
use crate::cli::{Context, Outcome, show};
use crate::find::mongodb::{Commit, end_of};
use proto::archive::base::Complete;
use proto::mongodb::{OplogTs, SourceMode};
use proto::timestamp::Timestamp;

type Status = super::Status<OplogTs, Stamps, ShownBase, Carried>;

#[derive(Debug, Serialize)]
struct Carried {
    source_mode: SourceMode,
    /// What such a log does not carry.
    not_carried: Vec<&'static str>,
    /// Collections that are left out of what is restored, from a moment to another.
    lacks: Vec<ShownLack>,
}

#[derive(Debug, Serialize)]
struct ShownLack {
    collection: String,
    from: OplogTs,
    until: Option<OplogTs>,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Stamps {
    from_ts: OplogTs,
    to_ts: OplogTs,
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

pub(in crate::cli) async fn run(
    context: &Context,
    archive: &OplogArchive,
    args: &StatusArgs,
) -> Result<Outcome, CliError> {
    let limit = limit(args)?;
    let end = if archive.segments.is_empty() { None } else { end_of(archive).await.ok() };
    let status = collect(archive, end, context.now());
    Ok(told(context, &status, limit, || text(&status)))
}

fn collect(archive: &OplogArchive, end: Option<Commit>, now: Timestamp) -> Status {
    let windows = end.map(|end| archive.windows(end.at)).unwrap_or_default();
    let watermark = archive.watermark.map(|mark| mark.proven());
    let proven = end.and_then(|end| end.time).max(watermark);
    let reaches = |window: &OplogWindow| end.is_some_and(|end| end.at == window.to);
    let shown = |window: &OplogWindow| ShownWindow {
        from: window.from.time(),
        // One that reaches the end goes as far as that is proved.
        to: proven.filter(|_| reaches(window)).unwrap_or_else(|| window.to.time()),
        places: Stamps { from_ts: window.from, to_ts: window.to },
    };
    let (gaps, lacks) = (gaps(archive), lacks(archive));
    let found = Found {
        end: end.map(|end| end.at),
        proven,
        reaches_end: windows.last().is_some_and(reaches),
        windows: windows.iter().map(shown).collect(),
        // Without a gap every base that the log leads on from opens a window.
        based: !archive.bases.is_empty() && !gaps.is_empty(),
        on_its_way: false,
        lacking: lacks.iter().find_map(ShownLack::trouble),
        gaps,
        bases: archive.bases.iter().map(ShownBase::of).collect(),
        tail_objects: tail_objects(archive),
    };
    let mode = archive.identity.mongodb().map(|mongodb| mongodb.source_mode).unwrap_or_default();
    let carried = Carried { source_mode: mode, not_carried: mode.not_carried().to_vec(), lacks };
    Status::of(&archive.about(), carried, found, now)
}

fn gaps(archive: &OplogArchive) -> Vec<ShownGap<OplogTs>> {
    let gaps = archive.gaps().into_iter().map(|gap| ShownGap {
        from: gap.last.ts,
        to: gap.first.ts,
        reason: gap.reason,
        recorded: gap.recorded,
    });
    gaps.collect()
}

fn lacks(archive: &OplogArchive) -> Vec<ShownLack> {
    let lacks = archive.lacks().into_iter().map(|lack| ShownLack {
        collection: lack.collection,
        from: lack.at,
        until: lack.until,
        reason: lack.reason,
    });
    lacks.collect()
}

impl ShownLack {
    /// Since when and why a set is not protected, while no base has followed.
    fn trouble(&self) -> Option<(Timestamp, String)> {
        let Self { collection, from, until, reason } = self;
        let what = format!("{collection} is lost from {from} on ({reason}), and no base follows");
        until.is_none().then(|| (from.time(), what))
    }
}

impl ShownBase {
    fn of(base: &Complete) -> Self {
        Self {
            id: base.id.clone(),
            start: base.mongodb().start.ts,
            stop: base.mongodb().stop,
            finished: base.finished,
            bytes: base.stored_bytes,
            raw_bytes: base.raw_bytes,
            collections: base.mongodb().collections.len(),
        }
    }
}

fn tail_objects(archive: &OplogArchive) -> u64 {
    match archive.segments.last().map(|segment| &segment.stored) {
        Some(Stored::Tails(chain)) => chain.links.len() as u64,
        _ => 0,
    }
}

fn text(status: &Status) -> String {
    let mongodb = status.identity.mongodb();
    let (version, set) =
        mongodb.map_or(("", ""), |mongodb| (mongodb.version.as_str(), mongodb.set_name.as_str()));
    let mut lines = status.lines(
        &format!("{version}  replica set {set}"),
        OplogTs::to_string,
        |window| {
            format!("{}  ({} .. {})", window.span(), window.places.from_ts, window.places.to_ts)
        },
        |base| base.bytes,
    );
    lines.extend(status.gaps.iter().map(|gap| {
        let ShownGap { from, to, recorded, reason } = gap;
        format!("GAP      {from} .. {to}  ({})  {reason}", show::time(*recorded))
    }));
    lines.extend(status.more.lacks.iter().map(|lack| {
        let ShownLack { collection, from, until, reason } = lack;
        let until = until.map_or("the next base".to_owned(), |until| until.to_string());
        format!("LACKS    {collection} from {from} to {until}: {reason}")
    }));
    lines.extend(status.damaged_lines());
    if !status.more.not_carried.is_empty() {
        lines.push(format!("source   {}, which does not carry:", status.more.source_mode));
        lines.extend(status.more.not_carried.iter().map(|what| format!("         - {what}")));
    }
    lines.join("\n") + "\n"
}
