//! Figures, measured against a peer in the same run, as ratios: `benches/results.md`.
//!
//! `cargo bench-ingest` and `cargo bench-rpo` run one each. They print what they found and fail
//! when a ratio is worse than what the project promises.

pub mod measure;
pub mod watch;
