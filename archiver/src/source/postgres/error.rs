//! What can go wrong between us and the server, and what kind of answer it deserves.
//!
//! The class comes from types and SQLSTATEs alone: message texts are translated by `lc_messages`.

use std::fmt;
use std::io;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use proto::postgres::lsn::{Lsn, Timeline};

use super::options::Endpoint;
use super::tls::TlsError;

/// A five-character SQLSTATE (src/backend/utils/errcodes.txt).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

/// What an error asks of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The network or the server is away for a while: try again after a pause.
    Retry,
    /// An address, certificate, password or setting is wrong: retrying alone cannot help.
    Config,
    /// The role may not do this (it needs REPLICATION, or `pg_monitor`).
    Permission,
    /// Another connection holds the slot, most often our own old one: try again after a pause.
    SlotInUse,
    /// The slot does not exist.
    NoSuchSlot,
    /// A slot of that name exists already.
    SlotExists,
    /// `max_replication_slots` is reached.
    NoFreeSlot,
    /// The server is not in the state for it: slot invalidated or logical, wal_level, recovery.
    Prerequisite,
    /// The server no longer has the log at this position: a gap that no retry closes.
    WalRemoved,
    /// The server's history does not contain this position, or it is ahead of the server.
    PositionRefused,
    /// Data pages of the server failed their checksums.
    DamagedPages,
    /// The other side does not speak as expected.
    Protocol,
}

impl Class {
    /// Whether the same call may succeed later without anybody changing anything.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Retry | Self::SlotInUse)
    }
}

/// An ErrorResponse or NoticeResponse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{severity}: {message} (SQLSTATE {sqlstate}){}{}", Extra(", ", detail.as_deref()), Extra(", hint: ", hint.as_deref()))]
pub struct ServerError {
    /// Not translated (the `V` field): ERROR, FATAL, PANIC, WARNING, NOTICE, …
    pub severity: String,
    pub sqlstate: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

struct Extra<'a>(&'static str, Option<&'a str>);

impl fmt::Display for Extra<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.map_or(Ok(()), |text| write!(f, "{}{text}", self.0))
    }
}

/// Several errors, each with its causes: a chain has room for one alone.
struct Causes<'a>(&'a [Error], &'a Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().chain([self.1]).enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "; " })?;
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                write!(f, ": {inner}")?;
                cause = inner.source();
            }
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot connect to {endpoint}")]
    Connect { endpoint: Endpoint, source: io::Error },
    #[error("{endpoint} has no address")]
    NoAddress { endpoint: Endpoint },
    #[error("no TLS connection to {endpoint}")]
    Tls { endpoint: Endpoint, source: Box<TlsError> },
    #[error("{endpoint} refuses the connection")]
    Refused { endpoint: Endpoint, source: Box<ServerError> },
    #[error("{endpoint} wants a password and none was given")]
    NoPassword { endpoint: Endpoint },
    #[error("{endpoint} asks for {method} authentication, which is not supported")]
    AuthMethod { endpoint: Endpoint, method: &'static str },
    #[error("{endpoint} could not prove that it knows the password")]
    ServerProof { endpoint: Endpoint, source: io::Error },
    #[error("channel_binding=require, and {endpoint} does not offer it")]
    NoChannelBinding { endpoint: Endpoint },
    #[error("{endpoint} is not a {wanted} server")]
    WrongRole { endpoint: Endpoint, wanted: &'static str },
    /// Another server went on without it.
    #[error("{endpoint} is on timeline {found}, and {newest} is known: it was left behind")]
    LeftBehind { endpoint: Endpoint, found: Timeline, newest: Timeline },
    #[error("no host could be used: {}", Causes(others, last))]
    EveryHost { last: Box<Error>, others: Vec<Error> },
    #[error("no answer within {} s while {doing}", after.as_secs_f32())]
    TimedOut { doing: &'static str, after: Duration },
    #[error("the connection broke while {doing}")]
    Io { doing: &'static str, source: io::Error },
    #[error("the server closed the connection while {doing}")]
    Closed { doing: &'static str },
    #[error("the server refuses {command}")]
    Server { command: &'static str, source: Box<ServerError> },
    #[error("the server refuses to stream timeline {timeline} from {position}")]
    StartRefused { timeline: Timeline, position: Lsn, source: Box<ServerError> },
    #[error("the stream jumps: expected {expected}, found {found}")]
    Discontinuous { expected: Lsn, found: Lsn },
    #[error(
        "timeline {timeline} ended at {position}, and the next is said to be timeline {next} from {start}"
    )]
    BadSwitch { timeline: Timeline, position: Lsn, next: Timeline, start: Lsn },
    #[error("expected {expected}, found {found}")]
    Unexpected { expected: &'static str, found: String },
    #[error("{endpoint} allows no replication: max_wal_senders = 0, wal_level = {wal_level}")]
    NoWalSenders { endpoint: Endpoint, wal_level: String },
    #[error("somebody streams from slot {slot}, and what they write does not reach this archive")]
    SlotHeld { slot: String },
    #[error("PostgreSQL {found} is older than 14")]
    TooOld { found: String },
    #[error("{name:?} is not a slot name (1 to 63 of a-z, 0-9 and _)")]
    SlotName { name: String },
    #[error("a rate of {kilobytes} kB/s (32 to 1048576, or 0 for none)")]
    MaxRate { kilobytes: u32 },
}

impl Error {
    pub fn class(&self) -> Class {
        match self {
            Self::Connect { .. } | Self::NoAddress { .. } | Self::TimedOut { .. } => Class::Retry,
            Self::Closed { .. } | Self::WrongRole { .. } | Self::LeftBehind { .. } => Class::Retry,
            Self::Tls { source, .. } => source.class(),
            Self::Io { source, .. } => {
                TlsError::inside(source).map_or(Class::Retry, |()| Class::Config)
            }
            Self::Refused { source, .. } | Self::Server { source, .. } => source.class(),
            Self::NoPassword { .. } | Self::AuthMethod { .. } | Self::ServerProof { .. } => {
                Class::Config
            }
            Self::NoChannelBinding { .. } | Self::TooOld { .. } => Class::Config,
            Self::SlotName { .. } | Self::MaxRate { .. } => Class::Config,
            // One host that may come back is reason enough to try them all again.
            Self::EveryHost { last, others } => others
                .iter()
                .map(Self::class)
                .find(|class| class.is_retryable())
                .unwrap_or_else(|| last.class()),
            Self::NoWalSenders { .. } => Class::Prerequisite,
            Self::SlotHeld { .. } => Class::SlotInUse,
            Self::StartRefused { .. } => Class::PositionRefused,
            Self::Discontinuous { .. } | Self::BadSwitch { .. } | Self::Unexpected { .. } => {
                Class::Protocol
            }
        }
    }

    pub fn is_retryable(&self) -> bool {
        self.class().is_retryable()
    }

    /// Whether a server answered and is no primary, or one that a promotion has left behind: what is
    /// waited for is its own promotion.
    pub fn is_standby(&self) -> bool {
        match self {
            Self::WrongRole { wanted, .. } => matches!(*wanted, "primary" | "read-write"),
            Self::LeftBehind { .. } => true,
            Self::EveryHost { last, others } => {
                last.is_standby() || others.iter().any(Self::is_standby)
            }
            _ => false,
        }
    }

    /// What the server itself answered, if it did.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            Self::Refused { source, .. }
            | Self::Server { source, .. }
            | Self::StartRefused { source, .. } => Some(source.sqlstate),
            Self::EveryHost { last, .. } => last.sqlstate(),
            _ => None,
        }
    }

    /// Whether no connection came about, rather than a command being refused on one.
    pub const fn is_connecting(&self) -> bool {
        !matches!(self, Self::Server { .. } | Self::StartRefused { .. })
    }

    /// Whether a certificate or the agreement on TLS failed.
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Tls { .. } => true,
            Self::Io { source, .. } => TlsError::inside(source).is_some(),
            Self::EveryHost { last, .. } => last.is_tls(),
            _ => false,
        }
    }

    pub(crate) fn unexpected(expected: &'static str, found: impl fmt::Display) -> Self {
        Self::Unexpected { expected, found: found.to_string() }
    }
}

