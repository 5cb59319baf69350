//! The one word that lets the database forget a part of its log.

use proto::postgres::lsn::Lsn;

use crate::ship::Durable;

/// What the database may be told is safe: it lets go of the log before it, and with synchronous
/// replication answers its clients. Made of a [`Durable`], and of nothing else in this program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged(Option<Lsn>);

impl Acknowledged {
    /// Nothing is safe: the slot stays where it is, and we are no synchronous standby.
    pub const NOTHING: Self = Self(None);

    /// Not beyond `cap`: the part of a position that counts on another timeline.
    #[must_use]
    pub fn at_most(self, cap: Lsn) -> Self {
        Self(self.0.map(|lsn| lsn.min(cap)))
    }

    pub const fn position(self) -> Option<Lsn> {
        self.0
    }

    /// A claim that nobody has confirmed, for tests of the protocol: `tests/tests/tidy.rs` keeps it
    /// out of the program.
    #[doc(hidden)]
    pub const fn unconfirmed(position: Lsn) -> Self {
        Self(Some(position))
    }
}

impl From<Durable> for Acknowledged {
    fn from(durable: Durable) -> Self {
        Self(Some(durable.position().offset.into()))
    }
}
