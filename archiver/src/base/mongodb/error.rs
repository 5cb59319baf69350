//! What can go wrong while a MongoDB base is read.

use std::time::Duration;

use bson::error::Error as RawError;
use mongodb::error::{Error as DriverError, ErrorKind};

use crate::base::error::{Class, SourceError};
use crate::source::mongodb::{Class as MemberClass, Error as MemberError};

/// `src/mongo/base/error_codes.yml`
pub(super) mod code {
    pub(crate) const UNAUTHORIZED: i32 = 13;
    pub(crate) const NAMESPACE_NOT_FOUND: i32 = 26;
    pub(crate) const CURSOR_NOT_FOUND: i32 = 43;
    pub(crate) const CAPPED_POSITION_LOST: i32 = 136;
    pub(crate) const QUERY_PLAN_KILLED: i32 = 175;
    pub(crate) const CURSOR_KILLED: i32 = 237;
    pub(crate) const SNAPSHOT_TOO_OLD: i32 = 239;
    pub(crate) const SNAPSHOT_UNAVAILABLE: i32 = 246;
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    #[error("{what}")]
    Ask {
        what: String,
        #[source]
        source: Box<DriverError>,
    },
    #[error("the server's answer to {what} has no {field}")]
    Answer { what: &'static str, field: &'static str },
    #[error("the server's answer cannot be read")]
    Malformed(#[from] RawError),
    /// What the server is, or is at the moment.
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error(
        "the majority of the set did not confirm what this member has within {} s", waited.as_secs()
    )]
    NoMajority { waited: Duration },
    #[error(
        "{namespace} could not be read as of one moment in {attempts} attempts: the server keeps \
         too little history (minSnapshotHistoryWindowInSeconds)"
    )]
    NoSnapshot {
        namespace: String,
        attempts: u32,
        #[source]
        source: Option<Box<ReadError>>,
    },
}

impl ReadError {
    pub(super) fn ask(what: impl Into<String>) -> impl FnOnce(DriverError) -> Self {
        let what = what.into();
        |source| Self::Ask { what, source: Box::new(source) }
    }

    /// The server's code, if it was the server that refused.
    pub(super) fn code(&self) -> Option<i32> {
        match self {
            Self::Ask { source, .. } => match source.kind.as_ref() {
                ErrorKind::Command(command) => Some(command.code),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn class(&self) -> Class {
        let config = match self {
            Self::Member(error) => error.class() == MemberClass::Unsupported,
            Self::Ask { source, .. } => matches!(
                source.kind.as_ref(),
                ErrorKind::Authentication { .. }
                    | ErrorKind::InvalidArgument { .. }
                    | ErrorKind::InvalidTlsConfig { .. }
            ),
            _ => false,
        };
        if config || self.code() == Some(code::UNAUTHORIZED) { Class::Config } else { Class::Retry }
    }
}

impl From<ReadError> for SourceError {
    fn from(error: ReadError) -> Self {
        Self { class: error.class(), source: Box::new(error) }
    }
}

impl From<ReadError> for crate::base::BaseError {
    fn from(error: ReadError) -> Self {
        Self::Source(error.into())
    }
}

#[cfg(test)]
mod tests {
    use bson::{DateTime, Timestamp, doc};

    use super::*;
    use crate::source::mongodb::Hello;

    #[test]
    fn a_base_of_a_member_that_has_just_started_is_taken_again_and_of_a_standalone_server_never() {
        let place = doc! { "ts": Timestamp { time: 9, increment: 1 }, "t": 2_i64 };
        let started = doc! {
            "setName": "rs0", "isWritablePrimary": true, "maxWireVersion": 17,
            "localTime": DateTime::from_millis(5), "lastWrite": { "opTime": place },
        };
        let class = |answer| {
            let error = Hello::read("a:1", &answer).expect_err("no place that a majority has");
            ReadError::from(error).class()
        };
        assert_eq!(class(started), Class::Retry);
        assert_eq!(class(doc! { "isWritablePrimary": true }), Class::Config);
    }
}
