//! The replication commands that are no stream (src/backend/replication/repl_gram.y).
//!
//! Enters: a replication connection. Leaves: facts about the server, slots, timeline histories, and
//! the stream itself.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use proto::position::ByteCount;
use proto::postgres::lsn::{Lsn, SegmentSize, Timeline};

use super::conn::{Connection, Purpose, Rows};
use super::error::{Error, ServerError};
use super::options::{ConnectOptions, Endpoint};
use super::stream::{StreamOptions, WalStream};

const VERSION_MIN: u32 = 140_000;
/// Since then replication commands take their options in parentheses.
pub(crate) const VERSION_OPTION_LIST: u32 = 150_000;
const SLOT_NAME_BYTES_MAX: usize = 63;

/// The name of a replication slot (slot.c, `ReplicationSlotValidateName`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotName(String);

/// What IDENTIFY_SYSTEM says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's own number, from initdb; a copy of a cluster has the same one.
    pub system_id: u64,
    pub timeline: Timeline,
    /// The end of what is flushed (on a standby: replayed or received).
    pub flushed: Lsn,
}

/// What does not change while a session lasts.
#[derive(Clone, Debug)]
pub struct Server {
    pub endpoint: Endpoint,
    /// 150018 for 15.18.
    pub version: u32,
    pub segment_size: SegmentSize,
    /// Zero: the server never gives up on a silent client.
    pub wal_sender_timeout: Duration,
    pub in_hot_standby: bool,
    /// When the connection was made; [`Session::identify`] asks again.
    pub identity: Identity,
    /// Our walsender's process, as in `pg_stat_replication.pid`.
    pub process_id: i32,
}

/// What READ_REPLICATION_SLOT says of a physical slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPosition {
    /// Nothing before it is kept; absent when the slot reserves nothing.
    pub restart: Option<Lsn>,
    pub timeline: Option<Timeline>,
}

/// A replication connection between commands.
pub struct Session {
    pub(crate) connection: Connection,
    server: Server,
}

