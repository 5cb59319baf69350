//! `pitr wal-fetch NAME PATH`: what recovery runs for every file that it wants.
//!
//! Enters: a file name and a path relative to the data folder, which is the working folder
//! (xlogarchive.c). Leaves: the whole file there and 0, or 1 only where the plan *proves* that it
//! lies beyond or does not exist, or [`DOUBT`] for everything else, panics included: PostgreSQL
//! takes 1 to 125 for the end of the log, and promotes. A file is never partly written.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use proto::store::Access;

use super::place::{take, write_whole};
use super::prefetch::{Answer, ask};
use super::{AHEAD_FOLDER, ATTEMPTS, FetchError, PLAN_FILE, WORK_FOLDER, assemble};
use crate::catalog::PatientStore;
use crate::plan::{self, PLAN_FORMAT, Plan};

/// The name of the subcommand.
pub const NAME: &str = "wal-fetch";
/// The exit code of every doubt: above 125 it stops recovery instead of ending it.
pub const DOUBT: u8 = 200;
const SERVED: u8 = 0;
const ABSENT: u8 = 1;

/// Runs the command when `arguments` (program name first) name it: before anything else looks at
/// them, because a parser's own exit code for bad usage would promote the database.
pub fn intercept(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != NAME {
        return None;
    }
    let rest: Vec<OsString> = arguments.collect();
    if rest.iter().any(|word| word == "--help" || word == "-h") {
        return None;
    }
    Some(ExitCode::from(run(rest, Path::new(WORK_FOLDER))))
}

/// The exit code for `arguments`, with the restore's files in `work`. Blocks.
pub fn run(arguments: Vec<OsString>, work: &Path) -> u8 {
    let caught = std::panic::catch_unwind(|| serve(arguments, work));
    let error = match caught {
        Ok(Ok(code)) => return code,
        Ok(Err(error)) => error,
        Err(_) => FetchError::Stopped { detail: "it panicked".to_owned() },
    };
    // To the server's log; a closed stderr must not change the exit code.
    let _ = writeln!(std::io::stderr(), "pitr wal-fetch: {}", error.told());
    DOUBT
}

fn serve(arguments: Vec<OsString>, work: &Path) -> Result<u8, FetchError> {
    let (name, path) = parse(arguments)?;
    let parent = rustix::process::getppid();
    if path.exists() {
        let source = std::io::ErrorKind::AlreadyExists.into();
        return Err(FetchError::Io { action: "writing", path, source });
    }
    let ahead = work.join(AHEAD_FOLDER).join(&name);
    match ask(work, &name).map_err(FetchError::io("asking the running restore in", work))? {
        // It holds the plan, and proves by it.
        Some(Answer::Absent) => return Ok(absent(&name)),
        Some(Answer::Doubt(detail)) => return Err(FetchError::Prefetcher { detail }),
        Some(Answer::File) => {
            same_parent(parent)?;
            if take(&ahead, &path)? {
                return Ok(SERVED);
            }
        }
        None => {}
    }
    let plan = load(&work.join(PLAN_FILE))?;
    if plan.answer(&name) == plan::Answer::Absent {
        return Ok(absent(&name));
    }
    // Nobody runs any more: what was fetched ahead is whole, and of this very plan.
    if plan.answer(&name) != plan::Answer::Unknown && take(&ahead, &path)? {
        return Ok(SERVED);
    }
    let Some(bytes) = fetch_here(&plan, &name)? else { return Ok(absent(&name)) };
    same_parent(parent)?;
    write_whole(&path, &bytes, None)?;
    Ok(SERVED)
}

fn absent(name: &str) -> u8 {
    let _ = writeln!(std::io::stderr(), "pitr wal-fetch: {name} is not part of the plan");
    ABSENT
}

fn load(path: &Path) -> Result<Plan, FetchError> {
    let bad = |detail: String| FetchError::Plan { path: path.to_owned(), detail };
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let plan = Plan::decode(&bytes).map_err(|e| bad(e.to_string()))?;
    if plan.head.format != PLAN_FORMAT {
        return Err(bad(format!(
            "format {}, and this program reads {PLAN_FORMAT}",
            plan.head.format
        )));
    }
    // Without a segment everything would be "beyond", and recovery would end at once.
    if plan.segment_ids().count() == 0 {
        return Err(bad("it names no log".to_owned()));
    }
    Ok(plan)
}

fn parse(arguments: Vec<OsString>) -> Result<(String, PathBuf), FetchError> {
    let told = |arguments: &[OsString]| FetchError::Arguments {
        found: arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
    };
    let [name, path] = arguments.as_slice() else { return Err(told(&arguments)) };
    match name.to_str() {
        Some(name) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(path)))
        }
        _ => Err(told(&arguments)),
    }
}

/// Whoever asked is gone: a later recovery in this folder must not find this file under the name
/// that it waits for.
fn same_parent(parent: Option<rustix::process::Pid>) -> Result<(), FetchError> {
    if rustix::process::getppid() == parent {
        return Ok(());
    }
    Err(FetchError::Stopped { detail: "the server that asked has ended".to_owned() })
}

fn fetch_here(plan: &Plan, name: &str) -> Result<Option<Bytes>, FetchError> {
    let failed = |e: std::io::Error| FetchError::Stopped { detail: e.to_string() };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let store = proto::store::url::open(&plan.head.archive, Access::ReadOnly).await?;
        assemble::file(&PatientStore::new(store, ATTEMPTS), plan, name).await
    })
}
