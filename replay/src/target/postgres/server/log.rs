//! What a server writes to its log: kept in a file, read for what went wrong.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::target::postgres::RestoreError;

/// So much of a log's end is looked at.
const READ_MAX: u64 = 4 << 20;
/// So many lines are shown.
const LINES_MAX: usize = 12;
/// Words of lines that say why something ended (elog.c, `error_severity`), and our own.
const TELLING: [&str; 6] =
    ["FATAL:  ", "PANIC:  ", "ERROR:  ", "DETAIL:  ", "HINT:  ", "pitr wal-fetch: "];

/// The log of one run of a server.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// Where this run's lines begin.
    from: u64,
}

impl Log {
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, RestoreError> {
        let log = Self { path: path.to_owned(), from: 0 };
        let length = log.writer()?.metadata().map_or(0, |meta| meta.len());
        Ok(Self { from: length, ..log })
    }

    /// The file, to be written at its end.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn writer(&self) -> Result<File, RestoreError> {
        let opened = OpenOptions::new().create(true).append(true).open(&self.path);
        let path = self.path.clone();
        opened.map_err(|source| RestoreError::Io { action: "opening", path, source })
    }

    /// What this run has written, or the end of it.
    pub fn text(&self) -> String {
        let read = || {
            let mut file = File::open(&self.path)?;
            let from = file.metadata()?.len().saturating_sub(READ_MAX).max(self.from);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(READ_MAX).read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    /// The last lines that tell why something failed.
    pub fn failures(&self) -> Vec<String> {
        let text = self.text();
        let telling = |line: &&str| TELLING.iter().any(|word| line.contains(word));
        let noise = |line: &&str| {
            line.contains("the database system is ") || line.contains("is not part of the plan")
        };
        let mut lines: Vec<&str> =
            text.lines().filter(|line| telling(line) && !noise(line)).collect();
        if lines.is_empty() {
            lines = text.lines().collect();
        }
        let shown = lines.len().saturating_sub(LINES_MAX);
        lines[shown..].iter().map(|line| (*line).to_owned()).collect()
    }

    /// Settings that the log's server had more of than this one, as recovery says it
    /// (xlogrecovery.c, `RecoveryRequiresIntParameter`).
    pub fn insufficient(&self) -> Vec<(String, u64)> {
        self.text().lines().filter_map(insufficient_in).collect()
    }

    /// Where recovery says that it stopped: before or after which position.
    pub fn stopped_at(&self) -> Option<(bool, proto::postgres::lsn::Lsn)> {
        self.text().lines().rev().find_map(|line| {
            let (_, rest) = line.split_once("recovery stopping ")?;
            let (side, rest) = rest.split_once(" WAL location (LSN) \"")?;
            let lsn = rest.split('"').next()?.parse().ok()?;
            Some((side == "after", lsn))
        })
    }
}

fn insufficient_in(line: &str) -> Option<(String, u64)> {
    let (_, rest) = line.split_once("DETAIL:  ")?;
    let (name, rest) = rest.split_once(" = ")?;
    let (_, rest) =
        rest.split_once("is a lower setting than on the primary server, where its value was ")?;
    Some((name.to_owned(), rest.trim_end_matches('.').parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> (tempfile::TempDir, Log) {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("log");
        std::fs::write(&path, text).expect("written");
        (folder, Log { path, from: 0 })
    }

    #[test]
    fn what_the_server_says_is_understood() {
        let (_folder, log) =
            log("x LOG:  recovery stopping before WAL location (LSN) \"0/3000148\"\n\
             x FATAL:  recovery aborted because of insufficient parameter settings\n\
             x DETAIL:  max_connections = 10 is a lower setting than on the primary server, where \
             its value was 100.\nx FATAL:  the database system is starting up\n");
        assert_eq!(log.stopped_at(), Some((false, proto::postgres::lsn::Lsn(0x0300_0148))));
        assert_eq!(log.insufficient(), [("max_connections".to_owned(), 100)]);
        assert_eq!(log.failures().len(), 2);
    }
}
