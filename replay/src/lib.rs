//! The restore side: reads an archive, finds a moment in it, and brings the database back to it.
//! Nothing here ever writes into an archive.

pub mod catalog;
pub mod find;
pub mod plan;
pub mod fetch;

#[cfg(test)]
mod fixture;
