//! What a command says when it does not do what was asked: what, why, what to do next, with a
//! code that stays the same from version to version (docs/ERRORS.md) and an exit code.

use proto::archive::ArchiveError;
use proto::cli::ArchiveCode;
pub use proto::cli::Exit;
use proto::store::{Class, StoreError};

use crate::catalog::{CatalogError, describe};

/// An error of `pitr`.
pub type CliError = proto::cli::CliError<Code>;

proto::error_codes! {
    Usage "PITR-U001" Usage "the command line is not understood";
    Secret "PITR-U002" Usage "a password stands on the command line";
    OtherProgram "PITR-U003" Usage "the command is one of pitrd";
    Target "PITR-U004" Usage "the wanted moment is not understood, or has no zone";
    Missing "PITR-U005" Usage "a needed flag is neither given nor configured";
    ConfigFile "PITR-C001" Config "the configuration file cannot be read";
    ConfigKey "PITR-C002" Config "the configuration file has a key that no command knows";
    Store "PITR-C003" Config "the store refuses what is asked: address, bucket or rights";
    NoArchive "PITR-C004" Config "there is no archive at this address";
    NewerFormat "PITR-C005" Config "a newer program wrote the archive";
    ConfigValue "PITR-C006" Config "a value in the configuration file or a variable is not understood";
    WrongCluster "PITR-W001" WrongCluster "the archive is of another engine or lineage";
    Unreachable "PITR-S001" Unreachable "the store does not answer";
    Damaged "PITR-D001" Failed "something in the archive is damaged";
    Missed "PITR-D002" Failed "something that should be in the archive is not";
    NotRestorable "PITR-N001" NotRestorable "the wanted moment cannot be restored";
    Ambiguous "PITR-N002" NotRestorable "the wanted moment could be one of several";
    NoBase "PITR-N003" NotRestorable "no base can be replayed to the wanted moment";
    BaseRefused "PITR-N004" NotRestorable "the base asked for cannot be replayed to the moment";
    DamagedLog "PITR-N005" NotRestorable "a damaged segment lies on the way to the wanted moment";
    RestoreRefused "PITR-R001" Refused "the restore is refused here, and nothing was changed";
    Interrupted "PITR-R002" Interrupted "interrupted; repeated, the command begins anew or goes on where it stopped";
    RestoreFailed "PITR-R003" Failed "the restore failed, and goes on when repeated";
    CheckFailed "PITR-R004" CheckFailed "restored, but a check of the result failed";
    Found "PITR-V001" VerifyFound "verify found something";
    LagOver "PITR-L001" Lag "the archive lags more than --fail-if-lag allows";
    Failed "PITR-X001" Failed "something failed that has no code of its own";
}

impl From<CatalogError> for CliError {
    fn from(error: CatalogError) -> Self {
        match &error {
            CatalogError::Store(source) => store(source),
            CatalogError::Archive(ArchiveError::Store(source)) => store(source),
            CatalogError::NoArchive { .. } => Self::caused(
                Code::NoArchive,
                &error,
                "check --archive; `pitrd run --source … --archive …` begins a new archive",
            ),
            CatalogError::NoLineage { .. } => {
                Self::caused(Code::WrongCluster, &error, "leave out --lineage, or give one it has")
            }
            CatalogError::Engine { .. } => {
                Self::caused(Code::WrongCluster, &error, "give the archive of a PostgreSQL cluster")
            }
            CatalogError::Format { .. } => {
                Self::caused(Code::NewerFormat, &error, "use a pitr at least as new as the pitrd")
            }
            _ => by_class(error.class(), &error),
        }
    }
}

impl ArchiveCode for Code {
    fn of_store(error: &StoreError) -> CliError {
        store(error)
    }

    fn of_archive(error: &ArchiveError) -> CliError {
        match error {
            ArchiveError::Store(error) => store(error),
            _ => by_class(error.class(), error),
        }
    }
}

fn store(error: &StoreError) -> CliError {
    by_class(error.class(), error)
}

fn by_class(class: Class, error: &dyn std::error::Error) -> CliError {
    let (code, next) = match class {
        Class::Absent => (Code::Missed, "`pitr verify` lists all that is missing or damaged"),
        Class::Retry => {
            let next = "check network and store, and try again: nothing was changed";
            return CliError::new(Code::Unreachable, "the store does not answer", next)
                .why(describe(error));
        }
        Class::Config => {
            (Code::Store, "check the address, the credentials and the right to read and list")
        }
        Class::Damaged => (Code::Damaged, "`pitr verify --read-data` lists all that is damaged"),
    };
    CliError::caused(code, error, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_and_nothing_else() {
        let docs = include_str!("../../../docs/ERRORS.md");
        assert_eq!(proto::cli::listed(docs, "pitr"), proto::cli::table::<Code>());
    }

    #[test]
    fn an_error_says_what_why_and_what_next() {
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let (address, key) = ("/archive".to_owned(), "lineage/1/".to_owned());
        let error = StoreError::Io { address, action: "list", key, source };
        insta::assert_snapshot!(CliError::from(error), @"
        error PITR-C003: list lineage/1/ in /archive
          why:  permission denied
          next: check the address, the credentials and the right to read and list
        ");
    }
}
