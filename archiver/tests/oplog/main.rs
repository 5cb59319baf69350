//! The oplog source against real replica sets.

mod common;
mod equality;
mod members;
mod gaps;
mod refused;
mod program;
