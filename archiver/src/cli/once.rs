//! `pitrd run --once`: makes durable what the server has now, and exits. Beside a running writer
//! it takes no epoch and waits for that one.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::RunArgs;
use super::error::{CliError, Code, pipeline_error};
use super::prepare::{Setting, prepare};
use super::run::{pause, stop_on_signals};
use super::writer::{self, Claim};
use crate::pipeline::{self, Opened, PipelineError};
use crate::ship::resume::End;
use crate::source::Goal;
use crate::watch::line;
use crate::watch::state::State;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Nothing moves any more: somebody waits for an answer, so it is given.
const STILL: Duration = Duration::from_secs(60);
/// The same behind a signal.
const GRACE: Duration = Duration::from_secs(8);
/// How soon it is seen that everything has arrived.
const ARRIVED_EVERY: Duration = Duration::from_millis(10);

pub(super) async fn run(args: &RunArgs) -> Result<(), CliError> {
    let setting = prepare(args).await?;
    let stop = stop_on_signals()?;
    let Setting { ground, settings, .. } = &setting;
    let asked = tokio::select! {
        () = stop.cancelled() => return Err(interrupted()),
        asked = target(&setting) => asked,
    };
    let (opened, target) = asked?;
    let streamed = settings.source.is_streamed().await?;
    if streamed == Some(true) {
        tracing::info!(%target, "another writer streams from the slot: waiting for it");
        return join(&setting, &opened, &*target, &stop).await;
    }
    let claim = Claim { at_once: args.take_over || opened.fresh, mine: None };
    let taken = tokio::select! {
        biased;
        taken = writer::take(ground, settings, &opened, claim, &|| (), &stop) => taken?,
        // Where the database cannot tell, another writer shows by what it stores.
        stored = stored_by_another(&setting, &opened, &*target), if streamed.is_none() => {
            return stored;
        }
    };
    let Some(writer) = taken else { return Err(interrupted()) };
    // Its own token: it is told to end as soon as the target has arrived, and brings up the rest.
    let end = stop.child_token();
    let running = pipeline::start(ground, settings, &opened, writer, end.clone()).await?;
    let state = running.state.clone();
    let ended = tokio::select! {
        done = running.finish(pipeline::LastTail::Awaited) => Some(done),
        () = watch(&state, &*target, &stop, &end) => None,
    };
    if let Some(done) = ended {
        done?;
        let reached = target.reached(&state);
        if reached.is_some_and(|reached| state.stored().is_some_and(|stored| stored >= reached)) {
            tracing::info!(durable = %line::of(&state, state.stored()), "done");
            return Ok(());
        }
    }
    if stop.is_cancelled() { Err(interrupted()) } else { Err(still(&state)) }
}

async fn target(setting: &Setting) -> Result<(Opened, Arc<dyn Goal>), PipelineError> {
    let Setting { ground, settings, .. } = setting;
    let opened = settings.source.open(ground, settings.new_lineage).await?;
    Ok((opened, settings.source.goal().await?))
}

fn interrupted() -> CliError {
    let what = "stopped before everything was durable";
    CliError::new(Code::Interrupted, what, "run it again: what is not durable is still held")
}

/// Tells the pipeline to end when the target has arrived; comes back when a signal was not followed
/// by an end, or when nothing moves any more.
async fn watch(
    state: &State,
    target: &dyn Goal,
    stop: &CancellationToken,
    end: &CancellationToken,
) {
    let (mut seen, mut quiet) = ((None, None), Duration::ZERO);
    loop {
        let now = (state.positions().0, state.stored());
        if target.reached(state).is_some() {
            end.cancel();
        }
        quiet = if now == seen { quiet + ARRIVED_EVERY } else { Duration::ZERO };
        seen = now;
        let patience = if stop.is_cancelled() { GRACE } else { STILL };
        if quiet >= patience {
            return;
        }
        tokio::time::sleep(ARRIVED_EVERY).await;
    }
}

fn still(state: &State) -> CliError {
    let what = format!("nothing has moved for {} s: not everything is durable", STILL.as_secs());
    let next = "the log above says what is away; what is not durable is still held";
    match state.health.last_error() {
        Some(error) => CliError::new(Code::StoreAway, what, next).why(error),
        None => CliError::new(Code::SourceAway, what, next),
    }
}

/// Comes back when the store holds everything, whoever has brought it there.
async fn stored_by_another(
    setting: &Setting,
    opened: &Opened,
    target: &dyn Goal,
) -> Result<(), CliError> {
    let (source, store) = (&setting.settings.source, &*setting.ground.store);
    loop {
        let end = source.find_end(store, opened).await.map_err(PipelineError::from)?;
        if target.is_stored(store, opened, &end).await.map_err(PipelineError::from)? {
            done(setting, opened, &end);
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn done(setting: &Setting, opened: &Opened, end: &End) {
    let segmenter = setting.settings.source.segmenter(opened);
    let last = |_| segmenter.last_entry(&end.store.raw);
    tracing::info!(durable = %line::shown(opened.identity.engine, end.durable, last), "done");
}

async fn join(
    setting: &Setting,
    opened: &Opened,
    target: &dyn Goal,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let (mut seen, mut quiet) = (None, Duration::ZERO);
    while !stop.is_cancelled() {
        let store = &*setting.ground.store;
        let source = &setting.settings.source;
        let archived = |error| pipeline_error(&PipelineError::from(error));
        let end = source.find_end(store, opened).await.map_err(archived)?;
        if target.is_stored(store, opened, &end).await.map_err(archived)? {
            done(setting, opened, &end);
            return Ok(());
        }
        quiet = if end.durable == seen { quiet + LOOK_EVERY } else { Duration::ZERO };
        seen = end.durable;
        if quiet >= STILL {
            // Whoever streams from the slot does not write this archive.
            return Err(pipeline_error(&source.is_held()));
        }
        pause(LOOK_EVERY, stop).await;
    }
    Err(interrupted())
}
