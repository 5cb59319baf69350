//! A PostgreSQL data folder at a chosen moment.

pub mod layout;

mod error;
#[cfg(test)]
pub(crate) mod testing;

pub use error::RestoreError;
