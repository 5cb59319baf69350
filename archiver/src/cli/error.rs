//! What a command says when it does not do what was asked: what, why, what to do next, with a
//! code that stays the same from version to version (docs/ERRORS.md) and an exit code.

use proto::archive::ArchiveError;
use proto::cli::ArchiveCode;
pub use proto::cli::Exit;
use proto::store::{Class, StoreError};

use crate::pipeline::PipelineError;
use crate::ship::ShipError;
use crate::source::mongodb as mongo;
use crate::source::postgres as pg;
use crate::source::postgres::capture::CaptureError;

/// An error of `pitrd`.
pub type CliError = proto::cli::CliError<Code>;

proto::error_codes! {
    Usage "PITRD-U001" Usage "the command line is not understood";
    Secret "PITRD-U002" Usage "a password stands on the command line";
    OtherProgram "PITRD-U003" Usage "the command is one of pitr";
    Missing "PITRD-U004" Usage "a needed flag is neither given nor configured";
    ConfigFile "PITRD-C001" Config "the configuration file cannot be read";
    ConfigKey "PITRD-C002" Config "the configuration file has a key that no command knows";
    Store "PITRD-C003" Config "the store refuses what is asked: address, bucket or rights";
    Source "PITRD-C004" Config "the database refuses the connection: address, password, TLS";
    Permission "PITRD-C005" Config "the role may not do this: it needs REPLICATION, or MongoDB's backup";
    NoFreeSlot "PITRD-C006" Config "the server has no free replication slot or walsender";
    WalLevel "PITRD-C007" Config "the server's settings do not allow physical replication";
    ConfigValue "PITRD-C008" Config "a value in the configuration file or a variable is not understood";
    SpoolFolder "PITRD-C009" Config "the spool folder cannot be used: path, rights or room";
    StoreLacks "PITRD-C010" Config "the store lacks what an archive needs";
    NewerFormat "PITRD-C011" Config "a newer program wrote the archive";
    NoOplog "PITRD-C012" Config "the server has no oplog that can be followed: standalone, mongos, arbiter, too old";
    SlotInUse "PITRD-R001" Refused "another program uses the replication slot";
    NoArchive "PITRD-R002" Refused "the archive is empty: nothing can join it";
    SpoolInUse "PITRD-R003" Refused "another pitrd uses the spool folder";
    OtherMode "PITRD-R004" Refused "the archive's log is of MongoDB's other --source-mode";
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

impl ArchiveCode for Code {
    fn of_store(error: &StoreError) -> CliError {
        by_class(error.class(), error)
    }

    fn of_archive(error: &ArchiveError) -> CliError {
        archive_error(error)
    }
}

impl From<PipelineError> for CliError {
    fn from(error: PipelineError) -> Self {
        pipeline_error(&error)
    }
}

pub(super) fn pipeline_error(error: &PipelineError) -> CliError {
    match error {
        PipelineError::Source(source) => source_error(source),
        PipelineError::Capture(capture) => capture_error(capture),
        PipelineError::Mongodb(capture) => oplog_error(capture),
        PipelineError::Archive(archive) => archive_error(archive),
        PipelineError::Ship(ship) => ship_error(ship),
        PipelineError::Spool(spool) => spool_error(spool),
        PipelineError::Lacking { .. } => CliError::caused(
            Code::StoreLacks,
            error,
            "give --archive a store that has it; nothing was created",
        ),
        PipelineError::Closed(_) | PipelineError::Task => {
            CliError::caused(Code::Failed, error, "start it again")
        }
    }
}

const LACKS: &str = "wal_level = replica, max_wal_senders and max_replication_slots above 0 (restart the server), and a physical --slot are needed";

const REWIND: &str =
    "connect to the present primary; an old primary must be rewound first (pg_rewind)";

const OTHER_LOG: &str = "this server is a clone, or was restored or rewound: give it an archive of its own, or --new-lineage";

pub(super) fn source_error(error: &pg::Error) -> CliError {
    if matches!(error, pg::Error::LeftBehind { .. }) {
        return CliError::caused(Code::WrongTimeline, error, REWIND);
    }
    let full = error.sqlstate() == Some(pg::SqlState::TOO_MANY_CONNECTIONS);
    let (code, next) = match error.class() {
        pg::Class::Config if error.is_tls() => (
            Code::Source,
            "sslrootcert must name the authority of the server's certificate, and the host in --source a name that stands in it; or choose another sslmode",
        ),
        // The server let us in, and refuses a command: a logical slot, for one.
        pg::Class::Config | pg::Class::Prerequisite if !error.is_connecting() => {
            (Code::WalLevel, LACKS)
        }
        pg::Class::Config => (
            Code::Source,
            "correct --source, the password (~/.pgpass, PGPASSWORD) or pg_hba.conf, then try again",
        ),
        pg::Class::Permission => (
            Code::Permission,
            "as a superuser: ALTER ROLE … REPLICATION, and GRANT pg_monitor TO … for the slot's state",
        ),
        pg::Class::NoFreeSlot => {
            (Code::NoFreeSlot, "raise max_replication_slots, or drop a slot that nobody uses")
        }
        pg::Class::Prerequisite => (Code::WalLevel, LACKS),
        pg::Class::SlotInUse => (
            Code::SlotInUse,
            "another pitrd (or other program) streams from this slot: stop it, or give --slot another name",
        ),
        pg::Class::Retry if full => {
            (Code::NoFreeSlot, "raise max_wal_senders or max_connections, or end connections")
        }
        pg::Class::Retry => {
            (Code::SourceAway, "check that the server runs and can be reached from here")
        }
        _ => (Code::Failed, "see the server's log"),
    };
    CliError::caused(code, error, next)
}

pub(super) fn capture_error(error: &CaptureError) -> CliError {
    match error {
        CaptureError::WrongCluster { .. } | CaptureError::SegmentSize { .. } => CliError::caused(
            Code::WrongCluster,
            error,
            "give this cluster an --archive of its own, or --new-lineage if it replaces the archived one on purpose",
        ),
        CaptureError::TimelineForeign { server, .. }
        | CaptureError::RestoredCopy { timeline: server, .. } => CliError::caused(
            Code::WrongTimeline,
            error,
            format!(
                "give a restored copy an archive of its own; if this one replaces the archived cluster: --accept-timeline {server}, or --new-lineage"
            ),
        ),
        CaptureError::OtherHistory { .. } => CliError::caused(
            Code::WrongTimeline,
            error,
            "give a restored copy an archive of its own; if this one replaces the archived cluster: --new-lineage",
        ),
        CaptureError::OtherBytes { .. } | CaptureError::ShortLog { .. } => {
            CliError::caused(Code::Diverged, error, OTHER_LOG)
        }
        CaptureError::Source(source) => source_error(source),
        CaptureError::Archive(archive) => archive_error(archive),
        _ => CliError::caused(Code::Failed, error, "see the log above"),
    }
}

fn oplog_error(error: &mongo::capture::CaptureError) -> CliError {
    use mongo::capture::CaptureError;
    match error {
        CaptureError::WrongSet { .. } => CliError::caused(
            Code::WrongCluster,
            error,
            "give this replica set an --archive of its own, or --new-lineage if it replaces the archived one on purpose",
        ),
        CaptureError::OtherMode { archived, .. } => CliError::caused(
            Code::OtherMode,
            error,
            format!(
                "give --source-mode {archived}, or --new-lineage: the other mode's log does not continue this one"
            ),
        ),
        CaptureError::Source(source) => mongodb_error(source),
        _ => CliError::caused(Code::Failed, error, "see the log above"),
    }
}

pub(super) fn mongodb_error(error: &mongo::Error) -> CliError {
    let (code, next) = match error.class() {
        mongo::Class::Retry => {
            (Code::SourceAway, "check that a member of the set runs and can be reached from here")
        }
        mongo::Class::Config => (
            Code::Source,
            "correct --source: user and password (authSource=admin?), TLS options; give it by PITR_SOURCE or --config when it holds a password",
        ),
        mongo::Class::Permission => (
            Code::Permission,
            "as an administrator: db.grantRolesToUser(…, [{role: \"backup\", db: \"admin\"}]); `pitrd check` names each missing right",
        ),
        mongo::Class::Unsupported => (
            Code::NoOplog,
            "give a member of a replica set, if only of one member: mongod --replSet NAME, then rs.initiate()",
        ),
        mongo::Class::WrongSet => (
            Code::WrongCluster,
            "give this replica set an --archive of its own, or --new-lineage if it replaces the archived one on purpose",
        ),
        mongo::Class::LogRemoved | mongo::Class::Protocol => (Code::Failed, "see the server's log"),
    };
    CliError::caused(code, error, next)
}

pub(super) fn archive_error(error: &ArchiveError) -> CliError {
    if matches!(error, ArchiveError::Newer { .. }) {
        return CliError::caused(
            Code::NewerFormat,
            error,
            "use a pitrd at least as new as the one that began this archive",
        );
    }
    by_class(error.class(), error)
}

fn by_class(class: Class, error: &dyn std::error::Error) -> CliError {
    let (code, next) = match class {
        Class::Config => (
            Code::Store,
            "correct --archive, the credentials or the bucket's policy (create, read and list are needed)",
        ),
        Class::Retry => (Code::StoreAway, "check that the store can be reached from here"),
        Class::Absent | Class::Damaged => (Code::Damaged, "run `pitr verify` on this archive"),
    };
    CliError::caused(code, error, next)
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
        return CliError::caused(Code::Diverged, error, OTHER_LOG);
    }
    CliError::caused(Code::Spool, error, "make room, or give --spool a folder on a healthy disk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_and_nothing_else() {
        let docs = include_str!("../../../docs/ERRORS.md");
        assert_eq!(proto::cli::listed(docs, "pitrd"), proto::cli::table::<Code>());
    }
}
