//! The only value that may be acknowledged to a database.

use proto::position::Position;

/// A position up to which everything is durable where the state says: in the store; or in the spool
/// with `--ack spool`, and while the slot is under pressure. Minted in `acks.rs` alone, after that
/// one's confirmation.
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
