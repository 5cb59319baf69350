//! The sidecar: from a database's own log stream into the archive. In the order of a byte's life.

pub mod source;
pub mod ring;
pub mod spool;
pub mod seal;
pub mod ship;
pub mod watch;
pub mod begin;
pub mod pipeline;
pub mod cli;
pub mod base;
pub mod check;
mod work;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod simulation;
