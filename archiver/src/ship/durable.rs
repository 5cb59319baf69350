//! The only value that may be acknowledged to a database.

use proto::position::Position;

/// A position up to which everything is durable where the state says: in the store; or in the spool
/// with `--ack spool`, and while the slot is under pressure. Minted in `acks.rs` after that
/// one's confirmation, and by whoever finds a log's end in the store: `tests/tests/tidy.rs` says where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable(Position);

impl Durable {
    pub(in crate::ship) const fn confirmed(position: Position) -> Self {
        Self(position)
    }

    /// What stands in the store, unbroken, for who did not put it there: objects are whole or absent.
    pub(crate) const fn found(position: Position) -> Self {
        Self(position)
    }

    pub const fn position(self) -> Position {
        self.0
    }
}
