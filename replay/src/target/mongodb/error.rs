//! Why a MongoDB restore did not end as asked, with the facts a person needs to act.

use mongodb::error::{Error as DriverError, ErrorKind};

use proto::mongodb::base::Uuid;
use proto::mongodb::{EntryError, OplogTs, WalkError};

/// Codes of `src/mongo/base/error_codes.yml`.
pub(super) mod code {
    pub(crate) const UNAUTHORIZED: i32 = 13;
    pub(crate) const NAMESPACE_NOT_FOUND: i32 = 26;
    pub(crate) const UPDATE_OPERATION_FAILED: i32 = 218;
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    #[error("the target failed: {what}")]
    Target {
        what: String,
        #[source]
        source: Box<DriverError>,
    },
    /// The entry changes a document that the target does not have: what was restored is not what
    /// the source had.
    #[error("entry {at} changes a document of {namespace} that is not there: {operation}")]
    Miss { at: OplogTs, namespace: String, operation: String },
    /// The entry inserts a document that the target has: as above.
    #[error("entry {at} inserts a document into {namespace} that is there already: {operation}")]
    There { at: OplogTs, namespace: String, operation: String },
    #[error("entry {at} is refused by the target: {operation}")]
    Refused {
        at: OplogTs,
        operation: String,
        #[source]
        source: Box<DriverError>,
    },
    #[error(
        "entry {at} is of collection {namespace} ({uuid}), which neither base nor log has made"
    )]
    UnknownCollection { at: OplogTs, namespace: String, uuid: Uuid },
    #[error("entry {at} gives {namespace} to a second collection ({uuid})")]
    Taken { at: OplogTs, namespace: String, uuid: Uuid },
    #[error("entry {at} is a {what} of {namespace}, which this version does not know")]
    Unknown { at: OplogTs, what: String, namespace: String },
    #[error("entry {at} ends a transaction whose beginning stands before the log that is replayed")]
    NoBeginning { at: OplogTs },
    #[error(
        "the transaction prepared at {prepared} had not ended where the log ends: whether it belongs \
         to {until} is not known yet"
    )]
    Unended { prepared: OplogTs, until: OplogTs },
    #[error(
        "event {at} changes {path:?} of a document of {namespace}: a path or a name with dots, and \
         the server did not tell which (MongoDB 6.1 does)"
    )]
    OpenPath { at: OplogTs, namespace: String, path: String },
    #[error("event {at} changes {path:?} of a document of {namespace}, which has no place for it")]
    NoPlace { at: OplogTs, namespace: String, path: String },
    #[error("entry {found} stands behind {after} in the log")]
    Order { found: OplogTs, after: OplogTs },
    #[error("the log ends at {reached}, before {until}")]
    Short { reached: OplogTs, until: OplogTs },
    #[error("entry {at} cannot be read")]
    Entry {
        at: OplogTs,
        #[source]
        source: EntryError,
    },
    #[error("the log cannot be read behind {after}")]
    Log {
        after: OplogTs,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{object} of the base: {detail}")]
    Object { object: String, detail: String },
    #[error(transparent)]
    Archive(#[from] proto::archive::ArchiveError),
    #[error("the target is not empty: it has {found}")]
    NotEmpty { found: String },
    #[error("the target holds a restore of something else that was interrupted: {found}")]
    OtherRestore { found: String },
    #[error("the target is no primary of a replica set")]
    NotPrimary,
    #[error("the user of the target may not apply entries of an oplog there")]
    NoRight {
        #[source]
        source: Box<DriverError>,
    },
    #[error("no mongod found (--mongod, or in PATH)")]
    NoServer,
    #[error("{detail}")]
    RunAs { detail: String },
    #[error("port {port} is taken")]
    Port { port: u16 },
    #[error("mongod failed: {detail}")]
    Server { detail: String },
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Catalog(#[from] crate::catalog::CatalogError),
    #[error("interrupted; the same command goes on where this one stopped")]
    Interrupted,
}

impl ReplayError {
    pub(super) fn target(what: impl Into<String>) -> impl FnOnce(DriverError) -> Self {
        let what = what.into();
        |source| Self::Target { what, source: Box::new(source) }
    }

    pub(super) fn entry<E: Into<EntryError>>(at: OplogTs) -> impl FnOnce(E) -> Self {
        move |source| Self::Entry { at, source: source.into() }
    }

    /// The file for log that waits for the end of its transaction.
    pub(super) fn spilling(source: std::io::Error) -> Self {
        Self::Io { action: "keeping a large transaction in", path: std::env::temp_dir(), source }
    }

    pub(super) fn of_log(after: OplogTs) -> impl Fn(crate::catalog::CatalogError) -> Self {
        move |error| match error {
            error @ crate::catalog::CatalogError::Store(_) => error.into(),
            error => Self::Log { after, source: Box::new(error) },
        }
    }

    /// The exit code of DESIGN §7.
    pub fn exit(&self) -> u8 {
        match self {
            Self::NotEmpty { .. }
            | Self::OtherRestore { .. }
            | Self::NotPrimary
            | Self::NoRight { .. }
            | Self::NoServer
            | Self::RunAs { .. }
            | Self::Port { .. } => 4,
            Self::Interrupted => 5,
            Self::Unended { .. } | Self::OpenPath { .. } => 10,
            Self::Archive(error) => of_class(error.class()),
            Self::Catalog(error) => of_class(error.class()),
            _ => 1,
        }
    }

    /// What to do about it, in one sentence.
    pub fn next(&self) -> &'static str {
        match self {
            Self::NotEmpty { .. } => "give an empty folder, or a replica set without databases",
            Self::OtherRestore { .. } => {
                "repeat that command to go on with it, or empty the target first"
            }
            Self::NotPrimary => "give the address of a replica set that has a primary",
            Self::NoRight { .. } => {
                "give a user with the role root, or with a role of anyAction on anyResource"
            }
            Self::NoServer => "install mongod of the source's version, or name it: --mongod PATH",
            Self::RunAs { .. } => {
                "give a user of this machine that may run mongod with --run-as, as root; or leave it out"
            }
            Self::Port { .. } => "give a free one with --port",
            Self::Unended { .. } => "give an earlier moment, or wait until it has ended",
            Self::OpenPath { .. } => {
                "--accept-open-paths reads it as a path, and the same of all others, and lists the collections"
            }
            Self::Interrupted => "run the same command again",
            Self::Miss { .. }
            | Self::There { .. }
            | Self::Refused { .. }
            | Self::UnknownCollection { .. }
            | Self::Taken { .. }
            | Self::NoPlace { .. }
            | Self::NoBeginning { .. } => {
                "base and log do not fit: restore from another base (--base), and run `pitr verify`"
            }
            _ => "run the same command again once the cause is gone: it goes on where it stopped",
        }
    }

    pub(super) fn log(after: OplogTs) -> impl FnOnce(WalkError) -> Self {
        move |source| Self::Log { after, source: Box::new(source) }
    }
}

/// The server's code, if it was the server that refused.
pub(super) fn code_of(error: &DriverError) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

const fn of_class(class: proto::store::Class) -> u8 {
    match class {
        proto::store::Class::Retry => 8,
        proto::store::Class::Config => 3,
        proto::store::Class::Absent | proto::store::Class::Damaged => 1,
    }
}
