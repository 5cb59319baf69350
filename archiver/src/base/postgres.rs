//! A PostgreSQL server as the source of a base.
//!
//! Enters: how to connect. Leaves: the server's facts and its BASE_BACKUP as the writer's events.
//! All connections go to the host that the first one found: several hosts of one address may be in
//! different states.

use std::collections::BTreeMap;

use async_trait::async_trait;

use proto::archive::base::{self, DamagedPage};
use proto::timestamp::Timestamp;

use super::config_files;
use super::error::{Class, SourceError};
use super::source::{Backup, Checkpoint, Event, Facts, Request, Source, Start};
use crate::source::postgres as pg;

/// A server to take a base from.
pub struct PostgresSource {
    options: pg::ConnectOptions,
    /// Connected by `facts`, used by `begin`.
    session: Option<pg::Session>,
}

impl PostgresSource {
    pub const fn new(options: pg::ConnectOptions) -> Self {
        Self { options, session: None }
    }

    /// Connects, and stays with the host that was found.
    async fn connect(&mut self) -> Result<pg::Session, pg::Error> {
        let session = pg::Session::connect(&self.options).await?;
        self.options.endpoints = vec![session.server().endpoint.clone()];
        Ok(session)
    }

    async fn ask(&mut self) -> Result<Facts, pg::Error> {
        let mut session = self.connect().await?;
        let identity = session.identify().await?;
        let server = session.server();
        let (version_num, segment_size) = (server.version, server.segment_size);
        let checksums = session.show("data_checksums").await? == "on";
        let (settings, config_files) = match by_sql(&self.options).await? {
            Some(mut sql) => {
                let settings = settings(&mut sql).await?;
                sql.close().await;
                (settings, config_files::read(&self.options).await?)
            }
            None => (shown_settings(&mut session).await?, BTreeMap::new()),
        };
        self.session = Some(session);
        let system_identifier = identity.system_id.to_string();
        Ok(Facts {
            version_num,
            system_identifier,
            segment_size,
            checksums,
            settings,
            config_files,
        })
    }
}

