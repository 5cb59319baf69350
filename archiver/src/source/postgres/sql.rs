//! The questions that only plain SQL answers, over the same hosts, TLS and password as the stream.
//!
//! Enters: options. Leaves: facts. A role with REPLICATION and `pg_monitor` can ask all of them; what
//! it may not see is `None`, never a guess.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use proto::position::ByteCount;
use proto::postgres::lsn::Lsn;
use proto::timestamp::Timestamp;

use super::conn::{Connection, Purpose};
use super::error::{Class, Error};
use super::options::ConnectOptions;
use super::session::SlotName;

/// Settings whose values may hold passwords; only that they are set is told.
const SECRET: [&str; 6] = [
    "primary_conninfo",
    "archive_command",
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "ssl_passphrase_command",
];

/// What a hot standby needs at least as much of as its primary (xlog.c,
/// `CheckRequiredParameterValues`).
pub const HOT_STANDBY: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// pg_replication_slots.wal_status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    Reserved,
    Extended,
    /// Beyond max_slot_wal_keep_size: the next checkpoint may remove what we need.
    Unreserved,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    pub restart: Option<Lsn>,
    pub active: bool,
    pub active_pid: Option<i32>,
    pub status: Option<WalStatus>,
    /// Bytes that may still be written before the slot can be lost; `None` without a limit.
    pub safe: Option<i64>,
}

/// pg_stat_replication.sync_state of one walsender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncState {
    Async,
    /// Would become synchronous if one before it left.
    Potential,
    /// Commits wait for it.
    Sync,
    Quorum,
}

/// Where the server is. On a standby nothing is written, so `written` is what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPosition {
    pub in_recovery: bool,
    pub written: Option<Lsn>,
    /// Flushed; on a standby replayed.
    pub flushed: Option<Lsn>,
    pub clock: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub wal_level: String,
    pub wal_sender_timeout: Duration,
    pub wal_writer_delay: Duration,
    /// `None`: slots hold the log without a limit.
    pub max_slot_wal_keep_size: Option<ByteCount>,
    pub data_checksums: bool,
    pub full_page_writes: bool,
    pub synchronous_standby_names: String,
    /// What a hot standby needs at least as much of as its primary (RECOVERY.md).
    pub hot_standby: BTreeMap<String, i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaRule {
    pub kind: String,
    pub databases: String,
    pub users: String,
    pub address: Option<String>,
    pub method: String,
    pub error: Option<String>,
}

/// A setting that is not at its default; the value is `None` where it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedSetting {
    pub name: String,
    pub value: Option<String>,
    pub source: String,
}

pub struct SqlSession {
    connection: Connection,
}

type Row = Vec<Option<Bytes>>;

