//! The ship stage: from the local disk into the store, and what may be acknowledged.
mod durable;
pub use durable::Durable;
