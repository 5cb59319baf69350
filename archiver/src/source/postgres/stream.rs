//! The physical stream: the log's bytes, in order and without a hole.
//!
//! Enters: a connection in copy mode. Leaves: [`StreamEvent`]s; reports go back by themselves at a
//! fixed cadence and whenever `report` or a keepalive asks. Nothing is kept: after a crash the next
//! stream starts at the caller's own durable position.
//!
//! The bytes of an event are a part of the read buffer, never a copy.

mod event;

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use postgres_protocol::message::{backend, frontend};
use proto::postgres::lsn::{Lsn, Timeline};
use proto::timestamp::Timestamp;
use tokio::time::Instant;

use super::acknowledged::Acknowledged;
use super::conn::{Connection, Message, row_values};
use super::error::{Error, ServerError};
use super::session::{Server, Session, field, start_error};
use super::wire::{self, CopyMessage, Status};
pub use event::{StreamEvent, StreamOptions};

const DOING: &str = "streaming the log";
const STATUS_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Below this a report would follow on the last one.
const STATUS_INTERVAL_MIN: Duration = Duration::from_millis(20);
const SILENCE_MAX_DEFAULT: Duration = Duration::from_secs(60);
/// A server with a short patience may itself be slow to answer.
const SILENCE_MAX_MIN: Duration = Duration::from_secs(30);
/// A server that is shutting down asks again after every answer (walsender.c, `WalSndDone`); one
/// answer in this time keeps the two from spinning.
const SHUTDOWN_ANSWER_INTERVAL: Duration = Duration::from_millis(100);
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// From this version on a server may send kinds of messages that we do not know.
const VERSION_UNKNOWN_KINDS: u32 = 190_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// The server has sent its CopyDone, or never began to copy.
    Ending {
        next: Option<(Timeline, Lsn)>,
    },
    /// The server has completed the command in the middle of the copy: it is shutting down.
    Stopping,
    Over,
}

pub struct WalStream {
    connection: Connection,
    server: Server,
    options: StreamOptions,
    timeline: Timeline,
    position: Lsn,
    received_any: bool,
    phase: Phase,
    flush: Acknowledged,
    status_interval: Duration,
    silence_max: Duration,
    status_sent: Instant,
    status_due: Instant,
    heard: Instant,
}

impl WalStream {
    /// Reads what the server says to a queued START_REPLICATION.
    pub(crate) async fn begin(
        mut connection: Connection,
        server: Server,
        timeline: Timeline,
        start: Lsn,
        options: StreamOptions,
    ) -> Result<Self, Error> {
        let answer = connection.answer("starting the stream").await?;
        let phase = match answer {
            Message::CopyBoth => Phase::Streaming,
            Message::Other(backend::Message::RowDescription(_)) => Phase::Ending { next: None },
            Message::Other(backend::Message::ErrorResponse(body)) => {
                let source = Box::new(ServerError::from_fields(body.fields()));
                return Err(start_error(source, timeline, start));
            }
            Message::Other(_) => return Err(Error::unexpected("the stream", "another message")),
        };
        let now = Instant::now();
        let timeout = server.wal_sender_timeout;
        let (interval, silence) = if timeout.is_zero() {
            (STATUS_INTERVAL_MAX, SILENCE_MAX_DEFAULT)
        } else {
            (
                (timeout / 6).clamp(STATUS_INTERVAL_MIN, STATUS_INTERVAL_MAX),
                timeout.max(SILENCE_MAX_MIN),
            )
        };
        Ok(Self {
            connection,
            server,
            options,
            timeline,
            position: start,
            received_any: false,
            phase,
            flush: Acknowledged::NOTHING,
            status_interval: interval,
            silence_max: silence,
            status_sent: now,
            status_due: now,
            heard: now,
        })
    }

    /// Where the next byte will be.
    pub const fn position(&self) -> Lsn {
        self.position
    }

    pub const fn timeline(&self) -> Timeline {
        self.timeline
    }

    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// Tells the server at once what is safe. A position never moves back, since the server would
    /// take it as it is (walsender.c, `PhysicalConfirmReceivedLocation`); `NOTHING` takes our word
    /// back and leaves the slot where it is.
    pub fn report(&mut self, flush: Acknowledged) {
        let flush = if flush.position().is_some() && flush.position() < self.flush.position() {
            self.flush
        } else {
            flush
        };
        if flush != self.flush {
            self.flush = flush;
            self.queue_status(false);
        }
    }

