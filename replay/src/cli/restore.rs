//! `pitr restore`: a plan, and then the plan carried out.
//!
//! Enters: a moment and a folder. Leaves: what the engine's restore reports; its last lines are the
//! next commands. What a crash leaves is the restore's own matter: the same command goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::RestoreArgs;
use super::error::{CliError, Code};
use super::interrupt::Interrupt;
use super::{Context, Outcome, plan, show};
use crate::plan::{Plan, Wanted, make};
use crate::target::postgres::{RestoreError, RestoreOptions, Then, begun_before, restore};
use crate::target::progress;

pub(super) async fn run(context: &Context, args: &RestoreArgs) -> Result<Outcome, CliError> {
    let wanted = plan::wanted(&args.target, context.now(), plan::ask)?;
    let options = if args.dry_run { None } else { Some(options(args)?) };
    let interrupt = Interrupt::watch()?;
    let into = options.as_ref().map(|options| options.into.as_path());
    let plan = interrupt.unless(planned(context, &wanted, into)).await?;
    let json = context.global.json;
    let Some(options) = options else {
        let shown = if json { plan.encode() } else { plan.summary().into_bytes() };
        return Ok(Outcome::done(String::from_utf8_lossy(&shown).into_owned()));
    };
    let progress = progress::for_stderr();
    progress.say(plan.summary().trim_end());
    let report = Box::pin(restore(&plan, options, &*progress, interrupt.token())).await?;
    let output = if json { show::json(&report) } else { report.text() };
    let failed: Vec<&str> =
        report.checks.iter().filter(|check| !check.ok).map(|check| check.what.as_str()).collect();
    let error = (!failed.is_empty()).then(|| {
        let what = format!("restored, but a check failed: {}", failed.join(", "));
        CliError::new(Code::CheckFailed, what, "look at what the report says before you use it")
    });
    Ok(Outcome { output, error })
}

/// The plan that an earlier run of the same command went by in this folder, or a new one.
async fn planned(
    context: &Context,
    wanted: &Wanted,
    into: Option<&Path>,
) -> Result<Plan, CliError> {
    let catalog = context.searchable().await?;
    match into.and_then(|into| begun_before(into, &catalog.address(), &wanted.asked)) {
        Some(plan) => Ok(plan),
        None => Ok(make(&catalog, wanted, context.now()).await?),
    }
}

fn options(args: &RestoreArgs) -> Result<RestoreOptions, CliError> {
    let Some(into) = &args.into else {
        let next = "give --into DIR: a folder that is absent or empty";
        return Err(CliError::new(Code::Missing, "no place to restore into is given", next));
    };
    if into.contains("://") {
        let what = "a PostgreSQL cluster is restored into a folder";
        return Err(CliError::new(Code::Usage, what, "give a path: --into /restore/orders"));
    }
    let then = match (args.pause, args.start, args.no_run) {
        (true, ..) => Then::Pause,
        (_, true, _) => Then::Start,
        (_, _, true) => Then::LayOut,
        _ => Then::Stop,
    };
    Ok(RestoreOptions {
        into: into.into(),
        then,
        pg_bin: args.pg_bin.clone(),
        run_as: args.run_as.clone(),
        port: args.port,
        tablespaces: tablespaces(&args.tablespace)?,
        jobs: args.jobs.unwrap_or(0),
        program: None,
    })
}

pub(super) fn tablespaces(pairs: &[String]) -> Result<BTreeMap<String, PathBuf>, CliError> {
    let mut found = BTreeMap::new();
    for pair in pairs {
        let parted = pair.split_once('=').filter(|(old, new)| !old.is_empty() && !new.is_empty());
        let Some((old, new)) = parted else {
            let what = format!("{pair:?} does not say which tablespace goes where");
            return Err(CliError::new(Code::Usage, what, "write --tablespace /old=/new"));
        };
        if found.insert(old.to_owned(), PathBuf::from(new)).is_some() {
            let what = format!("tablespace {old} is given two places");
            return Err(CliError::new(Code::Usage, what, "give each --tablespace once"));
        }
    }
    Ok(found)
}

impl From<RestoreError> for CliError {
    fn from(error: RestoreError) -> Self {
        let code = match error.exit() {
            3 => Code::Store,
            4 => Code::RestoreRefused,
            5 => Code::Interrupted,
            8 => Code::Unreachable,
            _ => Code::RestoreFailed,
        };
        Self::caused(code, &error, error.next())
    }
}
