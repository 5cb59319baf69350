//! From the local disk into the store, and what may be acknowledged to the database.
//!
//! Enters: the open segment's frames and sealed files. Leaves: tails, segments, [`Durable`]s.

pub mod health;
pub mod named;
pub mod order;
pub mod resume;
pub mod chained;
pub mod shipper;
pub mod sweep;
pub mod tails;

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod behind_tests;
mod durable;
mod acks;
mod blocked;
mod newest;
mod error;
mod lanes;
mod put;

pub use acks::AckPolicy;
pub use durable::Durable;
pub use error::ShipError;
pub use newest::Right;
pub use shipper::{DurableWatch, ShipStart, Shipper};
pub use tails::{ShipTools, TailChain};

use serde::{Deserialize, Serialize};

/// Whose confirmation lets go of the database's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AckFrom {
    /// The object store's.
    #[default]
    Store,
    /// The local disk's.
    Spool,
}