impl SqlSession {
    /// # Errors
    /// When no host can be used.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, Error> {
        Ok(Self { connection: Connection::connect(options, Purpose::Sql).await? })
    }

    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    pub async fn close(self) {
        self.connection.close().await;
    }

    /// # Errors
    /// When the connection or the query fails, as for all that follow.
    pub async fn slot(&mut self, slot: &SlotName) -> Result<Option<SlotState>, Error> {
        let text = format!(
            "SELECT restart_lsn, active, active_pid, wal_status, safe_wal_size \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            literal(slot.as_str())
        );
        let rows = self.rows("reading the slot", &text).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(SlotState {
            restart: optional(row, 0)?,
            active: boolean(row, 1)?,
            active_pid: optional(row, 2)?,
            status: optional(row, 3)?,
            safe: optional(row, 4)?,
        }))
    }

    pub async fn position(&mut self) -> Result<ServerPosition, Error> {
        // CASE keeps the functions that do not work in the other state from being called.
        let row = self
            .row(
                "reading the server's position",
                "SELECT r, CASE WHEN r THEN pg_catalog.pg_last_wal_receive_lsn() \
                           ELSE pg_catalog.pg_current_wal_lsn() END, \
                        CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() \
                           ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
                        (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint \
                 FROM pg_catalog.pg_is_in_recovery() AS r",
            )
            .await?;
        Ok(ServerPosition {
            in_recovery: boolean(&row, 0)?,
            written: optional(&row, 1)?,
            flushed: optional(&row, 2)?,
            clock: Timestamp(required(&row, 3)?),
        })
    }

    /// How the server counts a walsender of ours; `None` when it is gone or may not be seen.
    pub async fn sync_state(&mut self, pid: i32) -> Result<Option<SyncState>, Error> {
        let text =
            format!("SELECT sync_state FROM pg_catalog.pg_stat_replication WHERE pid = {pid}");
        let rows = self.rows("reading the synchronous state", &text).await?;
        rows.first().map_or(Ok(None), |row| optional(row, 0))
    }

    pub async fn show(&mut self, setting: &str) -> Result<String, Error> {
        required(&self.row("reading a setting", &format!("SHOW {setting}")).await?, 0)
    }

    pub async fn settings(&mut self) -> Result<Settings, Error> {
        let text = "SELECT name, setting FROM pg_catalog.pg_settings";
        let rows = self.rows("reading settings", text).await?;
        let all: BTreeMap<String, String> = rows
            .iter()
            .map(|row| Ok((required(row, 0)?, optional(row, 1)?.unwrap_or_default())))
            .collect::<Result<_, Error>>()?;
        let get = |name: &'static str| {
            all.get(name).cloned().ok_or_else(|| Error::unexpected(name, "no such setting"))
        };
        // pg_settings.setting counts in base units: milliseconds for these, MB for the size.
        let number = |name| -> Result<i64, Error> {
            let text = get(name)?;
            text.parse().map_err(|_| Error::unexpected("a number", format!("{name} = {text:?}")))
        };
        let millis = |name| Ok::<_, Error>(Duration::from_millis(number(name)?.unsigned_abs()));
        let keep = number("max_slot_wal_keep_size")?;
        Ok(Settings {
            wal_level: get("wal_level")?,
            wal_sender_timeout: millis("wal_sender_timeout")?,
            wal_writer_delay: millis("wal_writer_delay")?,
            max_slot_wal_keep_size: u64::try_from(keep).ok().map(|mb| ByteCount(mb << 20)),
            data_checksums: get("data_checksums")? == "on",
            full_page_writes: get("full_page_writes")? == "on",
            synchronous_standby_names: get("synchronous_standby_names")?,
            hot_standby: HOT_STANDBY
                .into_iter()
                .map(|name| Ok((name.to_owned(), number(name)?)))
                .collect::<Result<_, Error>>()?,
        })
    }

    /// Settings that somebody has changed, for the record of a base.
    pub async fn changed_settings(&mut self) -> Result<Vec<ChangedSetting>, Error> {
        let text = "SELECT name, setting, source FROM pg_catalog.pg_settings \
                    WHERE source NOT IN ('default', 'override', 'client', 'session') ORDER BY name";
        let rows = self.rows("reading settings", text).await?;
        rows.iter()
            .map(|row| {
                let name: String = required(row, 0)?;
                let value = if SECRET.contains(&name.as_str()) { None } else { optional(row, 1)? };
                Ok(ChangedSetting { name, value, source: required(row, 2)? })
            })
            .collect()
    }

    /// The rules of pg_hba.conf, or `None` when this role may not read them.
    pub async fn hba_rules(&mut self) -> Result<Option<Vec<HbaRule>>, Error> {
        let text = "SELECT coalesce(type, ''), coalesce(array_to_string(database, ','), ''), \
                           coalesce(array_to_string(user_name, ','), ''), address, \
                           coalesce(auth_method, ''), error \
                    FROM pg_catalog.pg_hba_file_rules ORDER BY line_number";
        let rows = match self.rows("reading pg_hba.conf", text).await {
            Err(error) if error.class() == Class::Permission => return Ok(None),
            rows => rows?,
        };
        rows.iter()
            .map(|row| {
                Ok(HbaRule {
                    kind: required(row, 0)?,
                    databases: required(row, 1)?,
                    users: required(row, 2)?,
                    address: optional(row, 3)?,
                    method: required(row, 4)?,
                    error: optional(row, 5)?,
                })
            })
            .collect::<Result<_, Error>>()
            .map(Some)
    }

    /// Names this moment in the log. The position is where the named record ends.
    pub async fn create_restore_point(&mut self, name: &str) -> Result<Lsn, Error> {
        let text = format!("SELECT pg_catalog.pg_create_restore_point({})", literal(name));
        required(&self.row("creating a restore point", &text).await?, 0)
    }

    /// Ends the current segment.
    pub async fn switch_wal(&mut self) -> Result<Lsn, Error> {
        required(&self.row("switching the segment", "SELECT pg_catalog.pg_switch_wal()").await?, 0)
    }

    async fn rows(&mut self, doing: &'static str, text: &str) -> Result<Vec<Row>, Error> {
        let sets = self.connection.query(doing, text).await?;
        Ok(sets.into_iter().next().map(|set| set.rows).unwrap_or_default())
    }

    async fn row(&mut self, doing: &'static str, text: &str) -> Result<Row, Error> {
        let rows = self.rows(doing, text).await?;
        rows.into_iter().next().ok_or_else(|| Error::unexpected("one row", "none"))
    }
}

fn optional<T: FromStr>(row: &Row, index: usize) -> Result<Option<T>, Error> {
    let Some(bytes) = row.get(index).and_then(Option::as_ref) else { return Ok(None) };
    let text = String::from_utf8_lossy(bytes);
    text.parse().map(Some).map_err(|_| Error::unexpected("another value", format!("{text:?}")))
}

fn required<T: FromStr>(row: &Row, index: usize) -> Result<T, Error> {
    optional(row, index)?.ok_or_else(|| Error::unexpected("a value", "null"))
}

fn boolean(row: &Row, index: usize) -> Result<bool, Error> {
    Ok(required::<String>(row, index)? == "t")
}

/// A literal that means the same whatever standard_conforming_strings says.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

impl FromStr for WalStatus {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "reserved" => Self::Reserved,
            "extended" => Self::Extended,
            "unreserved" => Self::Unreserved,
            "lost" => Self::Lost,
            _ => return Err(()),
        })
    }
}

impl FromStr for SyncState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "async" => Self::Async,
            "potential" => Self::Potential,
            "sync" => Self::Sync,
            "quorum" => Self::Quorum,
            _ => return Err(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn a_literal_is_quoted_for_every_setting_of_the_server() {
        assert_eq!(literal("a"), "'a'");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'"), " E'a\\\\'''");
    }
}
