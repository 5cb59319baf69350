//! Restores of real servers: archives made from their own base backups and log, recovery run by
//! PostgreSQL, and the content compared with what was recorded at that moment.

// The library's own helpers for archives, by their paths: they are no part of the library.
pub(crate) use replay::plan;
#[path = "../../src/fetch/testing.rs"]
mod archives;
pub(crate) mod fetch {
    pub(crate) use crate::archives as testing;
}
#[path = "../../src/target/postgres/testing.rs"]
mod bases;

mod source;
mod copies;
mod moments;
mod trouble;
