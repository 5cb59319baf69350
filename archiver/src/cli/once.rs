//! `pitrd run --once`: makes durable what the server has now, and exits. Beside a running writer
//! it takes no epoch and waits for that one.

use std::time::Duration;

use proto::position::Position;

use super::args::RunArgs;
use super::error::CliError;
use super::run::{self, Setting};
use super::writer::{self, Claim};
use crate::pipeline::{self, Opened, PipelineError};
use crate::ship::resume;
use crate::source::postgres::Session;

const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(args: &RunArgs) -> Result<(), CliError> {
    let setting = run::prepare(args).await?;
    once(&setting, args).await.map_err(CliError::from)
}

async fn once(setting: &Setting, args: &RunArgs) -> Result<(), PipelineError> {
    let stop = run::stop_on_signals().map_err(|_| PipelineError::Task)?;
    let Setting { ground, settings, .. } = setting;
    let opened = pipeline::open(ground, settings).await?;
    let mut session = Session::connect(&settings.source).await?;
    let server = session.identify().await?;
    let target = server.flushed.at(server.timeline);
    session.close().await;
    if writer::slot_is_used(settings).await? == Some(true) {
        tracing::info!(target = %crate::watch::line::shown(Some(target)), "another writer streams from the slot: waiting for it");
        return join(setting, &opened, target, &stop).await;
    }
    let claim = Claim { at_once: args.take_over || opened.fresh, mine: None };
    let Some(writer) = writer::take(ground, settings, &opened, claim, &stop).await? else {
        return Ok(());
    };
    let running = pipeline::start(ground, settings, &opened, writer, stop.clone()).await?;
    let state = running.state.clone();
    let mut stored = running.durable.stored.clone();
    let watcher = stop.clone();
    let done = tokio::spawn(async move {
        let reached = stored.wait_for(|p| p.is_some_and(|p| p >= target)).await.is_ok();
        watcher.cancel();
        reached
    });
    running.finish().await?;
    if done.await.unwrap_or(false) {
        tracing::info!(durable = %crate::watch::line::shown(state.stored()), "done");
        return Ok(());
    }
    Err(PipelineError::Task)
}

async fn join(
    setting: &Setting,
    opened: &Opened,
    target: Position,
    stop: &tokio_util::sync::CancellationToken,
) -> Result<(), PipelineError> {
    while !stop.is_cancelled() {
        let end =
            resume::find_end(&*setting.ground.store, opened.lineage, &opened.postgres).await?;
        if end.durable.is_some_and(|durable| durable >= target) {
            tracing::info!(durable = %crate::watch::line::shown(end.durable), "done");
            return Ok(());
        }
        run::pause(LOOK_EVERY, stop).await;
    }
    Ok(())
}
