//! What the two sides agree on: positions, segments, the archive's layout, stores, and what of
//! each database engine both must read. `archiver` and `replay` meet only here.

pub mod position;
pub mod timestamp;
pub mod clock;
pub mod disk;
pub mod store;
pub mod segment;
pub mod archive;
pub mod postgres;
pub mod mongodb;
pub mod cli;
