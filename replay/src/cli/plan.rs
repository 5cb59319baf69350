//! `pitr plan`: what a restore would do, and the reading of a moment from the command line.
//!
//! Enters: the flags that name a moment. Leaves: a [`Plan`] as text or JSON, or the refusal with
//! what can be restored instead. Nothing is written.

use std::io::{BufRead, IsTerminal, Write};

use jiff::tz::TimeZone;
use serde::Serialize;

use super::args::TargetArgs;
use super::error::{CliError, Code};
use super::interrupt::interruptible;
use super::{Context, Outcome, show};
use crate::find::time_input::{self, Here, TimeInputError};
use crate::find::{Refusal, Request, Target};
use crate::plan::{Plan, PlanError, Wanted, make};
use proto::postgres::lsn::Timeline;
use proto::timestamp::Timestamp;

pub(super) async fn run(context: &Context, args: &TargetArgs) -> Result<Outcome, CliError> {
    let wanted = wanted(args, context.now(), ask)?;
    let plan = interruptible(planned(context, &wanted)).await?;
    told(context, &plan, plan.summary(), &again(args, &wanted))
}

/// A plan, and the command that restores by it: `again` asks for the same moment.
pub(super) fn told(
    context: &Context,
    plan: &impl Serialize,
    summary: String,
    again: &str,
) -> Result<Outcome, CliError> {
    if context.global.json {
        return Ok(Outcome::done(show::json(plan)));
    }
    let archive = quoted(context.archive()?);
    let next = format!("next       pitr restore --archive {archive} {again} --into DIR\n");
    Ok(Outcome::done(summary + &next))
}

/// The plan for what is wanted.
pub(super) async fn planned(context: &Context, wanted: &Wanted) -> Result<Plan, CliError> {
    let catalog = context.searchable().await?;
    Ok(make(&catalog, wanted, context.now()).await?)
}

/// What the flags ask for. `ask` is shown the readings of a time without a zone, and gives back the
/// one that was chosen.
pub(super) fn wanted(
    args: &TargetArgs,
    now: Timestamp,
    ask: impl FnOnce(&TimeInputError) -> Option<Timestamp>,
) -> Result<Wanted, CliError> {
    let target = if let Some(text) = &args.at {
        let next = "write the zone: 2026-11-20T14:20:00Z, \"2026-11-20 14:20 +01:00\"";
        Target::Time(time(text, now, ask, next)?)
    } else if let Some(text) = &args.at_lsn {
        Target::Lsn(text.parse().map_err(|error: proto::postgres::lsn::NameError| {
            CliError::new(Code::Target, error.to_string(), "write it like 16/B374D848")
        })?)
    } else if let Some(xid) = args.at_xid {
        Target::Xid(xid)
    } else if let Some(name) = &args.at_name {
        Target::Name(name.clone())
    } else if args.latest {
        Target::Latest
    } else {
        return Err(CliError::new(
            Code::Missing,
            "no moment is given",
            "give --at TIME, --at-lsn LSN, --at-xid XID, --at-name NAME or --latest",
        ));
    };
    let request = Request { target, exclusive: args.exclusive, candidate: args.candidate };
    let mut asked = again(
        args,
        &Wanted { request: request.clone(), asked: String::new(), base: None, timeline: None },
    );
    // A time before now means something else tomorrow: the record says which one it was.
    if let (Some(text), Target::Time(_)) = (&args.at, &request.target)
        && text.trim_start().starts_with('-')
    {
        asked.push_str(&format!(" ({text})"));
    }
    let (base, timeline) = (args.base.clone(), args.timeline.map(Timeline));
    Ok(Wanted { request, asked, base, timeline })
}

/// A time; `next` is told where there is no reading it.
pub(super) fn time(
    text: &str,
    now: Timestamp,
    ask: impl FnOnce(&TimeInputError) -> Option<Timestamp>,
    next: &str,
) -> Result<Timestamp, CliError> {
    let here = Here { now, local: TimeZone::system() };
    time_input::parse(text, &here).or_else(|error| {
        ask(&error).ok_or_else(|| CliError::new(Code::Target, error.to_string(), next))
    })
}