/// An SQL connection; `None` where this role is let in for replication alone.
async fn by_sql(options: &pg::ConnectOptions) -> Result<Option<pg::SqlSession>, pg::Error> {
    match pg::SqlSession::connect(options).await {
        Ok(sql) => Ok(Some(sql)),
        Err(error) if matches!(error.class(), pg::Class::Config | pg::Class::Permission) => {
            tracing::debug!(%error, "no SQL: what a base must know is asked otherwise");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What a copy needs at least as much of as its origin, over the replication protocol.
async fn shown_settings(session: &mut pg::Session) -> Result<BTreeMap<String, String>, pg::Error> {
    let mut settings = BTreeMap::new();
    for name in pg::sql::HOT_STANDBY {
        settings.insert(name.to_owned(), session.show(name).await?);
    }
    Ok(settings)
}

/// What is not at its default, and what a copy needs at least as much of as its origin, even where
/// the origin is at the default.
async fn settings(sql: &mut pg::SqlSession) -> Result<BTreeMap<String, String>, pg::Error> {
    let needed = sql.settings().await?.hot_standby;
    let mut settings: BTreeMap<String, String> =
        needed.into_iter().map(|(name, value)| (name, value.to_string())).collect();
    for changed in sql.changed_settings().await? {
        if let Some(value) = changed.value {
            settings.insert(changed.name, value);
        }
    }
    Ok(settings)
}

#[async_trait]
impl Source for PostgresSource {
    async fn facts(&mut self) -> Result<Facts, SourceError> {
        Ok(self.ask().await?)
    }

    /// On a connection of its own: an idle one may be closed while hours of backup go by.
    async fn clock(&mut self) -> Result<Timestamp, SourceError> {
        let Some(mut sql) = by_sql(&self.options).await? else {
            return Ok(pg::clock::of_stream(&self.options).await?);
        };
        let clock = sql.position().await?.clock;
        sql.close().await;
        Ok(clock)
    }

    async fn begin(&mut self, request: &Request) -> Result<Box<dyn Backup>, SourceError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.connect().await?,
        };
        let checkpoint = match request.checkpoint {
            Checkpoint::Fast => pg::Checkpoint::Fast,
            Checkpoint::Spread => pg::Checkpoint::Spread,
        };
        let max_rate = request.max_rate.map(pg::MaxRate::kilobytes).transpose()?;
        let label = request.label.clone();
        let stream = session.base_backup(&pg::BackupOptions { label, checkpoint, max_rate })?;
        Ok(Box::new(PostgresBackup { stream, damaged: None }))
    }
}

struct PostgresBackup {
    stream: pg::BackupStream,
    /// To be told behind the end.
    damaged: Option<Vec<DamagedPage>>,
}

#[async_trait]
impl Backup for PostgresBackup {
    async fn next(&mut self) -> Result<Option<Event>, SourceError> {
        if let Some(pages) = self.damaged.take() {
            return Ok(Some(Event::Damaged(pages)));
        }
        let Some(event) = self.stream.next().await? else { return Ok(None) };
        Ok(Some(match event {
            pg::BackupEvent::Start { position, timeline, tablespaces, kilobytes } => {
                Event::Start(Start {
                    start: position,
                    timeline,
                    tablespaces: tablespaces.into_iter().map(tablespace).collect(),
                    expected_bytes: kilobytes.map(|kilobytes| kilobytes * 1024),
                })
            }
            pg::BackupEvent::Archive { tablespace, .. } => {
                Event::Archive { tablespace: tablespace.map(|tablespace| tablespace.oid) }
            }
            pg::BackupEvent::Data(bytes) => Event::Data(bytes),
            pg::BackupEvent::Progress { bytes } => Event::Progress(bytes),
            pg::BackupEvent::Manifest(bytes) => Event::Manifest(bytes),
            pg::BackupEvent::End { position, timeline, warnings, damage } => {
                self.damaged = damage.map(|damage| damaged_pages(&warnings, &damage));
                Event::End { stop: position, timeline }
            }
        }))
    }
}

fn tablespace(from: pg::Tablespace) -> base::Tablespace {
    let bytes = from.kilobytes.map(|kilobytes| kilobytes * 1024);
    base::Tablespace { oid: from.oid, location: from.location, bytes }
}

/// The server tells of at most five pages a file, in warnings whose words `lc_messages` translates
/// (basebackup.c, `sendFile`); that there is damage at all is told by the SQLSTATE of its last error.
fn damaged_pages(warnings: &[pg::ServerError], damage: &pg::ServerError) -> Vec<DamagedPage> {
    let mut pages: Vec<DamagedPage> = Vec::new();
    for warning in warnings {
        let Some((file, block)) = place(&warning.message) else { continue };
        if block.is_some() || pages.iter().all(|page| page.file != file) {
            pages.push(DamagedPage { file, block, detail: warning.message.clone() });
        }
    }
    if pages.is_empty() {
        let (file, detail) = ("unknown".to_owned(), damage.message.clone());
        pages.push(DamagedPage { file, block: None, detail });
    }
    pages
}

/// The path of a relation's file in a message, and the block: the first number behind the path,
/// where the two checksums follow it (a lone number is how many pages are damaged).
fn place(message: &str) -> Option<(String, Option<u64>)> {
    let mut words = message.split(|c: char| {
        c.is_whitespace() || matches!(c, '"' | '«' | '»' | '“' | '”' | '„' | ',' | ':' | ';')
    });
    let path = words.find(|word| {
        let word = word.trim_start_matches("./");
        ["base/", "global/", "pg_tblspc/"].iter().any(|root| word.starts_with(root))
    })?;
    let numbers: Vec<&str> =
        words.filter(|word| word.contains(|c: char| c.is_ascii_digit())).collect();
    let block = if numbers.len() > 1 { numbers[0].parse().ok() } else { None };
    Some((path.trim_start_matches("./").to_owned(), block))
}

impl From<pg::Error> for SourceError {
    fn from(error: pg::Error) -> Self {
        let class = match error.class() {
            // A file that the server could not find is one that it has removed meanwhile.
            pg::Class::Retry | pg::Class::SlotInUse | pg::Class::WalRemoved => Class::Retry,
            pg::Class::Protocol | pg::Class::PositionRefused => Class::Retry,
            pg::Class::DamagedPages => Class::Damaged,
            _ => Class::Config,
        };
        Self { class, source: Box::new(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_damaged_page_is_found_in_whatever_language_it_is_told() {
        let page = Some(("base/5/16384".to_owned(), Some(3)));
        for message in [
            "checksum verification failed in file \"./base/5/16384\", block 3: calculated 1F2B but expected 1D2C",
            "Prüfsummenüberprüfung fehlgeschlagen in Datei »./base/5/16384«, Block 3: berechnet 1F2B, aber erwartet 1D2C",
        ] {
            assert_eq!(place(message), page, "{message}");
        }
        let total = "file \"./base/5/16384\" has a total of 7 checksum verification failures";
        assert_eq!(place(total), Some(("base/5/16384".to_owned(), None)));
        assert_eq!(place("could not open something"), None);
    }
}
