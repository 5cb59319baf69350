//! The commands for an archive of a MongoDB replica set.
//!
//! Enters: the same flags as for other engines. Leaves: the same words, with timestamps of the oplog
//! in place of positions.

use serde_json::json;

use proto::mongodb::OplogTs;
use proto::position::ByteCount;
use proto::timestamp::Timestamp;

use super::args::{RestoreArgs, TargetArgs, VerifyArgs};
use super::error::{CliError, Code};
use super::interrupt::Interrupt;
use super::plan::{ask, beside, quoted, time};
use super::{Context, Outcome, show};
use crate::catalog::mongodb::OplogArchive;
use crate::find::mongodb::{FindError, Request, Target};
use crate::plan::mongodb::{OplogPlan, OplogPlanError, Wanted, make};
use crate::target::mongodb::{Into, ReplayError, restore};
use crate::target::progress;
use crate::verify::Progress;

pub(super) async fn plan(
    context: &Context,
    archive: &OplogArchive,
    args: &TargetArgs,
) -> Result<Outcome, CliError> {
    let wanted = wanted(args, context.now())?;
    let plan = make(archive, &wanted, context.now()).await?;
    super::plan::told(context, &plan, plan.summary(), &wanted.asked)
}

pub(super) async fn restore_into(
    context: &Context,
    archive: &OplogArchive,
    args: &RestoreArgs,
) -> Result<Outcome, CliError> {
    let wanted = wanted(&args.target, context.now())?;
    let into = if args.dry_run { None } else { Some(into(args)?) };
    let interrupt = Interrupt::watch()?;
    let planned = async { Ok::<OplogPlan, CliError>(make(archive, &wanted, context.now()).await?) };
    let mut plan = interrupt.unless(planned).await?;
    plan.accept_open_paths = args.accept_open_paths;
    let Some(into) = into else {
        let shown = if context.global.json { show::json(&plan) } else { plan.summary() };
        return Ok(Outcome::done(shown));
    };
    let progress = progress::for_stderr();
    progress.say(plan.summary().trim_end());
    let report = restore(archive, &plan, &into, &*progress, interrupt.token()).await?;
    Ok(Outcome::done(if context.global.json { show::json(&report) } else { report.text() }))
}

pub(super) async fn verify(
    context: &Context,
    archive: &OplogArchive,
    args: &VerifyArgs,
) -> Result<Outcome, CliError> {
    let progress = Progress::default();
    let work = crate::verify::mongodb::verify(archive, args.options(), &progress);
    super::verify::told(context, args, &archive.address(), &progress, work).await
}

/// Where to: `mongodb://…`, or a folder.
fn into(args: &RestoreArgs) -> Result<Into, CliError> {
    let refused = |what: &str, next: &str| Err(CliError::new(Code::Usage, what, next));
    let Some(into) = &args.into else {
        let next = "give --into DIR or --into mongodb://…";
        return Err(CliError::new(Code::Missing, "no place to restore into is given", next));
    };
    if args.pause || args.no_run {
        return refused(
            "--pause and --no-run are for PostgreSQL",
            "leave them out, or give --start",
        );
    }
    if into.starts_with("mongodb://") || into.starts_with("mongodb+srv://") {
        if args.start || args.mongod.is_some() || args.port.is_some() || args.run_as.is_some() {
            let next = "leave out --start, --mongod, --port and --run-as: the server runs already";
            return refused("these flags are for a folder", next);
        }
        return Ok(Into::Server(into.clone()));
    }
    if into.contains("://") {
        return refused(
            "a replica set is restored into a folder or a mongodb:// address",
            "give --into DIR or --into mongodb://…",
        );
    }
    let (mongod, port, start) = (args.mongod.clone(), args.port, args.start);
    let run_as = args.run_as.clone();
    Ok(Into::Folder { folder: into.into(), mongod, port, start, run_as })
}

/// What the flags ask for.
fn wanted(args: &TargetArgs, now: Timestamp) -> Result<Wanted, CliError> {
    if args.at_lsn.is_some() || args.at_xid.is_some() || args.timeline.is_some() {
        let what = "LSNs, transaction numbers and timelines are PostgreSQL's";
        let next = "give --at TIME, --at T,I, --at-name NAME or --latest";
        return Err(CliError::new(Code::Usage, what, next));
    }
    let target = match (&args.at, &args.at_name, args.latest) {
        (Some(text), ..) => moment(text, now)?,
        (_, Some(name), _) => Target::Name(name.clone()),
        (.., true) => Target::Latest,
        _ => {
            let next = "give --at TIME, --at T,I, --at-name NAME or --latest";
            return Err(CliError::new(Code::Missing, "no moment is given", next));
        }
    };
    let mut asked = match &target {
        Target::At(at) => format!("--at {at}"),
        Target::Time(time) => format!("--at {time}"),
        Target::Name(name) => format!("--at-name {}", quoted(name)),
        Target::Latest => "--latest".to_owned(),
    };
    asked.push_str(&beside(args));
    let request = Request { target, exclusive: args.exclusive, candidate: args.candidate };
    Ok(Wanted { request, asked, base: args.base.clone() })
}

