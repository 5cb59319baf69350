//! Asking a server: through psql, which needs no runtime, or through tokio-postgres.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use proto::postgres::lsn::Lsn;

use super::{Cluster, SUPERUSER};

/// Unlikely in any value, so that values may hold tabs and line ends.
const FIELD: char = '\u{1f}';
const ROW: char = '\u{1e}';

impl Cluster {
    /// psql on the unix socket as the superuser, stopping at the first error.
    pub fn psql_command(&self, database: &str) -> std::process::Command {
        let mut psql = self.tool("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database])
            .arg("-h")
            .arg(self.socket_dir())
            .args(["-p", &self.port().to_string(), "-U", SUPERUSER]);
        psql
    }

    /// Runs a psql script and gives what it printed.
    pub fn psql(&self, database: &str, script: &str) -> Result<String> {
        self.psql_with(database, script, &[])
    }

    fn psql_with(&self, database: &str, script: &str, arguments: &[String]) -> Result<String> {
        let mut psql = self.psql_command(database);
        psql.args(arguments).args(["-f", "-"]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().context("cannot start psql")?;
        let mut input = child.stdin.take().context("its input is a pipe")?;
        let text = script.as_bytes().to_vec();
        // Apart, so that neither side waits for the other; a psql that stopped closes the pipe.
        let writer = std::thread::spawn(move || {
            let _ = input.write_all(&text);
        });
        let output = child.wait_with_output()?;
        let _ = writer.join();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("psql ended with {}: {said}in: {}", output.status, shorten(script));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Statements for the database `postgres`.
    pub fn sql(&self, statements: &str) -> Result<String> {
        self.psql("postgres", statements)
    }

    /// The rows of one query.
    pub fn query(&self, database: &str, query: &str) -> Result<Vec<Vec<String>>> {
        let format = ["-F".into(), FIELD.to_string(), "-R".into(), ROW.to_string()];
        let text = self.psql_with(database, query, &format)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let row = |row: &str| row.split(FIELD).map(str::to_owned).collect();
        Ok(text.split(ROW).map(row).collect())
    }

    /// The one value that a query yields.
    pub fn value(&self, database: &str, query: &str) -> Result<String> {
        let mut rows = self.query(database, query)?;
        match (rows.pop(), rows.is_empty()) {
            (Some(mut row), true) if row.len() == 1 => Ok(row.remove(0)),
            (last, _) => bail!("expected one value, got {last:?} and {} rows: {query}", rows.len()),
        }
    }

    /// A client of its own, for tests inside a runtime. Its connection ends when it is dropped.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client> {
        let url = self.url(SUPERUSER, database);
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a client's connection ended");
            }
        });
        Ok(client)
    }

    /// Where the next record will be written; on a standby, what was replayed.
    pub fn insert_position(&self) -> Result<Lsn> {
        let query = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                     ELSE pg_current_wal_insert_lsn() END";
        Ok(self.value("postgres", query)?.parse()?)
    }

    /// What the server has flushed to its own disk.
    pub fn flush_position(&self) -> Result<Lsn> {
        Ok(self.value("postgres", "SELECT pg_current_wal_flush_lsn()")?.parse()?)
    }

    /// Ends the current segment, and gives the position where it ended.
    pub fn switch_wal(&self) -> Result<Lsn> {
        Ok(self.value("postgres", "SELECT pg_switch_wal()")?.parse()?)
    }

    /// As `pg_controldata` prints it.
    pub fn system_identifier(&self) -> Result<u64> {
        let query = "SELECT system_identifier FROM pg_control_system()";
        Ok(self.value("postgres", query)?.parse()?)
    }

    pub fn timeline(&self) -> Result<u32> {
        Ok(self.value("postgres", "SELECT timeline_id FROM pg_control_checkpoint()")?.parse()?)
    }
}

fn shorten(script: &str) -> String {
    script.chars().take(300).collect()
}
