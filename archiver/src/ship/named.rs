//! Names in the ledger what is held only in the spool (DESIGN §5.1): where the database was told to
//! let go of log that the store lacks, somebody who has nothing but the archive must learn of it.
//!
//! Enters: what is acknowledged and what is stored. Leaves: `spooled` entries, one at the beginning and
//! then one a minute as long as it lasts. A store that is away is asked again: the entry tells of
//! the range as it is when it is written.

use std::sync::Arc;
use std::time::Duration;

use proto::archive::layout::Lineage;
use proto::archive::ledger::{self, Event};
use proto::clock::Clock;
use proto::position::Position;
use proto::store::Store;
use tokio_util::sync::CancellationToken;

use super::DurableWatch;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const NAME_EVERY: Duration = Duration::from_secs(60);
/// With `--ack spool` the store is always a little behind.
const USUAL: Duration = Duration::from_secs(10);

/// What is decided at each look.
#[derive(Debug, Default)]
struct Naming {
    /// Since when the store is behind what was acknowledged.
    since: Option<Duration>,
    /// When a range was named last, in this stretch.
    named: Option<Duration>,
}

impl Naming {
    /// The range to be named now.
    fn due(
        &mut self,
        now: Duration,
        stored: Option<Position>,
        acknowledged: Option<Position>,
    ) -> Option<(Position, Position)> {
        let range = stored.zip(acknowledged).filter(|(stored, acknowledged)| stored < acknowledged);
        let Some(range) = range else {
            *self = Self::default();
            return None;
        };
        let since = *self.since.get_or_insert(now);
        let first = self.named.is_none() && now.saturating_sub(since) >= USUAL;
        let again = self.named.is_some_and(|at| now.saturating_sub(at) >= NAME_EVERY);
        (first || again).then_some(range)
    }

    const fn named(&mut self, now: Duration) {
        self.named = Some(now);
    }
}

/// Names what is to be named until stopped.
pub async fn tend(
    store: Arc<dyn Store>,
    lineage: Lineage,
    clock: Arc<dyn Clock>,
    durable: DurableWatch,
    stop: CancellationToken,
) {
    let mut naming = Naming::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let stored = *durable.stored.borrow();
        let acknowledged = durable.acknowledged.borrow().map(super::Durable::position);
        let Some((from, to)) = naming.due(clock.monotonic(), stored, acknowledged) else {
            continue;
        };
        let event = Event::Spooled { from, to };
        // Not waited for beyond the next look that matters: by then the range is another one.
        let put = ledger::append(&*store, lineage, clock.wall(), event);
        match tokio::time::timeout(NAME_EVERY, put).await {
            Ok(Ok(_)) => naming.named(clock.monotonic()),
            Ok(Err(error)) => tracing::debug!(%error, "what only the spool holds is not named yet"),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::position::{Epoch, Offset};

    use super::*;

    fn at(offset: u64) -> Option<Position> {
        Some(Position::new(Epoch(1), Offset(offset)))
    }

    fn due(naming: &mut Naming, second: u64, stored: u64, acknowledged: u64) -> bool {
        naming.due(Duration::from_secs(second), at(stored), at(acknowledged)).is_some()
    }

    #[test]
    fn what_only_the_spool_holds_is_named_at_once_and_then_once_a_minute() {
        let mut naming = Naming::default();
        assert!(!due(&mut naming, 0, 10, 10));
        assert!(!due(&mut naming, 1, 10, 20), "it may be the usual second");
        assert!(due(&mut naming, 11, 10, 30));
        assert!(due(&mut naming, 12, 10, 30), "the store did not take it");
        naming.named(Duration::from_secs(12));
        assert!(!due(&mut naming, 71, 15, 90));
        assert!(due(&mut naming, 72, 15, 91));
    }

    #[test]
    fn a_store_that_is_never_long_behind_is_not_named() {
        let mut naming = Naming::default();
        for second in 0..100 {
            assert!(!due(&mut naming, second, second, second + second % 3));
        }
        assert!(naming.due(Duration::from_secs(200), None, at(9)).is_none(), "nothing to name");
    }
}
