//! `/metrics` and `/health` on `--listen`. A port that is taken is a warning: capture goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::get;
use metrics::gauge;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use proto::segment::Engine;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::state::{Phase, State};

/// Upper bounds of `pitr_upload_duration_seconds`, seconds.
const UPLOAD_BUCKETS: [f64; 12] =
    [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The state of the pipeline that runs now; each has its own.
pub type Current = watch::Receiver<Option<Arc<State>>>;

/// Installs the recorder; `None` when the process has one already.
pub fn install() -> Option<PrometheusHandle> {
    let name = Matcher::Full("pitr_upload_duration_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(name, &UPLOAD_BUCKETS).ok()?;
    let handle = builder.install_recorder().ok()?;
    describe();
    metrics::counter!("pitr_uploads_total").absolute(0);
    metrics::counter!("pitr_gaps_total").absolute(0);
    metrics::counter!("pitr_slot_released_total").absolute(0);
    metrics::counter!("pitr_inexact_events_total").absolute(0);
    Some(handle)
}

fn describe() {
    use metrics::{Unit, describe_counter as counter, describe_gauge, describe_histogram};
    describe_gauge!(
        "pitr_rpo_lag_seconds",
        Unit::Seconds,
        "Age by the database's clock of the oldest commit that is not durable in the store; 0 when idle"
    );
    describe_gauge!(
        "pitr_durable_position",
        Unit::Bytes,
        "End of what the store holds without a hole"
    );
    describe_gauge!("pitr_received_position", Unit::Bytes, "End of what was received");
    describe_gauge!("pitr_source_position", Unit::Bytes, "End of the server's log as it told");
    describe_gauge!(
        "pitr_standby_slot_position",
        Unit::Bytes,
        "Beside a standby: from where our slot on it holds the log"
    );
    describe_gauge!("pitr_epoch", "Timeline of the durable position");
    describe_gauge!(
        "pitr_oplog_window_seconds",
        Unit::Seconds,
        "MongoDB: how far in front of the oldest entry of the oplog the received position stands"
    );
    describe_gauge!("pitr_spool_bytes", Unit::Bytes, "Bytes on the spool's disk");
    describe_gauge!("pitr_spool_limit_bytes", Unit::Bytes, "spool-max");
    describe_gauge!(
        "pitr_spool_full_seconds",
        Unit::Seconds,
        "Forecast: until the spool is full; +Inf while it does not fill"
    );
    describe_gauge!("pitr_slot_held_bytes", Unit::Bytes, "Log that the slot holds back");
    describe_gauge!("pitr_slot_limit_bytes", Unit::Bytes, "slot-max");
    describe_gauge!(
        "pitr_slot_full_seconds",
        Unit::Seconds,
        "Forecast: until the slot reaches slot-max; +Inf while it does not come to that"
    );
    describe_gauge!(
        "pitr_oplog_past_seconds",
        Unit::Seconds,
        "Forecast, MongoDB: until the oplog has run past us; +Inf while it does not come to that"
    );
    counter!("pitr_slot_released_total", "Slots dropped to protect the server's disk");
    describe_gauge!("pitr_archiver_state", "1 for the state the sidecar is in");
    describe_gauge!("pitr_store_away", "1 while the last request to the store failed");
    describe_gauge!(
        "pitr_backup_last_success_timestamp_seconds",
        Unit::Seconds,
        "When the last base was complete"
    );
    counter!("pitr_backup_failed_total", "Bases that failed");
    counter!("pitr_uploads_total", "Objects put into the store");
    counter!("pitr_upload_bytes_total", Unit::Bytes, "Bytes put into the store");
    counter!("pitr_segments_total", "Sealed segments in the store");
    counter!("pitr_store_errors_total", "Requests to the store that failed");
    counter!("pitr_put_ambiguous_total", "Puts whose answer was lost and that were found done");
    counter!("pitr_tails_adopted_total", "Tails of an older writer that were continued");
    counter!("pitr_gaps_total", "Stretches of log that were lost");
    counter!("pitr_inexact_events_total", "Change events that do not tell exactly what was done");
    describe_histogram!("pitr_upload_duration_seconds", Unit::Seconds, "Time of a put");
}

/// Sets the gauges from the state; before the first pipeline there is none.
pub fn refresh(state: Option<&State>) {
    let now = state.map_or(Phase::Starting, State::phase);
    for phase in Phase::ALL {
        let value = if phase == now { 1.0 } else { 0.0 };
        gauge!("pitr_archiver_state", "state" => phase.name()).set(value);
    }
    let Some(state) = state else { return };
    // Nothing is better than a 0 that nobody knows.
    if let Some(lag) = state.lag_seconds() {
        gauge!("pitr_rpo_lag_seconds").set(lag);
    }
    if let Some(stored) = state.stored() {
        gauge!("pitr_durable_position").set(stored.offset.0 as f64);
        gauge!("pitr_epoch").set(f64::from(stored.epoch.0));
    }
    let (received, server) = state.positions();
    if let (Some(received), Some(server)) = (received, server) {
        gauge!("pitr_received_position").set(received.offset.0 as f64);
        gauge!("pitr_source_position").set(server.offset.0 as f64);
    }
    gauge!("pitr_spool_bytes").set(state.level.bytes() as f64);
    gauge!("pitr_spool_limit_bytes").set(state.level.max() as f64);
    gauge!("pitr_store_away").set(if state.health.is_away() { 1.0 } else { 0.0 });
    let slot = state.slot.figures();
    if let Some((held, max)) = slot.held.zip(slot.max) {
        gauge!("pitr_slot_held_bytes").set(held.0 as f64);
        gauge!("pitr_slot_limit_bytes").set(max.0 as f64);
    }
    let left = state.left();
    let seconds = |left: Option<Duration>| left.map_or(f64::INFINITY, |left| left.as_secs_f64());
    gauge!("pitr_spool_full_seconds").set(seconds(left.spool_full));
    match state.engine {
        Engine::Postgresql => gauge!("pitr_slot_full_seconds").set(seconds(left.slot_max)),
        Engine::Mongodb => gauge!("pitr_oplog_past_seconds").set(seconds(left.oplog_past)),
    }
    let (base, failures) = state.base();
    if let Some(base) = base {
        gauge!("pitr_backup_last_success_timestamp_seconds").set(base.0 as f64 / 1e6);
    }
    metrics::counter!("pitr_backup_failed_total").absolute(failures);
}

/// Serves until stopped.
pub async fn serve(
    listen: String,
    handle: PrometheusHandle,
    current: Current,
    stuck: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    let upkeep = handle.clone();
    let kept = stop.clone();
    tokio::spawn(async move {
        while !kept.is_cancelled() {
            tokio::time::sleep(UPKEEP_EVERY).await;
            upkeep.run_upkeep();
        }
    });
    let listener = match tokio::net::TcpListener::bind(&listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                %listen, %error,
                "no metrics: the address of --listen cannot be used. Capture goes on; choose another --listen"
            );
            return;
        }
    };
    tracing::info!(address = %listen, "metrics");
    let app = pages(handle, current, stuck);
    let served =
        axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::warn!(%error, "the metrics server has ended");
    }
}

pub(super) fn pages(handle: PrometheusHandle, current: Current, stuck: Arc<AtomicBool>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/health", get(async move || health(&stuck)))
        .with_state((handle, current))
}

/// For whoever would start it again: whether it still moves, not whether all is well.
fn health(stuck: &AtomicBool) -> (StatusCode, &'static str) {
    if stuck.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "stuck\n");
    }
    (StatusCode::OK, "ok\n")
}

async fn metrics_page(
    Shared((handle, current)): Shared<(PrometheusHandle, Current)>,
) -> ([(axum::http::HeaderName, &'static str); 1], String) {
    let state = current.borrow().clone();
    refresh(state.as_deref());
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(axum::http::header::CONTENT_TYPE, kind)], handle.render())
}
