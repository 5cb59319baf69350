//! MongoDB's log as both programs read it: where an entry stands (`optime`).
//!
//! Enters: bytes, trusted in nothing. Leaves: views into them; nothing is copied, and rubbish is
//! an error, never a panic.

mod optime;

pub use optime::{OpTime, OpTimeError, OplogTs};
