//! What a command says when it does not do what was asked: what, why, what to do next, with a
//! code that stays the same from version to version (docs/ERRORS.md) and an exit code.

use std::fmt;

use serde::Serialize;

use crate::pipeline::PipelineError;
use crate::ship::ShipError;
use crate::source::postgres as pg;
use crate::source::postgres::capture::CaptureError;
use proto::archive::ArchiveError;
use proto::store::Class;

/// How a command ended (DESIGN §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Config = 3,
    /// Nothing was changed.
    Refused = 4,
    Interrupted = 5,
    WrongCluster = 6,
    Fenced = 7,
    Unreachable = 8,
}

macro_rules! codes {
    ($($variant:ident $text:literal $exit:ident $meaning:literal;)*) => {
        /// The stable code of an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $(#[doc = $meaning] $variant,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            pub const fn exit(self) -> Exit {
                match self { $(Self::$variant => Exit::$exit,)* }
            }

            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    Usage "PITRD-U001" Usage "the command line is not understood";
    Secret "PITRD-U002" Usage "a password stands on the command line";
    OtherProgram "PITRD-U003" Usage "the command is one of pitr";
    Missing "PITRD-U004" Usage "a needed flag is neither given nor configured";
    ConfigFile "PITRD-C001" Config "the configuration file cannot be read";
    ConfigKey "PITRD-C002" Config "the configuration file has a key that no command knows";
    Store "PITRD-C003" Config "the store refuses what is asked: address, bucket or rights";
    Source "PITRD-C004" Config "the database refuses the connection: address, password, TLS";
    Permission "PITRD-C005" Config "the role may not do this: it needs REPLICATION";
    NoFreeSlot "PITRD-C006" Config "the server has no free replication slot or walsender";
    WalLevel "PITRD-C007" Config "the server's settings do not allow physical replication";
    SlotInUse "PITRD-R001" Refused "another program uses the replication slot";
    NoArchive "PITRD-R002" Refused "the archive is empty: nothing can join it";
    WrongCluster "PITRD-W001" WrongCluster "the archive is of another cluster";
    WrongTimeline "PITRD-W002" WrongCluster "the server's timeline does not continue the archive's";
    Diverged "PITRD-W003" WrongCluster "the server's log differs from the archived log";
    Fenced "PITRD-F001" Fenced "a newer writer has taken over";
    Conflict "PITRD-F002" WrongCluster "the archive holds other bytes under the same name";
    SourceAway "PITRD-S001" Unreachable "the database does not answer";
    StoreAway "PITRD-S002" Unreachable "the store does not answer";
    NoLog "PITRD-S003" Failed "the log that a base needs does not become durable";
    Spool "PITRD-D001" Failed "the spool's disk fails";
    Damaged "PITRD-D002" Failed "something in the archive is damaged";
    Interrupted "PITRD-I001" Interrupted "stopped by a signal before it was done";
    Failed "PITRD-X001" Failed "something failed that has no code of its own";
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

/// An error as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CliError {
    pub code: Code,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub next: String,
}

impl CliError {
    pub fn new(code: Code, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: None, next: next.into() }
    }

    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// From an error of the program, with its causes as the reason.
    pub fn caused(code: Code, error: &dyn std::error::Error, next: impl Into<String>) -> Self {
        let mut made = Self::new(code, error.to_string(), next);
        made.why = causes(error);
        made
    }

    pub const fn exit(&self) -> Exit {
        self.code.exit()
    }

    /// One JSON object, for `--json`.
    pub fn to_json(&self) -> String {
        serde_json::json!({ "error": self, "exit": self.exit() as u8 }).to_string()
    }
}

/// The chain of causes, each once.
fn causes(error: &dyn std::error::Error) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        next = cause.source();
    }
    (!parts.is_empty()).then(|| parts.join(": "))
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}]: {}", self.code.text(), self.what)?;
        if let Some(why) = &self.why {
            writeln!(f, "  why:  {why}")?;
        }
        write!(f, "  next: {}", self.next)
    }
}

