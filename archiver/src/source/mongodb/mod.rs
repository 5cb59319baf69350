//! MongoDB's side of the pipeline: the oplog of a replica set, as its members hold it.
//!
//! Enters: a connection string. Leaves: entries of `local.oplog.rs` as bytes, in order, each once;
//! facts about the set. Nothing here touches a disk (apart from reading certificates), so nothing
//! has to be recovered after a crash: spool and store know the last entry, and a member proves that
//! it still has it.
//!
//! `options` → `member` (one server each) → `set` (who there is) → `tail` (batches of one member), or
//! `changes` (of a change stream) → `capture`: `packer` makes ring items of them, for ever, whoever is
//! the primary.

pub mod error;
pub mod options;
pub mod hello;
pub mod member;
pub mod set;
pub mod preflight;
pub mod start;
pub mod tail;
pub mod changes;
pub mod capture;
mod begin;
pub mod goal;
mod indexer;
mod engine;
pub mod point;

pub use engine::Mongodb;
#[cfg(test)]
pub(crate) use engine::go_on;
pub use error::{Class, Error};
pub use hello::Hello;
pub use member::Member;
pub use options::ConnectOptions;
pub use preflight::Found;
pub use set::{ReplicaSet, SetFacts};
