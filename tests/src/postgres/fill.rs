//! Writing a known amount of log, fast.

use anyhow::Result;
use proto::postgres::lsn::Lsn;

use super::Cluster;

impl Cluster {
    /// Writes at least this many MiB of log in messages of 1 MB, commits, and gives the position
    /// behind them. Nothing compresses them but the fact that each is one text repeated.
    pub fn fill_log(&self, mebibytes: u32) -> Result<Lsn> {
        self.sql(&format!(
            "SELECT count(pg_logical_emit_message(true, 'fill', repeat(md5(i::text), 32768))) \
             FROM generate_series(1, {mebibytes}) i"
        ))?;
        self.flush_position()
    }

    /// A table with a row for each call: something to count and to hash.
    pub fn add_rows(&self, rows: u32) -> Result<Lsn> {
        self.sql(&format!(
            "CREATE TABLE IF NOT EXISTS kept (id bigserial PRIMARY KEY, v text); \
             INSERT INTO kept (v) SELECT md5(random()::text) FROM generate_series(1, {rows})"
        ))?;
        self.flush_position()
    }

    /// The slot's restart_lsn; `None` when there is no such slot or it holds nothing.
    pub fn slot_restart(&self, slot: &str) -> Result<Option<Lsn>> {
        let query = format!(
            "SELECT coalesce(restart_lsn::text, '') FROM pg_replication_slots \
             WHERE slot_name = '{slot}'"
        );
        let rows = self.query("postgres", &query)?;
        let text = rows.first().and_then(|row| row.first()).filter(|text| !text.is_empty());
        Ok(text.map(|text| text.parse()).transpose()?)
    }
}
