//! `pitrd run --once`: makes durable what the server has now, and exits. Beside a running writer
//! it takes no epoch and waits for that one.

use std::sync::Arc;
use std::time::Duration;

use proto::postgres::lsn::Lsn;
use tokio_util::sync::CancellationToken;

use super::args::RunArgs;
use super::error::{CliError, Code, pipeline_error, source_error};
use super::prepare::{Setting, prepare};
use super::run::{pause, stop_on_signals};
use super::writer;
use crate::pipeline::{self, Opened, PipelineError};
use crate::ship::resume;
use crate::source::postgres::{Class, Error, Session};
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
    if slot_is_used(&setting).await? {
        tracing::info!(%target, "another writer streams from the slot: waiting for it");
        return join(&setting, &opened, target, &stop).await;
    }
    let at_once = args.take_over || opened.fresh;
    let Some(writer) = writer::take(ground, &opened, &settings.spool, at_once, &stop).await? else {
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

async fn target(setting: &Setting) -> Result<(Opened, Lsn), PipelineError> {
    let opened = pipeline::open(&setting.ground, &setting.settings).await?;
    let mut session = Session::connect(&setting.settings.source).await?;
    let target = session.identify().await?.flushed;
    session.close().await;
    Ok((opened, target))
}

fn interrupted() -> CliError {
    let what = "stopped before everything was durable";
    CliError::new(Code::Interrupted, what, "run it again: what is not durable is still held")
}

/// Ends the pipeline when the target is durable, or when nothing moves any more.
async fn watch(state: Arc<State>, target: Lsn, stop: CancellationToken) -> Option<End> {
    let (mut seen, mut quiet) = ((None, None), Duration::ZERO);
    loop {
        let now = (state.positions().0, state.stored());
        if now.1.is_some_and(|stored| Lsn::from(stored.offset) >= target) {
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

/// Whether somebody streams from our slot; a role that may not ask finds out by trying.
async fn slot_is_used(setting: &Setting) -> Result<bool, PipelineError> {
    let settings = &setting.settings;
    let asked = crate::source::postgres::sql::SqlSession::connect(&settings.source).await;
    let mut sql = match asked {
        Ok(sql) => sql,
        Err(error) if matches!(error.class(), Class::Config | Class::Permission) => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    let slot = sql.slot(&settings.slot).await;
    sql.close().await;
    Ok(slot.ok().flatten().is_some_and(|slot| slot.active))
}

async fn join(
    setting: &Setting,
    opened: &Opened,
    target: Lsn,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let (mut seen, mut quiet) = (None, Duration::ZERO);
    while !stop.is_cancelled() {
        let store = &*setting.ground.store;
        let end = resume::find_end(store, opened.lineage, &opened.postgres)
            .await
            .map_err(|error| pipeline_error(&PipelineError::from(error)))?;
        if end.durable.is_some_and(|durable| Lsn::from(durable.offset) >= target) {
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
