//! What the ship stage waits for before it goes on: an object that must be in the store first, or
//! everything before a gap. Meanwhile the spool goes on, and what it says waits here.
//!
//! Enters: [`SpoolEvent`]s. Leaves: the same in order, but of a segment that only grows the newest
//! state alone: however long the store is away, the queue holds an entry for each sealed file, and
//! files are bounded by `--spool-max`.

use std::collections::VecDeque;

use futures_util::future::BoxFuture;
use proto::position::Position;

use super::ShipError;
use crate::spool::SpoolEvent;

/// What is waited for.
pub(super) enum Blocker {
    /// It is on its way into the store.
    Object(BoxFuture<'static, Result<(), ShipError>>),
    /// The log goes on here, once everything before it is in the store.
    Gap { from: Position },
}

/// The object's end; never, where none is waited for.
pub(super) async fn object(blocker: &mut Option<Blocker>) -> Result<(), ShipError> {
    match blocker {
        Some(Blocker::Object(put)) => put.await,
        _ => std::future::pending().await,
    }
}

/// What came while something was waited for.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<SpoolEvent>);

impl Waiting {
    pub(super) fn push(&mut self, event: SpoolEvent) {
        use SpoolEvent::{Flushed, Idle};
        match (self.0.back_mut(), event) {
            (Some(Flushed(last)), Flushed(newer)) if last.slot == newer.slot => *last = newer,
            (Some(Idle(last)), Idle(newer)) => *last = newer,
            (_, event) => {
                // A proof of idleness says nothing once something follows it.
                if matches!(self.0.back(), Some(Idle(_))) {
                    self.0.pop_back();
                    return self.push(event);
                }
                self.0.push_back(event);
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<SpoolEvent> {
        self.0.pop_front()
    }
}
