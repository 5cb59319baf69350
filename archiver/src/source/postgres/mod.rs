//! PostgreSQL's side of the pipeline: the replication protocol and the few SQL questions beside it.
//!
//! Enters: a libpq connection string. Leaves: positions and bytes of the log, base backups, facts
//! about the server. Nothing here touches a disk (apart from reading certificates and password
//! files), so nothing has to be recovered after a crash: the slot remembers what was acknowledged.
//!
//! `uri` → `dial` + `tls` + `auth` → `conn` → `session` → `stream` driven by `drive`; `basebackup`
//! and `sql` stand beside the stream on connections of their own.

pub mod error;
pub mod uri;
mod environment;
pub mod options;
pub mod secret_files;
pub mod tls;
mod tls_verify;
pub mod dial;
pub mod auth;
pub mod conn;
mod startup;
pub mod session;
pub mod wire;
mod acknowledged;
pub mod stream;
pub mod drive;
pub mod capture;
mod begin;
pub mod end;
mod ready;
mod engine;
pub mod commits;
pub mod indexer;
pub mod basebackup;
mod backup_frame;
mod backup_options;
pub mod sql;
pub mod preflight;
pub mod clock;

pub use acknowledged::Acknowledged;
pub use backup_frame::BackupFrame;
pub use backup_options::{BackupOptions, Checkpoint, MaxRate};
pub use basebackup::{BackupEvent, BackupStream, Tablespace};
pub use conn::Connection;
pub use drive::{Drive, Outcome, Push, Sink, run};
pub use engine::Postgres;
pub use environment::Environment;
pub use error::{Class, Error, ServerError, SqlState};
pub use options::{ConnectOptions, Endpoint, Host};
pub use session::{Identity, Server, Session, SlotName};
pub use sql::{Settings, SlotState, SqlSession, SyncState, WalStatus};
pub use stream::{StreamEvent, StreamOptions, WalStream};