impl From<PipelineError> for CliError {
    fn from(error: PipelineError) -> Self {
        match &error {
            PipelineError::Source(source) => source_error(source),
            PipelineError::Capture(capture) => capture_error(capture),
            PipelineError::Archive(archive) => archive_error(archive),
            PipelineError::Ship(ship) => ship_error(ship),
            PipelineError::Spool(spool) => spool_error(spool),
            PipelineError::Task => Self::caused(Code::Failed, &error, "start it again"),
        }
    }
}

pub(super) fn source_error(error: &pg::Error) -> CliError {
    let (code, next) = match error.class() {
        pg::Class::Config => (
            Code::Source,
            "correct --source, the password (~/.pgpass, PGPASSWORD) or pg_hba.conf, then try again",
        ),
        pg::Class::Permission => (
            Code::Permission,
            "ALTER ROLE … REPLICATION, and GRANT pg_monitor for the slot's state",
        ),
        pg::Class::NoFreeSlot => {
            (Code::NoFreeSlot, "raise max_replication_slots, or drop a slot that nobody uses")
        }
        pg::Class::Prerequisite => (
            Code::WalLevel,
            "set wal_level = replica and max_wal_senders > 0, then restart the server",
        ),
        pg::Class::SlotInUse => (
            Code::SlotInUse,
            "another pitrd (or other program) streams from this slot: stop it, or give --slot another name",
        ),
        pg::Class::Retry => {
            (Code::SourceAway, "check that the server runs and can be reached from here")
        }
        _ => (Code::Failed, "see the server's log"),
    };
    CliError::caused(code, error, next)
}

fn capture_error(error: &CaptureError) -> CliError {
    match error {
        CaptureError::WrongCluster { .. } | CaptureError::SegmentSize { .. } => CliError::caused(
            Code::WrongCluster,
            error,
            "give this cluster an --archive of its own, or --new-lineage if it replaces the archived one on purpose",
        ),
        CaptureError::TimelineBehind { .. } => CliError::caused(
            Code::WrongTimeline,
            error,
            "connect to the present primary; an old primary must be rewound first (pg_rewind)",
        ),
        CaptureError::TimelineForeign { server, .. }
        | CaptureError::RestoredCopy { timeline: server, .. } => CliError::caused(
            Code::WrongTimeline,
            error,
            format!(
                "give a restored copy an archive of its own; if this one replaces the archived cluster: --accept-timeline {server}, or --new-lineage"
            ),
        ),
        CaptureError::Source(source) => source_error(source),
        CaptureError::Archive(archive) => archive_error(archive),
        _ => CliError::caused(Code::Failed, error, "see the log above"),
    }
}

pub(super) fn archive_error(error: &ArchiveError) -> CliError {
    match error.class() {
        Class::Config => CliError::caused(
            Code::Store,
            error,
            "correct --archive, the credentials or the bucket's policy (create, read and list are needed)",
        ),
        Class::Retry => CliError::caused(
            Code::StoreAway,
            error,
            "check that the store can be reached from here",
        ),
        Class::Absent | Class::Damaged => {
            CliError::caused(Code::Damaged, error, "run `pitr verify` on this archive")
        }
    }
}

fn ship_error(error: &ShipError) -> CliError {
    match error {
        ShipError::Fenced { .. } => CliError::caused(
            Code::Fenced,
            error,
            "one sidecar writes an archive: stop the other one, or leave it the work",
        ),
        ShipError::Conflict { .. } | ShipError::Foreign { .. } => CliError::caused(
            Code::Conflict,
            error,
            "nothing was changed. Two histories share this archive: run `pitr verify`, and give this cluster an archive of its own or --new-lineage",
        ),
        ShipError::Archive(archive) => archive_error(archive),
        ShipError::Store(_) => CliError::caused(Code::Store, error, "run `pitr verify`"),
        ShipError::Spool(spool) => spool_error(spool),
    }
}

fn spool_error(error: &crate::spool::SpoolError) -> CliError {
    if matches!(error, crate::spool::SpoolError::Diverged { .. }) {
        return CliError::caused(
            Code::Diverged,
            error,
            "this server is a clone, or was restored or rewound: give it an archive of its own, or --new-lineage",
        );
    }
    CliError::caused(Code::Spool, error, "make room, or give --spool a folder on a healthy disk")
}
