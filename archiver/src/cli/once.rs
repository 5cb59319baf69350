//! `pitrd run --once`: makes durable what the server has now, and exits. Beside a running writer
//! it takes no epoch and waits for that one.

use std::sync::Arc;
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

/// How it ended, if not with everything durable.
enum End {
    Stopped,
    /// Nothing moved for [`STILL`].
    Still,
}

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
    let running = pipeline::start(ground, settings, &opened, writer, stop.clone()).await?;
    let state = running.state.clone();
    let watched = tokio::spawn(watch(state.clone(), target, stop.clone()));
    running.finish().await?;
    stop.cancel();
    match watched.await {
        Ok(None) => {
            tracing::info!(durable = %shown(state.stored()), "done");
            Ok(())
        }
        Ok(Some(End::Still)) => Err(still(&state)),
        _ => Err(interrupted()),
    }
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

/// Ends the pipeline when the target is durable, or when nothing moves any more.
async fn watch(state: Arc<State>, target: Position, stop: CancellationToken) -> Option<End> {
    let (mut seen, mut quiet) = ((None, None), Duration::ZERO);
    loop {
        let now = (state.positions().0, state.stored());
        if now.1.is_some_and(|stored| stored >= target) {
            stop.cancel();
            return None;
        }
        if stop.is_cancelled() {
            return Some(End::Stopped);
        }
        quiet = if now == seen { quiet + LOOK_EVERY } else { Duration::ZERO };
        seen = now;
        if quiet >= STILL {
            stop.cancel();
            return Some(End::Still);
        }
        pause(LOOK_EVERY, &stop).await;
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
