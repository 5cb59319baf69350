//! The only value that may be acknowledged to a database.

use proto::position::Position;

/// A position up to which everything is durable where `--ack` says. Minted by the ship stage
/// alone, after the store's (or the spool's fsync's) confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable(Position);

impl Durable {
    pub(in crate::ship) const fn confirmed(position: Position) -> Self {
        Self(position)
    }

    pub const fn position(self) -> Position {
        self.0
    }
}