impl Session {
    /// Connects and asks what every use needs to know.
    ///
    /// # Errors
    /// When no host can be used, or the server is older than 14.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, Error> {
        let mut connection = Connection::connect(options, Purpose::Replication).await?;
        let version = connection.version();
        if version < VERSION_MIN {
            let found = connection.parameter("server_version").unwrap_or("unknown").to_owned();
            return Err(Error::TooOld { found });
        }
        // Up to 14 the server streams only to who has asked this first (walsender.c).
        let identity = identify(&mut connection).await?;
        let segment_size = show(&mut connection, "wal_segment_size").await?;
        let timeout = show(&mut connection, "wal_sender_timeout").await?;
        let server = Server {
            endpoint: connection.endpoint().clone(),
            version,
            segment_size: segment_size_of(&segment_size)?,
            wal_sender_timeout: parse_duration(&timeout)
                .ok_or_else(|| Error::unexpected("a wal_sender_timeout", &timeout))?,
            in_hot_standby: connection.parameter("in_hot_standby") == Some("on"),
            identity,
            process_id: connection.process_id(),
        };
        Ok(Self { connection, server })
    }

    pub(crate) const fn from_parts(connection: Connection, server: Server) -> Self {
        Self { connection, server }
    }

    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// # Errors
    /// When the server does not answer as every version since 9.4 does.
    pub async fn identify(&mut self) -> Result<Identity, Error> {
        identify(&mut self.connection).await
    }

    /// # Errors
    /// When there is no such setting.
    pub async fn show(&mut self, setting: &str) -> Result<String, Error> {
        show(&mut self.connection, setting).await
    }

    /// Creates a physical slot that holds the log from now on.
    ///
    /// # Errors
    /// `Class::SlotExists` and `Class::NoFreeSlot` are the expected ones.
    pub async fn create_slot(&mut self, slot: &SlotName) -> Result<(), Error> {
        let options = if self.server.version >= VERSION_OPTION_LIST {
            "(RESERVE_WAL)"
        } else {
            "RESERVE_WAL"
        };
        let text = format!("CREATE_REPLICATION_SLOT {slot} PHYSICAL {options}");
        self.connection.query("CREATE_REPLICATION_SLOT", &text).await.map(drop)
    }

    /// # Errors
    /// `Class::NoSuchSlot` and `Class::SlotInUse` are the expected ones.
    pub async fn drop_slot(&mut self, slot: &SlotName) -> Result<(), Error> {
        let text = format!("DROP_REPLICATION_SLOT {slot}");
        self.connection.query("DROP_REPLICATION_SLOT", &text).await.map(drop)
    }

    /// Where a slot stands; `None` without such a slot. PostgreSQL 15 and later: 14 has no such
    /// command; [`super::SqlSession::slot`] answers there.
    ///
    /// # Errors
    /// When the slot is a logical one.
    pub async fn read_slot(&mut self, slot: &SlotName) -> Result<Option<SlotPosition>, Error> {
        const COMMAND: &str = "READ_REPLICATION_SLOT";
        let text = format!("{COMMAND} {slot}");
        let row = one_row(self.connection.query(COMMAND, &text).await?, COMMAND)?;
        if text_of(&row, 0).is_none() {
            return Ok(None);
        }
        let restart = text_of(&row, 1).map(|_| field(&row, 1, "a log position")).transpose()?;
        let timeline = text_of(&row, 2).map(|_| field(&row, 2, "a timeline")).transpose()?;
        Ok(Some(SlotPosition { restart, timeline: timeline.map(Timeline) }))
    }

    /// The history file of a timeline, byte by byte, and its name. Timeline 1 has none.
    ///
    /// # Errors
    /// `Class::WalRemoved` (a missing file) when the server does not have it.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<(String, Bytes), Error> {
        const COMMAND: &str = "TIMELINE_HISTORY";
        let text = format!("{COMMAND} {timeline}");
        let row = one_row(self.connection.query(COMMAND, &text).await?, COMMAND)?;
        let name = field(&row, 0, "the name of a history file")?;
        // Declared bytea before PostgreSQL 15 and text since: raw bytes on the wire in both.
        let content = row.into_iter().nth(1).flatten();
        Ok((name, content.ok_or_else(|| Error::unexpected("a history file", "nothing"))?))
    }

    /// Starts the physical stream. A refusal by the server comes from here or, when it is raised
    /// after the copy began (a position ahead of the server), from the stream's first event.
    /// A timeline that ended exactly here gives a stream whose first event is its end.
    ///
    /// # Errors
    /// `Class::WalRemoved`, `PositionRefused`, `SlotInUse` and `NoSuchSlot` are the expected ones.
    pub async fn start_replication(
        mut self,
        slot: Option<&SlotName>,
        timeline: Timeline,
        start: Lsn,
        options: StreamOptions,
    ) -> Result<WalStream, Error> {
        let slot = slot.map(|slot| format!("SLOT {slot} ")).unwrap_or_default();
        let text = format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}");
        self.connection.queue_query(&text)?;
        WalStream::begin(self.connection, self.server, timeline, start, options).await
    }

    pub async fn close(self) {
        self.connection.close().await;
    }
}

/// The server gives no SQLSTATE of their own to "not in this server's history" and "ahead of the
/// flush position" (walsender.c, `StartReplication`: internal_error), so any internal error there is
/// taken for a refusal of the position: waiting would not help.
pub(crate) fn start_error(source: Box<ServerError>, timeline: Timeline, position: Lsn) -> Error {
    if source.sqlstate == super::error::SqlState::INTERNAL {
        Error::StartRefused { timeline, position, source }
    } else {
        Error::Server { command: "START_REPLICATION", source }
    }
}

pub(super) async fn identify(connection: &mut Connection) -> Result<Identity, Error> {
    const COMMAND: &str = "IDENTIFY_SYSTEM";
    let row = one_row(connection.query(COMMAND, COMMAND).await?, COMMAND)?;
    Ok(Identity {
        system_id: field(&row, 0, "a system identifier")?,
        timeline: Timeline(field(&row, 1, "a timeline")?),
        flushed: field(&row, 2, "a log position")?,
    })
}

