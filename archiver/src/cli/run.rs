//! `pitrd run`: streams until stopped. A source or store that is away is waited for; only what
//! waiting cannot mend ends it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::clock::{Clock, SystemClock};
use proto::disk::SystemDisk;
use proto::position::ByteCount;
use proto::postgres::lsn::Timeline;
use proto::store::retry::Backoff;
use proto::store::{Access, url};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::RunArgs;
use super::error::{CliError, Code, archive_error};
use super::writer;
use crate::base::keeper;
use crate::pipeline::{self, Ground, Opened, PipelineError, Settings};
use crate::ship::health::Health;
use crate::source::postgres::SlotName;
use crate::spool::SpoolLevel;
use crate::watch::{line, metrics};

/// The spool must hold a few segments, or it is full at once.
const SPOOL_MIN: ByteCount = ByteCount(64 << 20);

/// What a run stands on: made once, before anything is tried.
pub(super) struct Setting {
    pub ground: Ground,
    pub settings: Settings,
    /// Held as long as the process lives: two sidecars never share a spool.
    _lock: std::fs::File,
}

pub(super) async fn run(args: &RunArgs) -> Result<(), CliError> {
    let setting = prepare(args).await?;
    let stop = stop_on_signals()?;
    let handle = metrics::install();
    let mut served = None;
    let mut backoff = Backoff::new();
    while !stop.is_cancelled() {
        let Some((running, opened)) = begin(&setting, args, &stop, &mut backoff).await? else {
            break;
        };
        if let (None, Some(handle)) = (&served, &handle) {
            let (listen, handle) = (args.listen.clone(), handle.clone());
            let state = running.state.clone();
            served = Some(tokio::spawn(metrics::serve(listen, handle, state, stop.clone())));
        }
        // What stands beside one pipeline ends with it.
        let beside = stop.child_token();
        tokio::spawn(line::tell(running.state.clone(), beside.clone()));
        if !args.no_base {
            let keeper = keeper::Keeper::new(&setting.ground, &setting.settings, &opened, &running);
            tokio::spawn(keeper.with(args.base_every, args.base_rate).run(beside.clone()));
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let state = running.state.clone();
        let ended = running.finish().await;
        beside.cancel();
        line::say(&state);
        match ended {
            Ok(()) => break,
            Err(error) if error.is_retryable() && !stop.is_cancelled() => {
                let wait = backoff.next_wait().max(Duration::from_millis(500));
                tracing::error!(%error, causes = causes(&error), again_in_ms = wait.as_millis() as u64, "the pipeline is built anew");
                pause(wait, &stop).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if let Some(served) = served {
        let _ = tokio::time::timeout(Duration::from_secs(1), served).await;
    }
    Ok(())
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Opens the archive and starts the pipeline, waiting for a source or store that is away.
async fn begin(
    setting: &Setting,
    args: &RunArgs,
    stop: &CancellationToken,
    backoff: &mut Backoff,
) -> Result<Option<(pipeline::Running, Opened)>, CliError> {
    loop {
        let tried = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            tried = try_begin(setting, args, stop) => tried,
        };
        match tried {
            Ok(begun) => return Ok(begun),
            Err(error) if is_away(&error) => {
                let wait = backoff.next_wait().max(Duration::from_millis(500));
                tracing::warn!(%error, causes = causes(&error), again_in_ms = wait.as_millis() as u64, "not yet");
                pause(wait, stop).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn try_begin(
    setting: &Setting,
    args: &RunArgs,
    stop: &CancellationToken,
) -> Result<Option<(pipeline::Running, Opened)>, PipelineError> {
    let Setting { ground, settings, .. } = setting;
    let opened = pipeline::open(ground, settings).await?;
    let at_once = args.take_over || opened.fresh;
    let Some(writer) = writer::take(ground, &opened, &settings.spool, at_once, stop).await? else {
        return Ok(None);
    };
    let running = pipeline::start(ground, settings, &opened, writer, stop.clone()).await?;
    Ok(Some((running, opened)))
}

/// Whether waiting may mend it: something does not answer, or the local disk is in trouble.
pub(super) fn is_away(error: &PipelineError) -> bool {
    match error {
        PipelineError::Source(source) => source.is_retryable(),
        PipelineError::Archive(archive) => archive.class() == proto::store::Class::Retry,
        other => other.is_retryable(),
    }
}

pub(super) async fn pause(wait: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(wait) => {}
    }
}

/// Everything that can be wrong with the flags is said before anything is touched.
pub(super) async fn prepare(args: &RunArgs) -> Result<Setting, CliError> {
    let source = args.source.options()?;
    let address = args.archive.address()?;
    let slot: SlotName = args.slot.parse().map_err(|error: crate::source::postgres::Error| {
        CliError::caused(Code::Usage, &error, "correct --slot")
    })?;
    if args.spool_max < SPOOL_MIN {
        let what = format!("--spool-max {} is less than {SPOOL_MIN}", args.spool_max);
        return Err(CliError::new(Code::Usage, what, "give the spool room for a few segments"));
    }
    let store = url::open(address, Access::ReadWrite)
        .await
        .map_err(|error| archive_error(&error.into()))?;
    let spool = match &args.spool {
        Some(dir) => dir.clone(),
        None => state_folder(address),
    };
    let lock = lock(&spool)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ground = Ground {
        store,
        disk: Arc::new(SystemDisk),
        clock: clock.clone(),
        health: Arc::new(Health::new(clock)),
        level: Arc::new(SpoolLevel::new(args.spool_max)),
    };
    let settings = Settings {
        source,
        slot,
        spool,
        codec: args.compression,
        flush: args.flush,
        ack: args.ack,
        synchronous: args.synchronous,
        accept: args.accept_timeline.map(Timeline),
        new_lineage: args.new_lineage,
    };
    Ok(Setting { ground, settings, _lock: lock })
}

/// `$STATE_DIRECTORY` (systemd), `$XDG_STATE_HOME/pitr`, `~/.local/state/pitr`, `/var/lib/pitr`:
/// below it one folder for each archive.
fn state_folder(address: &str) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let root = variable("STATE_DIRECTORY")
        .or_else(|| variable("XDG_STATE_HOME").map(|dir| dir.join("pitr")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".local/state/pitr")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/pitr"));
    let name = proto::segment::Hash::of(address.as_bytes()).to_string();
    root.join("spool").join(&name[..16])
}

#[allow(clippy::disallowed_methods, reason = "a lock is no data: Disk has none")]
fn lock(spool: &Path) -> Result<std::fs::File, CliError> {
    let failed = |error: std::io::Error| {
        let what = format!("the spool folder {} cannot be used", spool.display());
        CliError::new(Code::Spool, what, "make it writable, or give --spool another folder")
            .why(error.to_string())
    };
    std::fs::create_dir_all(spool).map_err(failed)?;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(spool.join("lock"))
        .map_err(failed)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| {
            let what = format!("another pitrd uses the spool folder {}", spool.display());
            CliError::new(Code::SlotInUse, what, "stop it, or give --spool another folder")
        },
    )?;
    Ok(file)
}

pub(super) fn stop_on_signals() -> Result<CancellationToken, CliError> {
    let stop = CancellationToken::new();
    let failed = |error: std::io::Error| CliError::caused(Code::Failed, &error, "start it again");
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("stopping: the last bytes go to the store");
        told.cancel();
        // A second signal does not wait.
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        std::process::exit(i32::from(super::Exit::Interrupted as u8));
    });
    Ok(stop)
}
