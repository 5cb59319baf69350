//! The restore side: reads an archive, finds a moment in it, and brings the database back to it.
//! Nothing here ever writes into an archive, except indexes, which can be made again.

pub mod catalog;
pub mod find;
pub mod plan;
pub mod fetch;
pub mod target;
pub mod verify;
pub mod cli;

#[cfg(test)]
mod fixture;
