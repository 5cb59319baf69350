//! What can go wrong between us and the members of a replica set, and what kind of answer it
//! deserves. The class comes from types and error codes alone, never from texts.

use std::time::Duration;

use mongodb::error::ErrorKind;
use proto::mongodb::{EntryError, OpTime};

/// What an error asks of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The network or the server is away for a while: try again after a pause.
    Retry,
    /// An address, certificate, password or option is wrong: retrying alone cannot help.
    Config,
    /// The user may not do this.
    Permission,
    /// It is no server whose oplog can be followed: standalone, mongos, arbiter, too old.
    Unsupported,
    /// It belongs to another replica set than it should.
    WrongSet,
    /// The member has not the entries that are asked for any more: another one may.
    LogRemoved,
    /// The other side does not speak as expected.
    Protocol,
}

impl Class {
    /// Whether the same call may succeed later without anybody changing anything.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Retry)
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Never with the address itself: a password may stand in it.
    #[error("the connection string cannot be used: {reason}")]
    Address { reason: String },
    #[error("{member}: cannot {doing}")]
    Driver { member: String, doing: &'static str, source: Box<mongodb::error::Error> },
    #[error("{member} does not {doing} within {} s", after.as_secs_f32())]
    TimedOut { member: String, doing: &'static str, after: Duration },
    #[error("no member of the replica set can be used: {}", told(tried))]
    EveryMember { tried: Vec<Error> },
    #[error("{member} asks for a user and a password, and none was given")]
    NoCredentials { member: String },
    #[error("the user may not {right} on {member}")]
    NoRight { member: String, right: &'static str, source: Box<mongodb::error::Error> },
    #[error("{member} is a standalone server: it has no oplog")]
    Standalone { member: String },
    #[error("{member} was started for a replica set that nobody has initiated")]
    NotInitiated { member: String },
    #[error("{member} is a mongos: a sharded cluster cannot be archived yet")]
    Mongos { member: String },
    #[error("{member} is an arbiter: it holds no data")]
    Arbiter { member: String },
    #[error("{member} is neither primary nor secondary at the moment")]
    NotReady { member: String },
    #[error("{member} is of the replica set {found:?}, and {expected:?} was asked for")]
    WrongSetName { member: String, expected: String, found: String },
    #[error("{member} speaks wire version {found}: MongoDB older than 5.0 is not supported")]
    TooOld { member: String, found: i32 },
    #[error("{member} has no collection config.transactions, by which its set is known")]
    NoIdentity { member: String },
    #[error("the cursor on {member} has ended")]
    CursorEnded { member: String },
    #[error("{member} has not {wanted} any more")]
    EntryGone { member: String, wanted: OpTime },
    #[error("{member} has {found} where {wanted} was archived: another history")]
    OtherHistory { member: String, wanted: OpTime, found: OpTime },
    #[error("{member} has not got as far as {wanted}")]
    Behind { member: String, wanted: OpTime },
    #[error("{member} sent {found} behind {last}")]
    OutOfOrder { member: String, last: OpTime, found: OpTime },
    #[error("{member} sent what is no oplog entry")]
    NoEntry { member: String, source: EntryError },
    #[error(
        "{member} speaks wire version {found}: change streams tell what happens to collections since \
         MongoDB 6.0"
    )]
    NoExpandedEvents { member: String, found: i32 },
    #[error(
        "{member} cannot go on with the change stream: what follows is not in its oplog any more"
    )]
    HistoryLost { member: String, source: Box<mongodb::error::Error> },
    #[error("{member} cannot send an event of more than 16 MB")]
    EventTooLarge { member: String, source: Box<mongodb::error::Error> },
    #[error("what is held of the change stream cannot be read")]
    Held { source: EntryError },
    #[error("{member} answered without {field}")]
    Answer { member: String, field: &'static str },
}

/// Several errors, each with its causes: a chain has room for one alone.
fn told(tried: &[Error]) -> String {
    tried.iter().map(|error| proto::cli::causes(error)).collect::<Vec<_>>().join("; ")
}