/// `T,I`, `Timestamp(T, I)`, `ISODate("…")`, or a time with its zone.
fn moment(text: &str, now: Timestamp) -> Result<Target, CliError> {
    if let Ok(at) = text.parse::<OplogTs>() {
        return Ok(Target::At(at));
    }
    let plain = text.trim();
    let iso = plain.strip_prefix("ISODate(").and_then(|rest| rest.strip_suffix(')'));
    let plain = iso.map_or(plain, |quoted| quoted.trim_matches(['"', '\'']));
    let next = "write the zone: 2026-11-20T14:20:00Z, or a timestamp of the oplog: T,I";
    Ok(Target::Time(time(plain, now, ask, next)?))
}

/// `pitr list`: bases, and the log.
pub(super) fn list(context: &Context, archive: &OplogArchive) -> Outcome {
    let bases: Vec<_> = archive
        .bases
        .iter()
        .map(|base| {
            let mongodb = base.mongodb();
            json!({
                "id": base.id,
                "start": mongodb.start.ts,
                "stop": mongodb.stop,
                "finished": base.finished,
                "bytes": base.stored_bytes,
                "collections": mongodb.collections.len(),
            })
        })
        .collect();
    if context.global.json {
        let listed = json!({
            "engine": "mongodb",
            "lineage": archive.lineage.0,
            "bases": bases,
            "unfinished": archive.unfinished,
            "segments": archive.segments.len(),
            "log": archive.segments.first().map(|segment| segment.first),
            "damage": archive.damage.iter().map(|damage| &damage.key).collect::<Vec<_>>(),
        });
        return Outcome::done(show::json(&listed) + "\n");
    }
    let rows = archive.bases.iter().map(|base| {
        let mongodb = base.mongodb();
        vec![
            base.id.clone(),
            show::time(base.finished),
            mongodb.stop.to_string(),
            mongodb.collections.len().to_string(),
            ByteCount(base.stored_bytes).to_string(),
        ]
    });
    let header = ["base", "finished", "restorable from", "collections", "stored"];
    let mut text = show::table(&header, rows.collect(), context.terminal);
    let bytes: u64 = archive.segments.iter().map(|segment| segment.stored.bytes()).sum();
    if let Some(first) = archive.segments.first() {
        let count = archive.segments.len();
        let stored = ByteCount(bytes);
        text.push_str(&format!("log from {} on: {count} segments, {stored}\n", first.first));
    }
    for damage in &archive.damage {
        text.push_str(&format!("DAMAGED {damage}\n"));
    }
    Outcome::done(text)
}

impl From<OplogPlanError> for CliError {
    fn from(error: OplogPlanError) -> Self {
        let moments = "`pitr list` shows from when on each base leads";
        let (code, next) = match error {
            OplogPlanError::Log(source) | OplogPlanError::Find(FindError::Log(source)) => {
                return source.into();
            }
            OplogPlanError::Find(
                FindError::Ambiguous { .. } | FindError::NoSuchCandidate { .. },
            ) => (Code::Ambiguous, "give one of the candidates: --candidate N"),
            OplogPlanError::Find(FindError::TooLate { .. }) => {
                (Code::NotRestorable, "--latest restores the newest moment")
            }
            OplogPlanError::Find(FindError::UnknownName { .. }) => {
                (Code::NotRestorable, "give one of the names that there are, or a time: --at")
            }
            OplogPlanError::Find(_) => {
                (Code::NotRestorable, "look at pitrd: nothing was archived yet")
            }
            OplogPlanError::NoBase => {
                (Code::NoBase, "take a base: `pitrd base`; nothing before it can be restored")
            }
            OplogPlanError::NoSuchBase { .. } => {
                (Code::BaseRefused, "leave out --base, or give one of `pitr list`")
            }
            OplogPlanError::TooEarly { .. } | OplogPlanError::InGap { .. } => {
                (Code::NotRestorable, moments)
            }
            OplogPlanError::NoStart { .. } => (Code::Missed, "restore from another base: --base"),
        };
        Self::caused(code, &error, next)
    }
}

impl From<ReplayError> for CliError {
    fn from(error: ReplayError) -> Self {
        let code = match error.exit() {
            3 => Code::Store,
            4 => Code::RestoreRefused,
            5 => Code::Interrupted,
            8 => Code::Unreachable,
            10 => Code::NotRestorable,
            _ => Code::RestoreFailed,
        };
        Self::caused(code, &error, error.next())
    }
}