/// The timeline that a primary writes, for a connection that does not replicate: it stands in the
/// first eight digits of a segment's name.
pub(super) async fn timeline_by_sql(connection: &mut Connection) -> Result<Timeline, Error> {
    const COMMAND: &str = "SELECT";
    let text = "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())";
    let row = one_row(connection.query(COMMAND, text).await?, COMMAND)?;
    let name: String = field(&row, 0, "a segment's name")?;
    let digits = name.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    digits.map(Timeline).ok_or_else(|| Error::unexpected("a segment's name", name))
}

async fn show(connection: &mut Connection, setting: &str) -> Result<String, Error> {
    let row = one_row(connection.query("SHOW", &format!("SHOW {setting}")).await?, "SHOW")?;
    field(&row, 0, "a setting")
}

fn one_row(sets: Vec<Rows>, command: &'static str) -> Result<Vec<Option<Bytes>>, Error> {
    let rows = sets.into_iter().next().map(|set| set.rows).unwrap_or_default();
    let count = rows.len();
    match rows.into_iter().next() {
        Some(row) if count == 1 => Ok(row),
        _ => Err(Error::unexpected("one row", format!("{count} rows from {command}"))),
    }
}

fn text_of(row: &[Option<Bytes>], index: usize) -> Option<&str> {
    row.get(index)?.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok())
}

pub(crate) fn field<T: FromStr>(
    row: &[Option<Bytes>],
    index: usize,
    expected: &'static str,
) -> Result<T, Error> {
    let text = text_of(row, index).ok_or_else(|| Error::unexpected(expected, "nothing"))?;
    text.parse().map_err(|_| Error::unexpected(expected, format!("{text:?}")))
}

/// `SHOW wal_segment_size` writes a size with its unit: `16MB`.
fn segment_size_of(text: &str) -> Result<SegmentSize, Error> {
    let bytes = parse_bytes(text).and_then(|bytes| SegmentSize::try_from(bytes.0).ok());
    bytes.ok_or_else(|| Error::unexpected("a wal_segment_size", text))
}

/// Sizes as `SHOW` writes them (guc.c, `memory_unit_conversion_table`).
pub fn parse_bytes(text: &str) -> Option<ByteCount> {
    let (value, unit) = split_unit(text)?;
    let shift = match unit {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    value.checked_mul(1 << shift).map(ByteCount)
}

/// Times as `SHOW` writes them (guc.c, `time_unit_conversion_table`); a bare number is 0.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (value, unit) = split_unit(text)?;
    let micros = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        "" if value == 0 => 0,
        _ => return None,
    };
    value.checked_mul(micros).map(Duration::from_micros)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

impl SlotName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=SLOT_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(legal) {
            Ok(Self(name.to_owned()))
        } else {
            Err(Error::SlotName { name: name.to_owned() })
        }
    }
}

impl fmt::Display for SlotName {
    /// Quoted: a name may begin with a digit or be a keyword of the replication grammar.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

impl SlotPosition {
    /// A slot that reserves nothing protects nothing.
    pub const fn protects(&self) -> bool {
        self.restart.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Class;
    use super::*;

    #[test]
    fn a_slot_name_is_what_postgres_allows() {
        for name in ["pitr", "0", "a_b_9"] {
            assert!(name.parse::<SlotName>().is_ok(), "{name}");
        }
        for name in ["", "Pitr", "a-b", "a\"b", &"x".repeat(64)] {
            assert_eq!(name.parse::<SlotName>().expect_err(name).class(), Class::Config);
        }
    }

    #[test]
    fn settings_are_read_with_their_units() {
        assert_eq!(parse_duration("1min"), Some(Duration::from_secs(60)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        assert_eq!(parse_duration("x"), None);
        assert_eq!(parse_bytes("16MB"), Some(ByteCount(16 << 20)));
        assert!(segment_size_of("3MB").is_err());
    }

    #[test]
    fn an_internal_error_at_the_start_is_a_refused_position() {
        let error = |state: &str| {
            Box::new(ServerError {
                severity: "ERROR".into(),
                sqlstate: super::super::error::SqlState::parse(state).expect("a state"),
                message: String::new(),
                detail: None,
                hint: None,
            })
        };
        let class = |state| start_error(error(state), Timeline(1), Lsn(0)).class();
        assert_eq!(class("XX000"), Class::PositionRefused);
        assert_eq!(class("58P01"), Class::WalRemoved);
        assert_eq!(class("55006"), Class::SlotInUse);
    }
}
