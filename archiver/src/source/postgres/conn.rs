//! One connection to a server: framing and simple queries.
//!
//! Enters: bytes. Leaves: messages and result sets. `poll_input` writes and reads in one place, so
//! waiting for input never keeps an answer back, and every method that waits may be cancelled
//! between messages without losing one.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend;
use postgres_protocol::message::frontend;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::dial::Socket;
use super::error::{Error, ServerError};
use super::options::Endpoint;
use super::wire;
pub(crate) use super::wire::Message;
use crate::source::buffers::Buffers;

/// What one read may take from the socket at most; a walsender message is 128 KiB at most
/// (walsender.c, `MAX_SEND_SIZE`), so one buffer holds several.
pub(super) const READ_BYTES: usize = 512 << 10;
/// A buffer with less room than this left is replaced before the next read.
const READ_BYTES_MIN: usize = 64 << 10;
const NOTICES_MAX: usize = 1000;
/// For commands that the server answers from memory.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The physical replication protocol: `replication=true`.
    Replication,
    /// Plain SQL.
    Sql,
}

/// One result set of a simple query.
#[derive(Debug, Default)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<Bytes>>>,
}

pub struct Connection {
    pub(super) socket: Socket,
    pub(crate) input: BytesMut,
    /// How large its buffer is as a whole.
    pub(super) input_size: usize,
    /// What was read into before it.
    pub(super) buffers: Buffers,
    pub(crate) output: BytesMut,
    pub(super) flush_needed: bool,
    pub(super) endpoint: Endpoint,
    pub(super) parameters: HashMap<String, String>,
    pub(super) notices: Vec<ServerError>,
    pub(super) process_id: i32,
}

impl Connection {
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub const fn process_id(&self) -> i32 {
        self.process_id
    }

    pub const fn is_tls(&self) -> bool {
        self.socket.is_tls()
    }

    pub(crate) fn channel_binding(&self) -> Option<Vec<u8>> {
        self.socket.channel_binding()
    }

    /// A setting the server reports by itself (`ParameterStatus`).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// `server_version` as PostgreSQL counts it: 150018 for 15.18.
    pub fn version(&self) -> u32 {
        self.parameter("server_version").map_or(0, version_number)
    }

