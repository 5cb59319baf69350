//! The sidecar: from the database's own log to the store, second by second.

pub mod source;
