//! Where the bytes come from: one folder an engine.

pub mod postgres;