impl Error {
    pub fn class(&self) -> Class {
        match self {
            Self::Driver { source, .. } => class_of(source),
            Self::TimedOut { .. } | Self::NotReady { .. } | Self::CursorEnded { .. } => {
                Class::Retry
            }
            Self::Behind { .. } => Class::Retry,
            Self::EveryMember { tried } => of_all(tried),
            Self::Address { .. } | Self::NoCredentials { .. } => Class::Config,
            Self::NoRight { .. } => Class::Permission,
            Self::Standalone { .. } | Self::Mongos { .. } | Self::Arbiter { .. } => {
                Class::Unsupported
            }
            Self::NotInitiated { .. } | Self::TooOld { .. } | Self::NoIdentity { .. } => {
                Class::Unsupported
            }
            Self::NoExpandedEvents { .. } => Class::Unsupported,
            Self::WrongSetName { .. } | Self::OtherHistory { .. } => Class::WrongSet,
            Self::EntryGone { .. } => Class::LogRemoved,
            // Whatever is asked again, it does not get by there.
            Self::HistoryLost { .. } | Self::EventTooLarge { .. } => Class::LogRemoved,
            Self::OutOfOrder { .. } | Self::NoEntry { .. } | Self::Answer { .. } => Class::Protocol,
            Self::Held { .. } => Class::Protocol,
        }
    }

    pub fn is_retryable(&self) -> bool {
        self.class().is_retryable()
    }
}

/// One member that may come back is reason enough to try them all again.
fn of_all(tried: &[Error]) -> Class {
    let classes = || tried.iter().map(Error::class);
    classes()
        .find(|class| class.is_retryable())
        .or_else(|| classes().next())
        .unwrap_or(Class::Retry)
}

fn class_of(error: &mongodb::error::Error) -> Class {
    match &*error.kind {
        ErrorKind::Authentication { .. }
        | ErrorKind::InvalidArgument { .. }
        | ErrorKind::InvalidTlsConfig { .. } => Class::Config,
        ErrorKind::IncompatibleServer { .. } => Class::Unsupported,
        ErrorKind::InvalidResponse { .. } | ErrorKind::Bson(_) => Class::Protocol,
        ErrorKind::Io(error) if is_tls(error) => Class::Config,
        ErrorKind::Command(error) => of_code(error.code),
        _ => Class::Retry,
    }
}

/// Names as in src/mongo/base/error_codes.yml.
fn of_code(code: i32) -> Class {
    match code {
        13 => Class::Permission,              // Unauthorized
        18 => Class::Config,                  // AuthenticationFailed
        136 => Class::LogRemoved,             // CappedPositionLost
        9 | 59 | 72 | 246 => Class::Protocol, // FailedToParse, CommandNotFound, InvalidOptions, …
        _ => Class::Retry,                    // elections, shutdowns, killed cursors, the unknown
    }
}

/// Whether a certificate or the agreement on TLS failed, rather than the connection.
fn is_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The code that a server answered with, if it did.
pub(crate) fn code(error: &mongodb::error::Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_comes_from_the_code_alone() {
        for (code, class) in [
            (13, Class::Permission),
            (18, Class::Config),
            (43, Class::Retry),    // CursorNotFound
            (91, Class::Retry),    // ShutdownInProgress
            (189, Class::Retry),   // PrimarySteppedDown
            (11600, Class::Retry), // InterruptedAtShutdown
            (136, Class::LogRemoved),
            (59, Class::Protocol),
        ] {
            assert_eq!(of_code(code), class, "{code}");
        }
    }

    #[test]
    fn one_member_that_may_come_back_is_waited_for() {
        let wrong = || Error::Standalone { member: "a:1".to_owned() };
        let away = || Error::NotReady { member: "b:1".to_owned() };
        assert_eq!(Error::EveryMember { tried: vec![wrong(), away()] }.class(), Class::Retry);
        assert_eq!(Error::EveryMember { tried: vec![wrong()] }.class(), Class::Unsupported);
    }
}