    /// Warnings and notices since the last call.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        std::mem::take(&mut self.notices)
    }

    /// The next message that is no notice or parameter. Cancelling it loses nothing.
    pub(crate) async fn message(&mut self, doing: &'static str) -> Result<Message, Error> {
        loop {
            if let Some(message) = self.parse(doing)? {
                return Ok(message);
            }
            let read = poll_fn(|cx| self.poll_input(cx)).await;
            if read.map_err(|source| Error::Io { doing, source })? == 0 {
                return Err(Error::Closed { doing });
            }
        }
    }

    /// The next message, from a server that has no reason to take long.
    pub(crate) async fn answer(&mut self, doing: &'static str) -> Result<Message, Error> {
        let answer = tokio::time::timeout(ANSWER_MAX, self.message(doing)).await;
        answer.unwrap_or(Err(Error::TimedOut { doing, after: ANSWER_MAX }))
    }

    /// The next message if all of it was read already.
    pub(crate) fn parse(&mut self, doing: &'static str) -> Result<Option<Message>, Error> {
        let broken = |source| Error::Io { doing, source };
        while let Some(message) = wire::take_message(&mut self.input, doing)? {
            match message {
                Message::Other(backend::Message::ParameterStatus(body)) => {
                    let (name, value) =
                        (body.name().map_err(broken)?, body.value().map_err(broken)?);
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
                Message::Other(backend::Message::NoticeResponse(body)) => {
                    self.notice(ServerError::from_fields(body.fields()));
                }
                message => return Ok(Some(message)),
            }
        }
        Ok(None)
    }

    fn notice(&mut self, notice: ServerError) {
        tracing::debug!(endpoint = %self.endpoint, %notice, "the server says");
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(notice);
        }
    }

    /// Tag and whole length of the message at the front, once all of it is there.
    pub(crate) fn frame(&self) -> Result<Option<(u8, usize)>, Error> {
        wire::frame(&self.input)
    }

    /// Writes what can be written, then reads what can be read. Ready with the bytes read, 0 at the
    /// end of the stream.
    pub(crate) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = self.poll_output(cx) {
            result?;
        }
        if self.input.capacity() - self.input.len() < READ_BYTES_MIN {
            self.next_buffer();
        }
        poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input)
    }

    /// Goes on in another buffer, with what is there of a message.
    fn next_buffer(&mut self) {
        // Twice what there is of a message: a large one is copied as seldom as by a buffer that grows.
        let wanted = READ_BYTES.max(self.input.len() * 2);
        let mut next = self.buffers.take(wanted);
        next.extend_from_slice(&self.input);
        let full = std::mem::replace(&mut self.input, next);
        self.buffers.give(full, std::mem::replace(&mut self.input_size, wanted));
    }

    pub(crate) fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.output))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = self.output.split_to(count);
            self.flush_needed = true;
        }
        if self.flush_needed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.flush_needed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Queues a simple query; the answer is read by the caller.
    pub(crate) fn queue_query(&mut self, text: &str) -> Result<(), Error> {
        frontend::query(text, &mut self.output)
            .map_err(|source| Error::Io { doing: "sending a command", source })
    }

    /// A simple query and all its result sets. `command` names it in errors.
    pub async fn query(&mut self, command: &'static str, text: &str) -> Result<Vec<Rows>, Error> {
        self.queue_query(text)?;
        let mut sets = Vec::new();
        let mut failed = None;
        loop {
            let Message::Other(message) = self.answer(command).await? else {
                return Err(Error::unexpected("rows", "the start of a copy"));
            };
            match message {
                backend::Message::RowDescription(body) => {
                    let columns = body.fields().map(|field| Ok(field.name().to_owned())).collect();
                    let columns = columns.map_err(|source| Error::Io { doing: command, source })?;
                    sets.push(Rows { columns, rows: Vec::new() });
                }
                backend::Message::DataRow(body) => {
                    let set = sets.last_mut();
                    let set = set.ok_or_else(|| Error::unexpected("column names", "a row"))?;
                    set.rows.push(row_values(&body, command)?);
                }
                backend::Message::CommandComplete(_) | backend::Message::EmptyQueryResponse => {}
                backend::Message::ErrorResponse(body) => {
                    let source = Box::new(ServerError::from_fields(body.fields()));
                    let fatal = source.severity != "ERROR";
                    let error = Error::Server { command, source };
                    if fatal {
                        return Err(error);
                    }
                    failed = Some(error);
                }
                backend::Message::ReadyForQuery(_) => return failed.map_or(Ok(sets), Err),
                _ => return Err(Error::unexpected("rows", "another message")),
            }
        }
    }

    /// Says goodbye; what cannot be sent any more is not missed.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.output);
        let _ = poll_fn(|cx| self.poll_output(cx)).await;
        let _ = poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await;
    }
}

/// The values of a row as the server wrote them.
///
/// # Errors
/// When its lengths do not fit it.
pub fn row_values(
    body: &backend::DataRowBody,
    doing: &'static str,
) -> Result<Vec<Option<Bytes>>, Error> {
    let bytes = body.buffer_bytes();
    body.ranges()
        .map(|range| Ok(range.map(|range| bytes.slice(range))))
        .collect()
        .map_err(|source| Error::Io { doing, source })
}

/// `15.18 (Debian …)` is 150018, `19beta3` is 190000.
pub fn version_number(text: &str) -> u32 {
    let number = |part: &str| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse::<u32>().unwrap_or(0)
    };
    let mut parts = text.split('.');
    let major = parts.next().map_or(0, number);
    major.saturating_mul(10_000).saturating_add(parts.next().map_or(0, number))
}

#[cfg(test)]
mod tests {
    use super::version_number;

    #[test]
    fn a_version_is_read_from_what_servers_call_themselves() {
        assert_eq!(version_number("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_number("19beta3"), 190_000);
        assert_eq!(version_number("18.6"), 180_006);
    }

    #[test]
    fn a_version_too_large_for_a_number_is_no_panic() {
        for text in ["1795150757.2", "4294967295", "429496.4294967295"] {
            assert_eq!(version_number(text), u32::MAX, "{text}");
        }
    }
}
