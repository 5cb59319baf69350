//! A PostgreSQL data folder at a chosen moment.
//!
//! Enters: a plan. Leaves: the folder, at the moment, with proof. `layout` unpacks the base,
//! `config` makes it start anywhere, `server` and `recovery` run PostgreSQL's own recovery to the
//! one position of the plan. After a crash at any line the same command goes on.

pub mod owner;
pub mod binaries;
pub mod layout;
pub mod config;
pub mod server;
pub mod recovery;
pub mod report;

mod error;
mod restore;
mod superuser;
#[cfg(test)]
pub(crate) mod testing;

pub use error::RestoreError;
pub use report::{Check, Left, Report};
pub use restore::{RestoreOptions, Then, begun_before, restore, restore_from};
