//! The one word that lets the database forget a part of its log.

use proto::postgres::lsn::Lsn;

/// What the database may be told is safe: it lets go of the log before it, and with synchronous
/// replication answers its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged(Option<Lsn>);

impl Acknowledged {
    /// Nothing is safe: the slot stays where it is, and we are no synchronous standby.
    pub const NOTHING: Self = Self(None);

    /// Only for a position that the store (or, where the state says so, the spool's fsync) has
    /// confirmed.
    pub const fn durable(position: Lsn) -> Self {
        Self(Some(position))
    }

    pub const fn position(self) -> Option<Lsn> {
        self.0
    }
}