/// On a terminal the two readings of a time without a zone are offered.
pub(super) fn ask(error: &TimeInputError) -> Option<Timestamp> {
    let TimeInputError::NoZone { utc, local: Some(local), zone, .. } = error else { return None };
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return None;
    }
    let question = format!("{error}\nWhich one? [u] UTC {utc}  [l] {zone} {local}: ");
    write!(stderr, "{question}").and_then(|()| stderr.flush()).ok()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).ok()?;
    match answer.trim() {
        "u" | "U" => Some(*utc),
        "l" | "L" => Some(*local),
        _ => None,
    }
}

/// The flags that ask for the same moment again.
fn again(args: &TargetArgs, wanted: &Wanted) -> String {
    let mut words = match &wanted.request.target {
        Target::Time(time) => format!("--at {time}"),
        Target::Lsn(lsn) => format!("--at-lsn {lsn}"),
        Target::Xid(xid) => format!("--at-xid {xid}"),
        Target::Name(name) => format!("--at-name {}", quoted(name)),
        Target::Latest => "--latest".to_owned(),
    };
    words.push_str(&beside(args));
    if let Some(timeline) = args.timeline {
        words.push_str(&format!(" --timeline {timeline}"));
    }
    words
}

/// The flags beside the moment that every engine has.
pub(super) fn beside(args: &TargetArgs) -> String {
    let mut words = String::new();
    if args.exclusive {
        words.push_str(" --exclusive");
    }
    if let Some(candidate) = args.candidate {
        words.push_str(&format!(" --candidate {candidate}"));
    }
    if let Some(base) = &args.base {
        words.push_str(&format!(" --base {}", quoted(base)));
    }
    words
}

/// As a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+,=@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl From<PlanError> for CliError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Catalog(source) => source.into(),
            PlanError::Search(source) => {
                let mut told = Self::from(source);
                told.what = format!("the log could not be searched: {}", told.what);
                told
            }
            PlanError::Refused(reason) => refusal(&reason),
            PlanError::NoSuchBase { .. } | PlanError::BaseElsewhere { .. } => {
                let next = "leave out --base, or give one of `pitr list`";
                Self::caused(Code::BaseRefused, &error, next)
            }
            PlanError::BaseRefused { .. } => {
                let next = "leave out --base: the nearest base that can is then taken";
                Self::caused(Code::BaseRefused, &error, next)
            }
            PlanError::OnlyDamaged { ref ids } => {
                let id = ids.first().map(String::as_str).unwrap_or_default();
                let next = format!("choose another moment, or take the risk: --base {id}");
                Self::caused(Code::NoBase, &error, next)
            }
            PlanError::Damaged { ref detail, .. } => {
                let next = "give an earlier moment, or one behind a later base: `pitr list`";
                Self::new(Code::DamagedLog, error.to_string(), next).why(detail.clone())
            }
            PlanError::Hole { .. } => {
                Self::caused(Code::Missed, &error, "`pitr verify` lists what is missing")
            }
        }
    }
}

/// A refusal names the nearest moments itself; what to do depends on its kind.
fn refusal(reason: &Refusal) -> CliError {
    let (code, next) = match reason {
        Refusal::NoBase => {
            (Code::NoBase, "take a base: `pitrd base`; nothing before it can be restored")
        }
        Refusal::NoLog => (Code::NotRestorable, "look at pitrd: nothing was archived yet"),
        Refusal::Ambiguous { .. } | Refusal::NoSuchCandidate { .. } => {
            (Code::Ambiguous, "give one of the candidates: --candidate N")
        }
        Refusal::TooLate { .. } => (
            Code::NotRestorable,
            "--latest restores the newest moment; `pitr status` tells the lag",
        ),
        Refusal::UnknownName { .. } => {
            (Code::NotRestorable, "give one of the names that there are, or a time: --at")
        }
        Refusal::UnknownXid { .. } => (Code::NotRestorable, "give a time instead: --at"),
        _ => (Code::NotRestorable, "give one of the moments named; `pitr list` shows all windows"),
    };
    CliError::new(code, reason.to_string(), next)
}
