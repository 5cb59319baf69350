//! `pitrd run`: streams until stopped. A source or store that is away is waited for; only what
//! waiting cannot mend ends it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proto::cli::{ErrorCode, causes};
use proto::segment::Engine;
use proto::store::retry::Backoff;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::args::RunArgs;
use super::error::{CliError, Code, pipeline_error};
use super::prepare::{Setting, prepare};
use super::ready;
use super::writer::{self, Claim};
use crate::base::keeper;
use crate::pipeline::{self, Ground, Opened, PipelineError};
use crate::ship::{named, sweep};
use crate::source::Beside;
use crate::source::mongodb::capture::CaptureError;
use crate::source::postgres::capture::ROLE_EVERY;
use crate::watch::repeat::Repeat;
use crate::watch::state::{Phase, State};
use crate::watch::{forecast, line, metrics, notify};

pub(super) async fn run(args: &RunArgs) -> Result<(), CliError> {
    let setting = prepare(args).await?;
    let stop = stop_on_signals()?;
    let (show, current) = watch::channel(None);
    let stuck = Arc::new(AtomicBool::new(false));
    let served = metrics::install().map(|handle| {
        let (listen, stuck) = (args.listen.clone(), stuck.clone());
        tokio::spawn(metrics::serve(listen, handle, current.clone(), stuck, stop.clone()))
    });
    tokio::spawn(notify::tend(current.clone(), setting.ground.clock.clone(), stuck, stop.clone()));
    let (source, ground) = (setting.settings.source.clone(), setting.ground.clone());
    tokio::spawn(ready::tend(source, ground, current, stop.clone()));
    let done = stream(&setting, args, &show, &stop).await;
    notify::stopping();
    stop.cancel();
    if let Some(served) = served {
        let _ = tokio::time::timeout(Duration::from_secs(1), served).await;
    }
    done
}

