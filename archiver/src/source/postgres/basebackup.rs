//! BASE_BACKUP: a copy of the whole cluster through the replication protocol, as tar archives.
//!
//! Enters: a session and options. Leaves: [`BackupEvent`]s, the same for both framings: up to
//! version 14 each tablespace is a copy of its own and its tar lacks the end marker, from 15 on
//! everything is one copy of tagged frames (basebackup_copy.c). Nothing is kept here: a backup that
//! breaks off is started again, and it does not exist before its `End`.

use std::collections::VecDeque;

use bytes::Bytes;
use postgres_protocol::message::backend::Message as Backend;
use proto::postgres::lsn::{Lsn, Timeline};

use super::backup_frame::BackupFrame;
use super::backup_options::{BackupOptions, COMMAND};
use super::conn::{Connection, Message, row_values};
use super::error::{Error, ServerError, SqlState};
use super::session::{Server, Session, VERSION_OPTION_LIST, field};

/// Two zero blocks end a tar archive (POSIX pax, "Archive Format").
const TAR_END: &[u8] = &[0; 1024];

/// A tablespace other than the default ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    pub oid: u32,
    pub location: String,
    pub kilobytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupEvent {
    /// The checkpoint is done. Replay of the backup begins at `position`.
    Start {
        position: Lsn,
        timeline: Timeline,
        tablespaces: Vec<Tablespace>,
        /// An estimate of everything, in kilobytes, made as the backup begins.
        kilobytes: Option<u64>,
    },
    /// What follows belongs to this tar archive: `base.tar`, or `<oid>.tar` of a tablespace.
    Archive { name: String, tablespace: Option<Tablespace> },
    /// Bytes of the current archive.
    Data(Bytes),
    /// Bytes sent so far, as the server counts them (15 and later).
    Progress { bytes: u64 },
    /// Bytes of the backup manifest, after all archives.
    Manifest(Bytes),
    /// Everything has been sent. The log up to `position` is needed as well.
    End {
        position: Lsn,
        timeline: Timeline,
        warnings: Vec<ServerError>,
        damage: Option<ServerError>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Position,
    Tablespaces,
    Copy,
    End,
    Over,
}

pub struct BackupStream {
    connection: Connection,
    server: Server,
    phase: Phase,
    start: Option<(Lsn, Timeline)>,
    end: Option<(Lsn, Timeline)>,
    tablespaces: Vec<Tablespace>,
    kilobytes: Option<u64>,
    /// Up to 14: the archives that are still to come, in the order of the list of tablespaces.
    expected: VecDeque<Option<Tablespace>>,
    in_manifest: bool,
    damage: Option<ServerError>,
    ready: VecDeque<BackupEvent>,
}

impl Session {
    /// Begins a base backup on this connection. It never waits for the server's own archiver: the
    /// caller holds the log through its own stream.
    ///
    /// # Errors
    /// When the command cannot be sent; what the server says comes with the events.
    pub fn base_backup(mut self, options: &BackupOptions) -> Result<BackupStream, Error> {
        let text = options.command(self.server().version)?;
        self.connection.queue_query(&text)?;
        let server = self.server().clone();
        // Notices from before belong to nobody here.
        self.connection.take_notices();
        Ok(BackupStream {
            connection: self.connection,
            server,
            phase: Phase::Position,
            start: None,
            end: None,
            tablespaces: Vec::new(),
            kilobytes: None,
            expected: VecDeque::new(),
            in_manifest: false,
            damage: None,
            ready: VecDeque::new(),
        })
    }
}

impl BackupStream {
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// The next event; after `End` there is none. It may be cancelled: nothing is lost. A slow
    /// reader only slows the server down.
    ///
    /// # Errors
    /// When the server gives up, or the connection breaks. Damaged pages are no error: the copy is
    /// complete, and `End` tells of them.
    pub async fn next(&mut self) -> Result<Option<BackupEvent>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.phase == Phase::Over {
                return Ok(None);
            }
            match self.connection.message(COMMAND).await? {
                Message::Other(message) => self.take(message)?,
                Message::CopyBoth => return Err(Error::unexpected("a backup", "a stream")),
            }
        }
    }

    /// The connection, for the next command, once the backup has ended.
    pub fn into_session(self) -> Option<Session> {
        let over = self.phase == Phase::Over;
        over.then(|| Session::from_parts(self.connection, self.server))
    }

    fn take(&mut self, message: Backend) -> Result<(), Error> {
        match (self.phase, message) {
            (_, Backend::ErrorResponse(body)) => {
                self.failed(ServerError::from_fields(body.fields()))
            }
            (Phase::Position, Backend::DataRow(body)) => {
                self.start = Some(position(&row_values(&body, COMMAND)?)?);
                Ok(())
            }
            (Phase::Position, Backend::CommandComplete(_)) => self.enter(Phase::Tablespaces),
            (Phase::Tablespaces, Backend::DataRow(body)) => {
                self.tablespace(&row_values(&body, COMMAND)?)
            }
            (Phase::Tablespaces, Backend::CommandComplete(_)) => self.begin(),
            (Phase::Copy, Backend::CopyOutResponse(_)) => self.next_copy(),
            (Phase::Copy, Backend::CopyData(body)) => self.copy_data(body.into_bytes()),
            (Phase::Copy, Backend::CopyDone) => self.copy_done(),
            (Phase::Copy, Backend::RowDescription(_)) => self.enter(Phase::End),
            (Phase::End, Backend::DataRow(body)) => {
                self.end = Some(position(&row_values(&body, COMMAND)?)?);
                Ok(())
            }
            (Phase::End, Backend::CommandComplete(_)) => Ok(()),
            (Phase::End, Backend::ReadyForQuery(_)) => self.finish(),
            (Phase::Position | Phase::Tablespaces, Backend::RowDescription(_)) => Ok(()),
            (phase, _) => {
                Err(Error::unexpected("a base backup", format!("another message in {phase:?}")))
            }
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "an arm of take()")]
    fn enter(&mut self, phase: Phase) -> Result<(), Error> {
        self.phase = phase;
        Ok(())
    }

    /// Damaged pages are reported after everything has been sent (basebackup.c,
    /// `perform_base_backup`), so the copy is as good as the cluster itself.
    fn failed(&mut self, source: ServerError) -> Result<(), Error> {
        if source.sqlstate == SqlState::DATA_CORRUPTED && self.end.is_some() {
            self.damage = Some(source);
            return Ok(());
        }
        Err(Error::Server { command: COMMAND, source: Box::new(source) })
    }

    fn tablespace(&mut self, row: &[Option<Bytes>]) -> Result<(), Error> {
        let kilobytes = match row.get(2) {
            Some(Some(_)) => Some(field(row, 2, "the size of a tablespace")?),
            _ => None,
        };
        self.kilobytes = kilobytes
            .map(|size: u64| size.saturating_add(self.kilobytes.unwrap_or(0)))
            .or(self.kilobytes);
        if row.first().is_none_or(Option::is_none) {
            self.expected.push_back(None);
            return Ok(());
        }
        let oid = field(row, 0, "the number of a tablespace")?;
        let tablespace =
            Tablespace { oid, location: field(row, 1, "the place of a tablespace")?, kilobytes };
        self.expected.push_back(Some(tablespace.clone()));
        self.tablespaces.push(tablespace);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Error> {
        let (position, timeline) =
            self.start.ok_or_else(|| Error::unexpected("a start", "none"))?;
        let tablespaces = self.tablespaces.clone();
        self.ready.push_back(BackupEvent::Start {
            position,
            timeline,
            tablespaces,
            kilobytes: self.kilobytes,
        });
        self.enter(Phase::Copy)
    }

    const fn tagged(&self) -> bool {
        self.server.version >= VERSION_OPTION_LIST
    }

    fn next_copy(&mut self) -> Result<(), Error> {
        if self.tagged() {
            return Ok(());
        }
        match self.expected.pop_front() {
            Some(tablespace) => {
                let name =
                    tablespace.as_ref().map_or("base.tar".to_owned(), |t| format!("{}.tar", t.oid));
                self.ready.push_back(BackupEvent::Archive { name, tablespace });
            }
            None if self.in_manifest => {
                return Err(Error::unexpected("the end of the backup", "a copy"));
            }
            None => self.in_manifest = true,
        }
        Ok(())
    }

    fn copy_done(&mut self) -> Result<(), Error> {
        if !self.tagged() && !self.in_manifest {
            self.ready.push_back(BackupEvent::Data(Bytes::from_static(TAR_END)));
        }
        Ok(())
    }

    fn copy_data(&mut self, bytes: Bytes) -> Result<(), Error> {
        if !self.tagged() {
            return self.data(bytes);
        }
        match BackupFrame::parse(bytes)? {
            BackupFrame::Empty => {}
            BackupFrame::Data(bytes) => return self.data(bytes),
            BackupFrame::Progress(bytes) => {
                self.ready.push_back(BackupEvent::Progress { bytes });
            }
            BackupFrame::Archive { name, location } => return self.archive(name, &location),
            BackupFrame::Manifest => self.in_manifest = true,
        }
        Ok(())
    }

    fn data(&mut self, bytes: Bytes) -> Result<(), Error> {
        // Frames without content do occur.
        if !bytes.is_empty() {
            let manifest = self.in_manifest;
            self.ready.push_back(if manifest {
                BackupEvent::Manifest(bytes)
            } else {
                BackupEvent::Data(bytes)
            });
        }
        Ok(())
    }

    fn archive(&mut self, name: String, location: &str) -> Result<(), Error> {
        let oid: Option<u32> = name.strip_suffix(".tar").and_then(|stem| stem.parse().ok());
        let tablespace = self.tablespaces.iter().find(|known| Some(known.oid) == oid).cloned();
        if tablespace.is_none() && name != "base.tar" {
            return Err(Error::unexpected(
                "base.tar or a tablespace",
                format!("{name:?} at {location:?}"),
            ));
        }
        self.ready.push_back(BackupEvent::Archive { name, tablespace });
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        let (position, timeline) = self.end.ok_or_else(|| Error::unexpected("an end", "none"))?;
        let warnings = self.connection.take_notices();
        let damage = self.damage.take();
        self.ready.push_back(BackupEvent::End { position, timeline, warnings, damage });
        self.enter(Phase::Over)
    }
}

fn position(row: &[Option<Bytes>]) -> Result<(Lsn, Timeline), Error> {
    Ok((field(row, 0, "a log position")?, Timeline(field(row, 1, "a timeline")?)))
}