    /// Asks for a keepalive: the server's position and clock, at the cost of one round trip.
    pub fn ping(&mut self) {
        self.queue_status(true);
    }

    /// The next event. It may be cancelled at any time: nothing is lost. It has to be called again
    /// without much delay, since it also answers the server.
    pub async fn next(&mut self) -> Result<StreamEvent, Error> {
        loop {
            if matches!(self.phase, Phase::Streaming) && Instant::now() >= self.status_due {
                // After a silence, ask whether anybody is there.
                self.queue_status(self.heard.elapsed() >= self.status_interval);
            }
            if let Some(event) = self.step()? {
                self.push_output().await;
                return Ok(event);
            }
            if self.wait().await? {
                return Ok(StreamEvent::ServerStopped);
            }
        }
    }

    /// Sends the next report when it is due, and reads nothing: for a caller that has to wait before
    /// it can take an event. It may be cancelled at any time.
    pub async fn tend(&mut self) {
        self.push_output().await;
        if !matches!(self.phase, Phase::Streaming) {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(self.status_due).await;
        self.queue_status(false);
        self.push_output().await;
    }

    /// Waits for input or the next report. True: the server has closed in order.
    async fn wait(&mut self) -> Result<bool, Error> {
        let read = poll_fn(|cx| self.connection.poll_input(cx));
        match tokio::time::timeout_at(self.status_due, read).await {
            Ok(Ok(0)) if matches!(self.phase, Phase::Stopping | Phase::Ending { .. }) => {
                self.phase = Phase::Over;
                Ok(true)
            }
            Ok(Ok(0)) => Err(Error::Closed { doing: DOING }),
            Ok(Ok(_)) => {
                self.heard = Instant::now();
                Ok(false)
            }
            Ok(Err(source)) => Err(Error::Io { doing: DOING, source }),
            Err(_) if self.heard.elapsed() >= self.silence_max => {
                Err(Error::TimedOut { doing: DOING, after: self.silence_max })
            }
            Err(_) => {
                if !matches!(self.phase, Phase::Streaming) {
                    self.status_due = Instant::now() + self.status_interval;
                }
                Ok(false)
            }
        }
    }

    /// Hands queued answers to the system if it takes them now.
    async fn push_output(&mut self) {
        if !self.connection.output.is_empty() {
            // An error shows again at the next read.
            poll_fn(|cx| {
                let _ = self.connection.poll_output(cx);
                Poll::Ready(())
            })
            .await;
        }
    }

    /// The next event among what has been read already.
    fn step(&mut self) -> Result<Option<StreamEvent>, Error> {
        while let Some((tag, length)) = self.connection.frame()? {
            let event = if tag == backend::COPY_DATA_TAG {
                self.copy_data(length)?
            } else {
                match self.connection.parse(DOING)? {
                    Some(message) => self.control(message)?,
                    None => None,
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn copy_data(&mut self, length: usize) -> Result<Option<StreamEvent>, Error> {
        match wire::take_copy_message(&mut self.connection.input, length)? {
            CopyMessage::Data { start, wal_end, server_time, bytes } => {
                if start != self.position {
                    return Err(Error::Discontinuous { expected: self.position, found: start });
                }
                self.position = Lsn(self.position.0.saturating_add(bytes.len() as u64));
                self.received_any = true;
                Ok(Some(StreamEvent::Data { start, bytes, wal_end, server_time }))
            }
            CopyMessage::Keepalive { wal_end, server_time, reply_requested } => {
                Ok(Some(self.keepalive(wal_end, server_time, reply_requested)))
            }
            CopyMessage::Empty => Ok(None),
            CopyMessage::Other(_) if self.server.version >= VERSION_UNKNOWN_KINDS => Ok(None),
            CopyMessage::Other(kind) => {
                Err(Error::unexpected("log data or a keepalive", format!("kind {kind:#04x}")))
            }
        }
    }

    fn keepalive(
        &mut self,
        wal_end: Lsn,
        server_time: Timestamp,
        reply_requested: bool,
    ) -> StreamEvent {
        if reply_requested && self.is_early_request(wal_end) {
            // Our next report answers it, now or a moment later; the flush position in it decides
            // whether the server may go.
            self.status_due = self.status_due.min(self.status_sent + SHUTDOWN_ANSWER_INTERVAL);
            return StreamEvent::ShutdownSuspected { wal_end, server_time };
        }
        if reply_requested {
            self.queue_status(false);
        }
        StreamEvent::Keepalive { wal_end, server_time, reply_requested }
    }

    /// A living server asks only after half of wal_sender_timeout without a word from us
    /// (walsender.c, `WalSndKeepaliveIfNecessary`), and we speak at least every sixth.
    fn is_early_request(&self, wal_end: Lsn) -> bool {
        let half = self.server.wal_sender_timeout / 2;
        wal_end <= self.position && (half.is_zero() || self.status_sent.elapsed() < half)
    }

    fn control(&mut self, message: Message) -> Result<Option<StreamEvent>, Error> {
        use backend::Message as Backend;
        let Message::Other(message) = message else {
            return Err(Error::unexpected("log data", "another copy"));
        };
        match (message, self.phase) {
            (Backend::CopyDone, Phase::Streaming) => {
                frontend::copy_done(&mut self.connection.output);
                self.phase = Phase::Ending { next: None };
            }
            (Backend::CommandComplete(_), Phase::Streaming) => self.phase = Phase::Stopping,
            (Backend::RowDescription(_) | Backend::CommandComplete(_), Phase::Ending { .. }) => {}
            (Backend::DataRow(body), Phase::Ending { .. }) => {
                let row = row_values(&body, DOING)?;
                let next = Timeline(field(&row, 0, "the next timeline")?);
                let start = field(&row, 1, "the position where it begins")?;
                self.phase = Phase::Ending { next: Some((next, start)) };
            }
            (Backend::ReadyForQuery(_), Phase::Ending { next }) => {
                self.phase = Phase::Over;
                return self.ended(next).map(Some);
            }
            (Backend::ErrorResponse(body), _) => {
                let source = Box::new(ServerError::from_fields(body.fields()));
                return Err(if self.received_any {
                    Error::Server { command: "START_REPLICATION", source }
                } else {
                    start_error(source, self.timeline, self.position)
                });
            }
            (_, phase) => {
                return Err(Error::unexpected(
                    "log data",
                    format!("another message while {phase:?}"),
                ));
            }
        }
        Ok(None)
    }

    /// As pg_receivewal checks it (receivelog.c, `ReceiveXlogStream`). The next timeline may skip
    /// numbers, and may begin before our position: in the middle of a record we hold half of.
    fn ended(&self, next: Option<(Timeline, Lsn)>) -> Result<StreamEvent, Error> {
        match next {
            Some((next, start)) if next <= self.timeline || start > self.position => {
                Err(Error::BadSwitch {
                    timeline: self.timeline,
                    position: self.position,
                    next,
                    start,
                })
            }
            next => Ok(StreamEvent::Ended { next }),
        }
    }

    fn queue_status(&mut self, reply_requested: bool) {
        if !matches!(self.phase, Phase::Streaming) {
            return;
        }
        let flush = self.flush.position().unwrap_or_default();
        let write = if self.options.write_follows_flush { flush } else { self.position };
        let status = Status { write, flush, now: self.options.clock.wall(), reply_requested };
        status.encode(&mut self.connection.output);
        self.status_sent = Instant::now();
        self.status_due = self.status_sent + self.status_interval;
    }

    /// The connection, for the next command, once the stream has [`StreamEvent::Ended`].
    pub fn into_session(self) -> Option<Session> {
        let over = matches!(self.phase, Phase::Over);
        over.then(|| Session::from_parts(self.connection, self.server))
    }

    /// Ends the stream from our side and closes the connection in order, dropping what is under
    /// way: the slot keeps it.
    pub async fn close(mut self) {
        frontend::copy_done(&mut self.connection.output);
        // Without reading on, closing would reset the connection and the server might still wait
        // for room to write in.
        let drained = tokio::time::timeout(CLOSE_MAX, async {
            while !matches!(
                self.connection.message(DOING).await,
                Err(_) | Ok(Message::Other(backend::Message::ReadyForQuery(_)))
            ) {}
        });
        let _ = drained.await;
        let _ = tokio::time::timeout(CLOSE_MAX, self.connection.close()).await;
    }
}
