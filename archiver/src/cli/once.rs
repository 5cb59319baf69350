//! `pitrd run --once`: makes durable what the server has now, and exits. Beside a running writer
//! it takes no epoch and waits for that one.

use std::time::Duration;

use proto::postgres::lsn::Lsn;

use super::args::RunArgs;
use super::error::CliError;
use super::run::{self, Setting};
use super::writer;
use crate::pipeline::{self, Opened, PipelineError};
use crate::ship::resume;
use crate::source::postgres::{Class, Session};

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
    let target = session.identify().await?.flushed;
    session.close().await;
    if slot_is_used(setting).await? {
        tracing::info!(%target, "another writer streams from the slot: waiting for it");
        return join(setting, &opened, target, &stop).await;
    }
    let at_once = args.take_over || opened.fresh;
    let Some(writer) = writer::take(ground, &opened, &settings.spool, at_once, &stop).await? else {
        return Ok(());
    };
    let running = pipeline::start(ground, settings, &opened, writer, stop.clone()).await?;
    let state = running.state.clone();
    let mut stored = running.durable.stored.clone();
    let watcher = stop.clone();
    let done = tokio::spawn(async move {
        let reached =
            stored.wait_for(|p| p.is_some_and(|p| Lsn::from(p.offset) >= target)).await.is_ok();
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
    stop: &tokio_util::sync::CancellationToken,
) -> Result<(), PipelineError> {
    while !stop.is_cancelled() {
        let end =
            resume::find_end(&*setting.ground.store, opened.lineage, &opened.postgres).await?;
        if end.durable.is_some_and(|durable| Lsn::from(durable.offset) >= target) {
            tracing::info!(durable = %crate::watch::line::shown(end.durable), "done");
            return Ok(());
        }
        run::pause(LOOK_EVERY, stop).await;
    }
    Ok(())
}
