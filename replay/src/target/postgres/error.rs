//! Why a restore did not end as asked, with the facts a person needs to act.

use std::path::PathBuf;
use std::sync::Arc;

use proto::archive::ArchiveError;
use proto::position::ByteCount;
use proto::store::{Class, Key, StoreError};

use super::layout::UnpackError;
use crate::fetch::FetchError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    #[error("{folder} is not empty (it holds {found:?})")]
    NotEmpty { folder: PathBuf, found: String },
    #[error("{folder} is a file or lies in one, and no folder")]
    NotAFolder { folder: PathBuf },
    #[error("{folder} holds a restore that was interrupted: {asked}")]
    OtherRestore { folder: PathBuf, asked: String },
    #[error("{folder} holds a restore that is finished (.pitr/restored.json says which)")]
    Finished { folder: PathBuf },
    #[error("another restore works in {folder}")]
    Busy { folder: PathBuf },
    #[error("{folder} has room for {}, and the base needs {}", ByteCount(*.free), ByteCount(*.needed))]
    NoRoom { folder: PathBuf, needed: u64, free: u64 },
    #[error("tablespace {name:?} is not one of this base, or its new place is not absolute")]
    Tablespace { name: String },
    #[error(
        "tablespace {oid} of this base lies at {location}, and {place} cannot take it: {detail}"
    )]
    TablespacePlace { oid: u32, location: String, place: PathBuf, detail: String },
    #[error("servers do not run as root, and there is no user {name:?} here (--run-as)")]
    NoUser { name: String },
    #[error("--run-as {name} needs root; this is user {uid}")]
    NotRoot { name: String, uid: u32 },
    #[error("no PostgreSQL {major} server found ({found})")]
    NoServer { major: u32, found: String },
    #[error("port {port} is taken")]
    Port { port: u16 },
    #[error("the base {id} cannot be used: {detail}")]
    Base { id: String, detail: String },
    #[error("{key} could not be unpacked")]
    Part {
        key: Key,
        #[source]
        source: UnpackError,
    },
    #[error("{path} cannot be used: {detail}")]
    Journal { path: PathBuf, detail: String },
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{program} could not be run: {detail}")]
    Program { program: PathBuf, detail: String },
    /// Recovery was not given what it asked for, and was stopped by that.
    #[error("recovery stopped: {name} could not be had from the archive")]
    NoLog {
        name: String,
        #[source]
        source: Arc<FetchError>,
    },
    /// The server ended, or would not do what was asked.
    #[error("{what}{}", told(.log))]
    Server { what: String, log: Vec<String> },
    #[error("asking the server: {what}")]
    Query {
        what: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("interrupted; the same command goes on where this one stopped")]
    Interrupted,
    #[error("the work stopped in the middle: {detail}")]
    Stopped { detail: String },
}

const ONCE_IT_ANSWERS: &str = "check network and store: the same command goes on where it \
                               stopped, and the database was not opened";

fn told(log: &[String]) -> String {
    log.iter().map(|line| format!("\n    {line}")).collect()
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        Self::Fetch(error.into())
    }
}

impl RestoreError {
    /// The exit code of DESIGN §7.
    pub fn exit(&self) -> u8 {
        match self {
            Self::NotEmpty { .. }
            | Self::NotAFolder { .. }
            | Self::OtherRestore { .. }
            | Self::Finished { .. }
            | Self::NoRoom { .. }
            | Self::Busy { .. }
            | Self::Tablespace { .. }
            | Self::TablespacePlace { .. }
            | Self::NoUser { .. }
            | Self::NotRoot { .. }
            | Self::NoServer { .. }
            | Self::Port { .. } => 4,
            Self::Interrupted => 5,
            Self::Fetch(error) => error.class().map_or(1, class_exit),
            Self::NoLog { source, .. } => source.class().map_or(1, class_exit),
            Self::Archive(error) => class_exit(error.class()),
            _ => 1,
        }
    }

    /// What to do about it, in one sentence.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Finished { .. } => "use it, or give another folder",
            Self::NotEmpty { .. } | Self::NotAFolder { .. } => {
                "give an empty folder, or one that does not exist yet"
            }
            Self::OtherRestore { .. } => {
                "repeat that command to go on with it, or empty the folder first"
            }
            Self::Busy { .. } => "let it finish, or give another folder",
            Self::NoRoom { .. } => "make room, or give a folder on another disk",
            Self::Tablespace { .. } => {
                "--tablespace takes OLD=NEW: a location or oid that `pitr list` shows, and an \
                 absolute path"
            }
            Self::TablespacePlace { .. } => {
                "put each tablespace into an empty folder: --tablespace OLD=NEW, once for each"
            }
            Self::NoUser { .. } => "name the user that the server shall run as with --run-as",
            Self::NotRoot { .. } => "leave out --run-as, or run as root",
            Self::NoServer { .. } => "install that version's server, or name its folder: --pg-bin",
            Self::Port { .. } => "give a free one with --port",
            Self::Base { .. } | Self::Part { .. } => {
                "the base is damaged: run `pitr verify`, and restore from another one with --base"
            }
            Self::Interrupted => "run the same command again",
            Self::Fetch(error) if error.class() == Some(Class::Retry) => ONCE_IT_ANSWERS,
            Self::NoLog { source, .. } if source.class() == Some(Class::Retry) => ONCE_IT_ANSWERS,
            Self::NoLog { .. } => {
                "`pitr verify` lists what is missing or damaged; the same command goes on where it \
                 stopped"
            }
            Self::Server { .. } | Self::Query { .. } => {
                "read the server's log in the folder's .pitr/server.log; the same command goes on \
                 once the cause is gone"
            }
            _ => "run the same command again once the cause is gone: it goes on where it stopped",
        }
    }
}

fn class_exit(class: Class) -> u8 {
    match class {
        Class::Retry => 8,
        Class::Config => 3,
        Class::Absent | Class::Damaged => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_log(class: Class) -> RestoreError {
        let (address, key, detail) = ("x".to_owned(), "log/1".to_owned(), "away".to_owned());
        let source = StoreError::Unreachable { address, action: "get", key, detail, class };
        let name = "000000010000000000000003".to_owned();
        RestoreError::NoLog { name, source: Arc::new(source.into()) }
    }

    #[test]
    fn a_store_that_goes_away_during_recovery_is_unreachable_and_no_failed_restore() {
        let away = no_log(Class::Retry);
        assert_eq!(away.exit(), 8);
        assert!(away.next().contains("goes on"), "{}", away.next());
        assert_eq!(no_log(Class::Config).exit(), 3);
        assert_eq!(no_log(Class::Damaged).exit(), 1);
        let local = FetchError::Stopped { detail: "no disk".to_owned() };
        assert_eq!(RestoreError::Fetch(local).exit(), 1, "nothing of the store's");
    }
}
