//! A source that is held: ring or spool is full, and the connection is closed (DESIGN §2).
//!
//! Enters: a full ring or spool. Leaves: room again, or the wish to stop. Nothing is kept.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ring::RingSender;
use crate::watch::state::{Phase, State};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until there is room; `keeper` is what alone keeps the log meanwhile.
pub(super) async fn until_room(
    state: &State,
    ring: &RingSender,
    stop: &CancellationToken,
    keeper: &str,
) {
    if let Some(full) = state.level.full() {
        tracing::warn!(
            why = %full,
            "held: the source is disconnected, and {keeper} keeps the log until there is room"
        );
    }
    until_room_as(state, ring, stop, Phase::Held).await;
}

/// The same in this state, when it was told already.
pub(super) async fn until_room_as(
    state: &State,
    ring: &RingSender,
    stop: &CancellationToken,
    phase: Phase,
) {
    state.enter(phase);
    while !stop.is_cancelled() {
        state.beat();
        pause(stop, LOOK_EVERY).await;
        let level = state.level.clone();
        let room = crate::work::spawn(move || level.has_room()).await;
        if room.unwrap_or(true) && !ring.is_full() {
            return;
        }
    }
}

/// Waits, but not beyond the wish to stop.
pub(super) async fn pause(stop: &CancellationToken, wait: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(wait) => {}
    }
}
