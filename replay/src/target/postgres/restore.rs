//! The whole of a restore, in the order of its phases.

mod after;
mod phases;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::archive::base::Complete;
use proto::archive::layout::Lineage;
use proto::store::{Access, Range, Store};
use tokio_util::sync::CancellationToken;

use super::binaries::Binaries;
use super::config::{self, Sources};
use super::layout::{Journal, Layout, REPORT_FILE, Stage};
use super::report::{Left, Report};
use super::{RestoreError, owner};
use crate::catalog::PatientStore;
use crate::fetch::place::Owner;
use crate::fetch::{ATTEMPTS, WORK_FOLDER};
use crate::plan::Plan;
use crate::target::progress::Progress;
use phases::Phases;

/// What becomes of the folder once it is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Then {
    /// Recovery has ended, the server is stopped: startable anywhere, without the archive.
    #[default]
    Stop,
    /// It runs on, read-only, at the target.
    Pause,
    /// It runs on, writable.
    Start,
    /// Recovery is yet to run.
    LayOut,
}

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// The folder to restore into: absent or empty, or one where this very restore broke off.
    pub into: PathBuf,
    pub then: Then,
    pub pg_bin: Option<PathBuf>,
    pub run_as: Option<String>,
    pub port: Option<u16>,
    /// Tablespaces by their location or oid, and where they shall lie.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// Objects that are fetched at once; 0 is up to us.
    pub jobs: usize,
    /// The program whose `wal-fetch` recovery runs; ourselves when not given.
    pub program: Option<PathBuf>,
}

/// The plan of an earlier run of the same command that broke off in this folder: it goes on with
/// that one, whatever became of the archive since.
pub fn begun_before(into: &Path, archive: &str, asked: &str) -> Option<Plan> {
    let earlier = Journal::find(into).ok()??;
    let same = earlier.archive == archive && same_moment(&earlier.asked, asked);
    if same { Journal::saved_plan(into).ok() } else { None }
}

/// `--at TIME (-15m)` is what both `--at -15m` and `--at TIME` go on with.
fn same_moment(earlier: &str, asked: &str) -> bool {
    let parts = |text: &str| -> Option<(String, String, String)> {
        let text = text.strip_prefix("--at ")?;
        let parted = text.strip_suffix(')').and_then(|text| text.rsplit_once(" (-"));
        let (words, ago) = parted.unwrap_or((text, ""));
        let (time, flags) = words.split_once(' ').unwrap_or((words, ""));
        Some((time.to_owned(), flags.to_owned(), ago.to_owned()))
    };
    match (parts(earlier), parts(asked)) {
        (Some(earlier), Some(asked)) => {
            let ago = !asked.2.is_empty() && earlier.2 == asked.2;
            earlier.1 == asked.1 && (earlier.0 == asked.0 || ago)
        }
        _ => earlier == asked,
    }
}

/// Restores by `plan`, from the archive that it names, until `interrupted`.
///
/// # Errors
/// [`RestoreError`], whose `exit` and `next` tell what to do.
pub async fn restore(
    plan: &Plan,
    options: RestoreOptions,
    progress: &dyn Progress,
    interrupted: &CancellationToken,
) -> Result<Report, RestoreError> {
    let opening =
        async { Ok(proto::store::url::open(&plan.head.archive, Access::ReadOnly).await?) };
    let store = unless(interrupted, opening).await?;
    Box::pin(restore_from(store, plan, &options, progress, interrupted)).await
}

/// What only reads can be dropped where it stands.
fn unless<T>(
    interrupted: &CancellationToken,
    work: impl Future<Output = Result<T, RestoreError>>,
) -> impl Future<Output = Result<T, RestoreError>> {
    let work = Box::pin(work);
    async move {
        tokio::select! {
            done = work => done,
            () = interrupted.cancelled() => Err(RestoreError::Interrupted),
        }
    }
}

/// The same, from a store that is open.
///
/// # Errors
/// As [`restore`].
pub async fn restore_from(
    store: Arc<dyn Store>,
    plan: &Plan,
    options: &RestoreOptions,
    progress: &dyn Progress,
    interrupted: &CancellationToken,
) -> Result<Report, RestoreError> {
    let store: Arc<dyn Store> = Arc::new(PatientStore::new(store, ATTEMPTS));
    let mut phases = Phases::default();
    let owner = owner::resolve(options.run_as.as_deref())?;
    let folder = absolute(&options.into)?;
    let saved = frozen(&folder, plan, progress)?;
    let plan = saved.as_ref().unwrap_or(plan);
    let binaries = binaries(plan, options)?;
    // Looked at before anything is written, and again when it is taken.
    after::port(options)?;
    let base = unless(interrupted, complete(&*store, plan)).await?;
    let mut layout = Layout::open(&folder, plan, &base, &options.tablespaces, owner)?;
    let mut report = begun(plan, &base, &folder, binaries.as_ref(), layout.resumed);
    let jobs = if options.jobs > 0 { options.jobs } else { usual_jobs() };
    if layout.journal.state.stage < Stage::LaidOut {
        let unpacked = layout.unpack(store.clone(), &base, jobs, progress, interrupted).await;
        report.base_bytes = unpacked?;
        phases.ended("base");
    }
    let program = program(options)?;
    let program = config::reachable_program(&program, &folder, owner)?;
    let none = BTreeMap::new();
    let sources = Sources {
        folder: &folder,
        base: &base,
        plan,
        binaries: binaries.as_ref(),
        owner,
        program: &program,
        raised: &none,
    };
    report.notes = sources.configure()?;
    if layout.journal.state.stage < Stage::LaidOut {
        sources.signal_recovery()?;
        layout.seal(&base)?;
    }
    phases.ended("layout");
    for note in &report.notes {
        progress.say(&format!("note: {note}"));
    }
    match (&binaries, options.then) {
        (_, Then::LayOut) | (None, _) => report.next = after::next_commands(&report, options, None),
        (Some(binaries), _) => {
            let run =
                after::Run { store, plan, options, binaries, sources, jobs, progress, interrupted };
            Box::pin(run.recover(&mut report, &mut phases)).await?;
        }
    }
    report.seconds = phases.seconds();
    if report.left != Left::LaidOut {
        keep(&report, owner)?;
    }
    Ok(report)
}

