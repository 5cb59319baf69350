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
use super::writer::{self, Claim};
use crate::base::keeper;
use crate::pipeline::{self, Ground, Opened, PipelineError, Settings};
use crate::ship::ShipError;
use crate::ship::health::Health;
use crate::source::postgres::SlotName;
use crate::source::postgres::options::TargetSession;
use crate::spool::SpoolLevel;
use crate::watch::state::Phase;
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
    let (current, now) = tokio::sync::watch::channel(None);
    let served = metrics::install().map(|handle| {
        let listen = args.listen.clone();
        tokio::spawn(metrics::serve(listen, handle, now, stop.clone()))
    });
    let mut turn = Turn { backoff: Backoff::new(), said: None, writer: None, taken: false };
    while !stop.is_cancelled() {
        let Some((running, opened)) = begin(&setting, args, &stop, &mut turn).await? else {
            break;
        };
        current.send_replace(Some(running.state.clone()));
        // What stands beside one pipeline ends with it.
        let beside = stop.child_token();
        tokio::spawn(line::tell(running.state.clone(), beside.clone()));
        if !args.no_base {
            let keeper = keeper::Keeper::new(&setting.ground, &setting.settings, &opened, &running);
            tokio::spawn(keeper.with(args.base_every, args.base_rate).run(beside.clone()));
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let state = running.state.clone();
        let began = tokio::time::Instant::now();
        let ended = running.finish().await;
        beside.cancel();
        line::say(&state);
        if began.elapsed() > WELL {
            turn.backoff.reset();
        }
        match ended {
            Ok(()) => break,
            Err(error) if stop.is_cancelled() => return Err(error.into()),
            Err(PipelineError::Ship(error @ ShipError::Fenced { .. })) => {
                // DESIGN §5.6: a fenced one waits until the chain stands still.
                tracing::warn!(%error, "fenced: waiting until the other one stands still");
                state.enter(Phase::Fenced);
                turn.writer = None;
            }
            Err(error) if error.is_retryable() => {
                turn.wait(&error, "the pipeline is built anew", &stop).await;
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

/// A pipeline that ran for so long began well.
const WELL: Duration = Duration::from_secs(30);

/// What is remembered from one pipeline of this process to its next.
struct Turn {
    backoff: Backoff,
    /// What was said last: the same trouble is told once, not at every try.
    said: Option<String>,
    /// Our writer epoch, as long as nobody has taken a newer one.
    writer: Option<u64>,
    /// Whether we ever were the writer.
    taken: bool,
}

impl Turn {
    async fn wait(&mut self, error: &PipelineError, what: &str, stop: &CancellationToken) {
        let wait = self.backoff.next_wait().max(Duration::from_millis(500));
        let (why, again_in_ms) = (causes(error), wait.as_millis() as u64);
        let said = format!("{error}{why}");
        if self.said.as_ref() == Some(&said) {
            tracing::debug!(%error, why, again_in_ms, "{what}");
        } else {
            tracing::warn!(%error, why, again_in_ms, "{what}; tried again until it works");
            self.said = Some(said);
        }
        pause(wait, stop).await;
    }
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
    turn: &mut Turn,
) -> Result<Option<(pipeline::Running, Opened)>, CliError> {
    loop {
        let tried = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            tried = try_begin(setting, args, stop, turn) => tried,
        };
        match tried {
            Ok(begun) => return Ok(begun),
            Err(error) if is_away(&error) => turn.wait(&error, "not yet", stop).await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn try_begin(
    setting: &Setting,
    args: &RunArgs,
    stop: &CancellationToken,
    turn: &mut Turn,
) -> Result<Option<(pipeline::Running, Opened)>, PipelineError> {
    let Setting { ground, settings, .. } = setting;
    let opened = pipeline::open(ground, settings).await?;
    // Once: a sidecar that is fenced afterwards waits like any other.
    let at_once = (args.take_over && !turn.taken) || opened.fresh;
    let claim = Claim { at_once, mine: turn.writer };
    let Some(writer) = writer::take(ground, settings, &opened, claim, stop).await? else {
        return Ok(None);
    };
    turn.writer = Some(writer);
    turn.taken = true;
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
    let mut source = args.source.options()?;
    if source.target == TargetSession::Any && !args.from_standby {
        // Of several hosts the primary; beside a lone standby we wait (DESIGN §5.6).
        source.target = TargetSession::Primary;
    }
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
        level: Arc::new(SpoolLevel::on(Arc::new(SystemDisk), &spool, args.spool_max)),
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
