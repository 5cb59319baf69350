//! What both sides know of PostgreSQL: positions and names, pages and records, timelines.

pub mod lsn;
pub mod history;
pub mod page;
pub mod record;
pub mod reader;
pub mod transaction;
pub mod scan;

#[cfg(test)]
pub(crate) mod testdata;