fn binaries(plan: &Plan, options: &RestoreOptions) -> Result<Option<Binaries>, RestoreError> {
    let major = plan.base.version_num / 10_000;
    match Binaries::find(options.pg_bin.as_deref(), major) {
        Ok(found) => Ok(Some(found)),
        // Only laid out: whoever starts it brings the server.
        Err(_) if options.then == Then::LayOut && options.pg_bin.is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The report stays in the folder: it says what the folder is.
fn keep(report: &Report, owner: Option<Owner>) -> Result<(), RestoreError> {
    let path = report.folder.join(WORK_FOLDER).join(REPORT_FILE);
    super::layout::replace(&path, &proto::archive::to_json(report))?;
    super::layout::give(&path, owner)
}

/// The plan of an earlier run of the same command: the archive has moved on, the moment must not.
fn frozen(
    folder: &Path,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Option<Plan>, RestoreError> {
    let Some(earlier) = Journal::find(folder)? else { return Ok(None) };
    if earlier.stage < Stage::LaidOut || earlier.asked != plan.target.asked {
        return Ok(None);
    }
    progress.say(&format!("going on with the restore in {}", folder.display()));
    Journal::saved_plan(folder).map(Some)
}

async fn complete(store: &dyn Store, plan: &Plan) -> Result<Complete, RestoreError> {
    let key = Lineage(plan.head.lineage).base_complete(&plan.base.id);
    let bytes = store.get(&key, Range::All).await?;
    let base: Complete = proto::archive::from_json(&key, &bytes)?;
    let same = base.id == plan.base.id
        && base.postgres().start == plan.base.start
        && base.postgres().stop == plan.base.stop;
    if !same {
        let detail = "it is not the one that was planned with".to_owned();
        return Err(RestoreError::Base { id: plan.base.id.clone(), detail });
    }
    Ok(base)
}

fn absolute(path: &Path) -> Result<PathBuf, RestoreError> {
    let failed = |source| RestoreError::Io { action: "finding", path: path.to_owned(), source };
    std::path::absolute(path).map_err(failed)
}

fn usual_jobs() -> usize {
    std::thread::available_parallelism().map_or(4, std::num::NonZero::get).clamp(2, 8)
}

fn program(options: &RestoreOptions) -> Result<PathBuf, RestoreError> {
    if let Some(program) = &options.program {
        return Ok(program.clone());
    }
    std::env::current_exe().map_err(|source| RestoreError::Io {
        action: "finding",
        path: PathBuf::from("pitr"),
        source,
    })
}

fn begun(
    plan: &Plan,
    base: &Complete,
    folder: &Path,
    binaries: Option<&Binaries>,
    resumed: bool,
) -> Report {
    let number = base.postgres().version_num;
    let of_base = format!("{}.{}", number / 10_000, number % 10_000);
    Report {
        engine: "postgresql".to_owned(),
        version: binaries.map_or(of_base, |found| found.version.clone()),
        archive: plan.head.archive.clone(),
        base: plan.base.id.clone(),
        folder: folder.to_owned(),
        left: Left::LaidOut,
        asked: plan.target.asked.clone(),
        target_lsn: plan.target.lsn,
        inclusive: plan.target.inclusive,
        reached: None,
        last_kept: plan.target.last_kept,
        first_left_out: plan.target.first_left_out,
        timeline: plan.target.timeline,
        new_timeline: None,
        checks: Vec::new(),
        subscriptions: Vec::new(),
        collations: Vec::new(),
        notes: Vec::new(),
        resumed,
        seconds: BTreeMap::new(),
        base_bytes: 0,
        log_bytes: 0,
        port: None,
        pid: None,
        next: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::same_moment;

    #[test]
    fn the_same_command_asks_for_the_same_moment_also_when_it_said_how_long_ago() {
        let earlier = "--at 2026-11-20T14:20:00Z (-15m)";
        for (asked, same) in [
            (earlier, true),
            ("--at 2026-11-20T14:20:00Z", true),
            ("--at 2026-11-20T15:00:00Z (-15m)", true),
            ("--at 2026-11-20T15:00:00Z (-20m)", false),
            ("--at 2026-11-20T15:00:00Z", false),
            ("--at 2026-11-20T15:00:00Z --exclusive (-15m)", false),
        ] {
            assert_eq!(same_moment(earlier, asked), same, "{asked}");
        }
        assert!(same_moment("--latest", "--latest"));
        assert!(!same_moment("--latest", "--latest --exclusive"));
        assert!(!same_moment("--at-name 'a (-1)'", "--at-name 'a (-2)'"));
    }
}
