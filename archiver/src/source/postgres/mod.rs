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
pub mod options;
pub mod secret_files;
pub mod tls;
mod tls_verify;
pub mod dial;
pub mod auth;
pub mod conn;
pub mod session;
mod wire;
pub mod stream;
pub mod drive;
pub mod basebackup;
pub mod sql;

pub use basebackup::{BackupEvent, BackupOptions, BackupStream, Checkpoint, MaxRate, Tablespace};
pub use conn::Connection;
pub use drive::{Drive, Outcome, Push, run};
pub use error::{Class, Error, ServerError, SqlState};
pub use options::{ConnectOptions, Endpoint, Environment, Host};
pub use session::{Identity, Server, Session, SlotName};
pub use sql::{Settings, SlotState, SqlSession, SyncState, WalStatus};
pub use stream::{Acknowledged, StreamEvent, StreamOptions, WalStream};