/// One pipeline after the other until stopped, or until waiting would be in vain.
async fn stream(
    setting: &Setting,
    args: &RunArgs,
    show: &watch::Sender<Option<Arc<State>>>,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let mut patience = Patience::new(&setting.ground, show);
    while !stop.is_cancelled() {
        let Some((running, opened)) = begin(setting, args, stop, &mut patience).await? else {
            break;
        };
        let state = running.state.clone();
        show.send_replace(Some(state.clone()));
        // What stands beside one pipeline ends with it.
        let beside = stop.child_token();
        tokio::spawn(line::tell(state.clone(), beside.clone()));
        let clock = setting.ground.clock.clone();
        tokio::spawn(forecast::tend(state.clone(), clock.clone(), beside.clone()));
        let source = &setting.settings.source;
        let (store, segmenter) = (setting.ground.store.clone(), source.segmenter(&opened));
        if opened.identity.engine == Engine::Postgresql {
            let (durable, lineage) = (running.durable.clone(), opened.lineage);
            tokio::spawn(named::tend(store.clone(), lineage, clock, durable, beside.clone()));
        }
        tokio::spawn(sweep::tend(store, opened.lineage, segmenter, state.clone(), beside.clone()));
        if !args.no_base {
            let bases = source.bases(Beside {
                ground: setting.ground.clone(),
                opened: opened.clone(),
                durable: running.durable.clone(),
                state: state.clone(),
            });
            let keeper = keeper::Keeper::new(bases, setting.settings.codec, &running);
            tokio::spawn(keeper.with(args.base_every, args.base_rate).run(beside.clone()));
        }
        notify::ready("streaming begins");
        let began = tokio::time::Instant::now();
        let ended = running.finish(pipeline::LastTail::Hurried).await;
        beside.cancel();
        line::say(&state);
        if began.elapsed() > WELL {
            patience.backoff.reset();
        }
        match ended {
            Ok(()) => break,
            Err(error) if stop.is_cancelled() => return Err(error.into()),
            Err(error) if error.is_fenced() => {
                // DESIGN §5.6: a fenced one waits until the chain stands still.
                tracing::warn!(%error, "fenced: waiting until the other one stands still");
                state.enter(Phase::Fenced);
                patience.writer = None;
            }
            Err(error) if error.is_retryable() => {
                patience.wait(&error, "the pipeline is built anew", stop).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A pipeline that ran for so long began well.
const WELL: Duration = Duration::from_secs(30);

/// What is remembered from one pipeline of this process to its next: how long to wait for what is
/// away, how often to say so, and whether we are the writer.
struct Patience<'a> {
    ground: &'a Ground,
    show: &'a watch::Sender<Option<Arc<State>>>,
    backoff: Backoff,
    repeat: Repeat,
    /// Our writer epoch, as long as nobody has taken a newer one.
    writer: Option<u64>,
    /// Whether we ever were the writer.
    taken: bool,
    /// Whether the lineage was found or begun.
    opened: bool,
}

impl<'a> Patience<'a> {
    fn new(ground: &'a Ground, show: &'a watch::Sender<Option<Arc<State>>>) -> Self {
        let repeat = Repeat::new(ground.clock.clone());
        let backoff = Backoff::new();
        Self { ground, show, backoff, repeat, writer: None, taken: false, opened: false }
    }

    /// What is seen from outside while there is no pipeline: that it lives, and what it waits for.
    fn enter(&self, phase: Phase) {
        let last = self.show.borrow().clone();
        let state = last.unwrap_or_else(|| {
            let Ground { clock, health, level, .. } = self.ground.clone();
            let state = Arc::new(State::idle(clock, health, level));
            self.show.send_replace(Some(state.clone()));
            state
        });
        // One that was fenced waits too, and says why.
        if state.phase() == Phase::Fenced { state.beat() } else { state.enter(phase) }
    }

    async fn wait(&mut self, error: &PipelineError, what: &str, stop: &CancellationToken) {
        let phase = waiting_for(error);
        let most = if phase == Phase::Waiting { ROLE_EVERY } else { Backoff::CAP };
        let wait = self.backoff.next_wait().clamp(Duration::from_millis(500), most);
        let told = pipeline_error(error);
        self.enter(phase);
        if let Some(kept_back) = self.repeat.tell(told.code.text().to_owned()) {
            let again_in_ms = wait.as_millis() as u64;
            tracing::warn!(
                code = told.code.text(),
                error = causes(error),
                next = told.next,
                again_in_ms,
                kept_back,
                "{what}"
            );
        }
        notify::ready(&format!("waiting: {error}"));
        pause(wait, stop).await;
    }
}

/// The state of a sidecar that tries again after this.
fn waiting_for(error: &PipelineError) -> Phase {
    match error {
        PipelineError::Source(error) if error.is_standby() => Phase::Waiting,
        PipelineError::Source(_) => Phase::Connecting,
        _ => Phase::Starting,
    }
}

/// Opens the archive and starts the pipeline, waiting for a source or store that is away.
async fn begin(
    setting: &Setting,
    args: &RunArgs,
    stop: &CancellationToken,
    patience: &mut Patience<'_>,
) -> Result<Option<(pipeline::Running, Opened)>, CliError> {
    loop {
        let tried = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            tried = try_begin(setting, args, stop, patience) => tried,
        };
        match tried {
            Ok(begun) => return Ok(begun),
            Err(error) if is_away(&error) || (patience.opened && is_refused(&error)) => {
                patience.wait(&error, "not yet: waiting", stop).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A store that has taken our log before and refuses now: keys that have expired are replaced while we
/// run, and a pipeline that the local disk has ended meanwhile is built when they are.
fn is_refused(error: &PipelineError) -> bool {
    matches!(error, PipelineError::Archive(archive) if archive.class() == proto::store::Class::Config)
}

async fn try_begin(
    setting: &Setting,
    args: &RunArgs,
    stop: &CancellationToken,
    patience: &mut Patience<'_>,
) -> Result<Option<(pipeline::Running, Opened)>, PipelineError> {
    let Setting { ground, settings, .. } = setting;
    // Asked for once: a pipeline that is built anew goes on with the lineage that it began.
    let new_lineage = settings.new_lineage && !patience.opened;
    let opened = settings.source.open(ground, new_lineage).await?;
    patience.opened = true;
    // Once: a sidecar that is fenced afterwards waits like any other.
    let at_once = (args.take_over && !patience.taken) || opened.fresh;
    let claim = Claim { at_once, mine: patience.writer };
    let waits = || patience.enter(Phase::Waiting);
    let taken = writer::take(ground, settings, &opened, claim, &waits, stop).await?;
    let Some(writer) = taken else { return Ok(None) };
    patience.writer = Some(writer);
    patience.taken = true;
    let running = pipeline::start(ground, settings, &opened, writer, stop.clone()).await?;
    Ok(Some((running, opened)))
}

/// Whether waiting may mend it: something does not answer, or the local disk is in trouble.
pub(super) fn is_away(error: &PipelineError) -> bool {
    match error {
        PipelineError::Source(source) => source.is_retryable(),
        PipelineError::Mongodb(CaptureError::Source(source)) => source.is_retryable(),
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
