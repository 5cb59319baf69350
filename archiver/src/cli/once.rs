//! `pitrd run --once`: makes durable what the server has now, and exits. Beside a running writer
//! it takes no epoch and waits for that one.

use std::time::Duration;

use proto::position::Position;
use tokio_util::sync::CancellationToken;

use super::args::RunArgs;
use super::error::{CliError, Code, pipeline_error, source_error};
use super::prepare::{Setting, prepare};
use super::run::{pause, stop_on_signals};
use super::writer::{self, Claim};
use crate::pipeline::{self, Opened, PipelineError};
use crate::ship::resume;
use crate::source::postgres::{Error, Session};
use crate::watch::line::shown;
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
    if writer::slot_is_used(settings).await? == Some(true) {
        tracing::info!(target = %shown(Some(target)), "another writer streams from the slot: waiting for it");
        return join(&setting, &opened, target, &stop).await;
    }
    let claim = Claim { at_once: args.take_over || opened.fresh, mine: None };
    let Some(writer) = writer::take(ground, settings, &opened, claim, &stop).await? else {
        return Err(interrupted());
    };
    // Its own token: it is told to end as soon as the target has arrived, and brings up the rest.
    let end = stop.child_token();
    let running = pipeline::start(ground, settings, &opened, writer, end.clone()).await?;
    let state = running.state.clone();
    let ended = tokio::select! {
        done = running.finish(pipeline::LastTail::Awaited) => Some(done),
        () = watch(&state, target, &stop, &end) => None,
    };
    if let Some(done) = ended {
        done?;
        if state.stored().is_some_and(|stored| stored >= target) {
            tracing::info!(durable = %shown(state.stored()), "done");
            return Ok(());
        }
    }
    if stop.is_cancelled() { Err(interrupted()) } else { Err(still(&state)) }
}

async fn target(setting: &Setting) -> Result<(Opened, Position), PipelineError> {
    let opened = pipeline::open(&setting.ground, &setting.settings).await?;
    let mut session = Session::connect(&setting.settings.source).await?;
    let server = session.identify().await?;
    session.close().await;
    Ok((opened, server.flushed.at(server.timeline)))
}

fn interrupted() -> CliError {
    let what = "stopped before everything was durable";
    CliError::new(Code::Interrupted, what, "run it again: what is not durable is still held")
}

/// Tells the pipeline to end when the target has arrived; comes back when a signal was not followed
/// by an end, or when nothing moves any more.
async fn watch(state: &State, target: Position, stop: &CancellationToken, end: &CancellationToken) {
    let (mut seen, mut quiet) = ((None, None), Duration::ZERO);
    loop {
        let now = (state.positions().0, state.stored());
        if now.0.is_some_and(|received| received >= target) {
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

async fn join(
    setting: &Setting,
    opened: &Opened,
    target: Position,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let (mut seen, mut quiet) = (None, Duration::ZERO);
    while !stop.is_cancelled() {
        let store = &*setting.ground.store;
        let end = resume::find_end(store, opened.lineage, &opened.postgres)
            .await
            .map_err(|error| pipeline_error(&PipelineError::from(error)))?;
        if end.durable.is_some_and(|durable| durable >= target) {
            tracing::info!(durable = %shown(end.durable), "done");
            return Ok(());
        }
        quiet = if end.durable == seen { quiet + LOOK_EVERY } else { Duration::ZERO };
        seen = end.durable;
        if quiet >= STILL {
            // Whoever streams from the slot does not write this archive.
            let slot = setting.settings.slot.to_string();
            return Err(source_error(&Error::SlotHeld { slot }));
        }
        pause(LOOK_EVERY, stop).await;
    }
    Err(interrupted())
}
