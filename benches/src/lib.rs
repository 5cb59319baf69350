//! Figures, measured against a peer in the same run, as ratios: `benches/results.md`.
//!
//! `cargo bench-ingest`, `bench-rpo`, `bench-oplog`, `bench-oplog-rpo` and `bench-replay` run one
//! each. They print what they found and fail when a ratio is worse than what the project promises.

pub mod measure;
pub mod waiting;
pub mod watch;
pub mod oplog;
