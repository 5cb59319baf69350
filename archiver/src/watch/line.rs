//! Once a minute, one line: where we stand.

use std::sync::Arc;
use std::time::Duration;

use proto::mongodb::OplogTs;
use proto::position::{ByteCount, Position};
use proto::postgres::lsn::Lsn;
use proto::segment::Engine;
use tokio_util::sync::CancellationToken;

use super::state::State;

const EVERY: Duration = Duration::from_secs(60);

/// Tells every minute until stopped.
pub async fn tell(state: Arc<State>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => say(&state),
        }
    }
}

/// One line now.
pub fn say(state: &State) {
    let (received, server) = state.positions();
    let behind = match (received, server) {
        (Some(received), Some(server)) => server.offset.since(received.offset),
        _ => ByteCount(0),
    };
    tracing::info!(
        state = %state.phase(),
        durable = %of(state, state.stored()),
        received = %of(state, received),
        behind = %behind,
        lag_seconds = lag(state),
        spool = %ByteCount(state.level.bytes()),
        spool_max = %ByteCount(state.level.max()),
        uploads = state.health.puts(),
        store = if state.health.is_away() { "away" } else { "ok" },
        "standing"
    );
}

/// The same in few words, for a supervisor's status.
pub fn short(state: &State) -> String {
    format!(
        "{}; durable {}; lag {} s; spool {}; store {}",
        state.phase(),
        of(state, state.stored()),
        lag(state),
        ByteCount(state.level.bytes()),
        if state.health.is_away() { "away" } else { "ok" },
    )
}

fn lag(state: &State) -> String {
    state.lag_seconds().map_or_else(|| "?".to_owned(), |lag| format!("{lag:.1}"))
}

/// A position in the words of the engine: `timeline:LSN`; of an oplog the last entry before it that is
/// known, `T,I`; or `-`.
pub fn of(state: &State, position: Option<Position>) -> String {
    shown(state.engine, position, |position| state.entry_at(position))
}

/// The same, of an oplog whose entry `entry` tells.
pub fn shown(
    engine: Engine,
    position: Option<Position>,
    entry: impl FnOnce(Position) -> Option<OplogTs>,
) -> String {
    let shown = position.and_then(|position| match engine {
        Engine::Postgresql => Some(format!("{}:{}", position.epoch, Lsn::from(position.offset))),
        Engine::Mongodb => entry(position).map(|at| at.to_string()),
    });
    shown.unwrap_or_else(|| "-".to_owned())
}
