//! A base: a consistent copy of the whole database, streamed to the store as it comes.
//!
//! Enters: BASE_BACKUP's tar streams. Leaves: `base/<id>/` in the store, `complete.json` last.
//! Nothing is written to the local disk and memory is bounded. After a crash at any line the store
//! holds parts without a `complete.json`: no base, and the next one has another id.
//!
//! `source` → `split` (by `header`) → `parts` → `writer`, which waits for `durable`.

pub mod schedule;
pub mod known;
pub mod source;
mod config_files;
pub mod postgres;
pub mod header;
pub mod split;
pub mod parts;
pub mod label;
mod manifest;
mod progress;
pub mod durable;
pub mod writer;
pub mod mongodb;
pub mod join;
pub mod error;
mod postgres_bases;
mod mongodb_bases;
pub mod keeper;

pub use durable::{ArchivedLog, DurableLog, Needed, PipelineLog};
pub use error::{BaseError, Class, LogError, SourceError};
pub use join::{JoinError, join, join_mongodb, progress_line, tell};
pub use mongodb::ReadError;
pub use mongodb_bases::MongodbBases;
pub use postgres::PostgresSource;
pub use postgres_bases::PostgresBases;
pub use progress::{OnProgress, Progress};
pub use source::{Backup, Checkpoint, Event, Facts, Request, Source, Start};
pub use writer::{BaseOptions, take};