impl ServerError {
    pub fn class(&self) -> Class {
        self.sqlstate.class()
    }

    /// What an ErrorResponse or a NoticeResponse says.
    pub fn from_fields(mut fields: ErrorFields<'_>) -> Self {
        let mut error = Self {
            severity: String::new(),
            sqlstate: SqlState::INTERNAL,
            message: String::new(),
            detail: None,
            hint: None,
        };
        // A field that cannot be read ends the list: what was read before it still helps.
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'V' => error.severity = text,
                b'S' if error.severity.is_empty() => error.severity = text,
                b'C' => error.sqlstate = SqlState::parse(&text).unwrap_or(SqlState::INTERNAL),
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        error
    }
}

impl SqlState {
    pub const INTERNAL: Self = Self(*b"XX000");
    pub const DATA_CORRUPTED: Self = Self(*b"XX001");
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    pub const UNDEFINED_FILE: Self = Self(*b"58P01");

    pub fn parse(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }

    /// Names as in errcodes.txt.
    pub fn class(self) -> Class {
        match &self.0 {
            b"55006" => Class::SlotInUse,               // object_in_use
            b"42704" => Class::NoSuchSlot,              // undefined_object
            b"42710" => Class::SlotExists,              // duplicate_object
            b"53400" => Class::NoFreeSlot,              // configuration_limit_exceeded
            b"55000" => Class::Prerequisite,            // object_not_in_prerequisite_state
            b"58P01" => Class::WalRemoved,              // undefined_file
            b"42501" => Class::Permission,              // insufficient_privilege
            b"XX001" | b"XX002" => Class::DamagedPages, // data_corrupted, index_corrupted
            b"08P01" => Class::Protocol,                // protocol_violation
            [b'2', b'8', ..] => Class::Config,          // authorization
            [b'0', b'A', ..] | [b'2', b'2', ..] | [b'3', b'D', ..] => Class::Config,
            [b'4', b'2', ..] => Class::Config, // syntax, unknown names
            _ => Class::Retry, // connections, resources, shutdown, I/O of the server, the unknown
        }
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_comes_from_the_sqlstate_alone() {
        for (state, class) in [
            ("28P01", Class::Config),
            ("28000", Class::Config),
            ("3D000", Class::Config),
            ("0A000", Class::Config),
            ("22023", Class::Config),
            ("42601", Class::Config),
            ("42501", Class::Permission),
            ("42704", Class::NoSuchSlot),
            ("42710", Class::SlotExists),
            ("53300", Class::Retry),
            ("53400", Class::NoFreeSlot),
            ("55000", Class::Prerequisite),
            ("55006", Class::SlotInUse),
            ("57P01", Class::Retry),
            ("57P03", Class::Retry),
            ("58P01", Class::WalRemoved),
            ("XX001", Class::DamagedPages),
        ] {
            assert_eq!(SqlState::parse(state).expect("five characters").class(), class, "{state}");
        }
    }

    #[test]
    fn only_waiting_helps_only_where_waiting_can_help() {
        assert!(Class::Retry.is_retryable() && Class::SlotInUse.is_retryable());
        for class in [Class::Config, Class::WalRemoved, Class::PositionRefused, Class::NoSuchSlot] {
            assert!(!class.is_retryable(), "{class:?}");
        }
    }
}
