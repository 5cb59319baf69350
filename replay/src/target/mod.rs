//! Bringing a database back: one folder an engine.

pub mod progress;
pub mod postgres;
pub mod mongodb;
