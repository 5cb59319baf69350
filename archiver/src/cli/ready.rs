//! Beside a member that is not followed: what it keeps for the day on which it is.
//!
//! Enters: a source. Leaves: whatever the engine keeps on its waiting members (PostgreSQL: a slot,
//! `source/postgres/ready.rs`). Nothing here is remembered: each round asks anew.

use std::sync::Arc;
use std::time::Duration;

use proto::cli::causes;
use tokio_util::sync::CancellationToken;

use super::run::pause;
use crate::pipeline::Ground;
use crate::source::Source;
use crate::watch::metrics::Current;
use crate::watch::repeat::Repeat;

/// A slot that stands still for so long costs the member a few segments of its disk.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// What waits for a store or a server in vain must not stand in the way of the next round.
const ROUND_MAX: Duration = Duration::from_secs(120);

/// Until stopped; whatever fails is tried again.
pub(super) async fn tend(
    source: Arc<dyn Source>,
    ground: Ground,
    current: Current,
    stop: CancellationToken,
) {
    let mut repeat = Repeat::new(ground.clock.clone());
    while !stop.is_cancelled() {
        let follows = current.borrow().as_ref().is_some_and(|state| state.phase().follows());
        let round = source.keep_ready(&ground, follows);
        let round = tokio::select! {
            () = stop.cancelled() => return,
            round = tokio::time::timeout(ROUND_MAX, round) => round,
        };
        if let Ok(Err(error)) = round
            && let Some(kept_back) = repeat.tell(error.to_string())
        {
            tracing::warn!(error = causes(&error), kept_back, "a waiting member is not kept ready");
        }
        pause(KEEP_EVERY, &stop).await;
    }
}
