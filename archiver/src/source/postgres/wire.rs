//! What a server sends, cut out of the bytes that were read: messages, and inside the copy data of the
//! physical stream its own kinds (protocol documentation, "Streaming Replication Protocol"): one kind
//! byte, big-endian numbers.
//!
//! Enters: bytes, trusted in nothing. Leaves: messages that are whole. Nothing is stored.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::{self, COPY_DATA_TAG, Header};
use proto::postgres::lsn::Lsn;
use proto::timestamp::Timestamp;

use super::error::Error;

/// Nothing a server sends us comes near this; a larger length means that we lost the framing.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Tag and length of any message.
const HEADER_BYTES: usize = 5;
/// Kind, start, end, clock.
const DATA_HEADER_BYTES: usize = 1 + 8 + 8 + 8;
/// Kind, end, clock, whether to reply.
const KEEPALIVE_BYTES: usize = 1 + 8 + 8 + 1;
/// Kind, written, flushed, applied, clock, whether to reply.
const STATUS_BYTES: u32 = 1 + 8 + 8 + 8 + 8 + 1;

/// A message from the server: postgres-protocol knows all but `W`.
pub enum Message {
    CopyBoth,
    Other(backend::Message),
}

/// Tag and whole length of the message at the front, once all of it is there.
///
/// # Errors
/// When none can begin like this.
pub fn frame(input: &[u8]) -> Result<Option<(u8, usize)>, Error> {
    let header =
        Header::parse(input).map_err(|source| Error::Io { doing: "reading a message", source })?;
    let Some(header) = header else { return Ok(None) };
    let length = 1 + usize::try_from(header.len()).unwrap_or(usize::MAX - 1);
    if length > MESSAGE_BYTES_MAX {
        return Err(Error::unexpected("a message below 256 MiB", format!("{length} bytes")));
    }
    Ok((input.len() >= length).then_some((header.tag(), length)))
}

/// Takes the message at the front, once all of it is there.
///
/// # Errors
/// When it is none.
pub fn take_message(input: &mut BytesMut, doing: &'static str) -> Result<Option<Message>, Error> {
    match frame(input)? {
        None => Ok(None),
        Some((b'W', length)) => {
            let _ = input.split_to(length);
            Ok(Some(Message::CopyBoth))
        }
        Some(_) => {
            let message = backend::Message::parse(input);
            let message = message.map_err(|source| Error::Io { doing, source })?;
            Ok(message.map(Message::Other))
        }
    }
}

/// What stands in a copy-data message of the physical stream.
#[derive(Debug, PartialEq, Eq)]
pub enum CopyMessage {
    Data { start: Lsn, wal_end: Lsn, server_time: Timestamp, bytes: Bytes },
    Keepalive { wal_end: Lsn, server_time: Timestamp, reply_requested: bool },
    Empty,
    Other(u8),
}

/// Takes the CopyData message of `length` bytes (as [`frame`] found it) from the front of `input`,
/// without copying data.
///
/// # Errors
/// When it is shorter than its kind says.
pub fn take_copy_message(input: &mut BytesMut, length: usize) -> Result<CopyMessage, Error> {
    let mut message = input.split_to(length);
    message.advance(HEADER_BYTES);
    let short = |kind, found: usize| {
        Err(Error::unexpected("a whole message", format!("{found} bytes of kind {kind}")))
    };
    match message.first() {
        None => Ok(CopyMessage::Empty),
        Some(b'w') if message.len() < DATA_HEADER_BYTES => short("w", message.len()),
        Some(b'w') => {
            message.advance(1);
            let start = Lsn(message.get_u64());
            let wal_end = Lsn(message.get_u64());
            let server_time = Timestamp::from_postgres(message.get_i64());
            Ok(CopyMessage::Data { start, wal_end, server_time, bytes: message.freeze() })
        }
        Some(b'k') if message.len() < KEEPALIVE_BYTES => short("k", message.len()),
        Some(b'k') => {
            message.advance(1);
            let wal_end = Lsn(message.get_u64());
            let server_time = Timestamp::from_postgres(message.get_i64());
            Ok(CopyMessage::Keepalive {
                wal_end,
                server_time,
                reply_requested: message.get_u8() != 0,
            })
        }
        Some(kind) => Ok(CopyMessage::Other(*kind)),
    }
}

/// A standby status update. What is applied is never reported: nothing of ours applies the log, and
/// a position there would answer `synchronous_commit = remote_apply`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) write: Lsn,
    pub(crate) flush: Lsn,
    pub(crate) now: Timestamp,
    pub(crate) reply_requested: bool,
}

impl Status {
    pub(crate) fn encode(self, out: &mut BytesMut) {
        out.put_u8(COPY_DATA_TAG);
        out.put_u32(4 + STATUS_BYTES);
        out.put_u8(b'r');
        out.put_u64(self.write.0);
        out.put_u64(self.flush.0);
        out.put_u64(0);
        out.put_i64(self.now.to_postgres());
        out.put_u8(u8::from(self.reply_requested));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        frame.put_u8(b'd');
        frame.put_u32(4 + payload.len() as u32);
        frame.put_slice(payload);
        frame
    }

    fn take(payload: &[u8]) -> Result<CopyMessage, Error> {
        let mut input = frame(payload);
        input.put_slice(b"rest");
        let message = take_copy_message(&mut input, 5 + payload.len());
        assert_eq!(&input[..], b"rest", "exactly one message is taken");
        message
    }

    #[test]
    fn a_status_is_written_as_the_protocol_documents_it() {
        let mut out = BytesMut::new();
        let now = Timestamp::from_postgres(3);
        Status { write: Lsn(1), flush: Lsn(2), now, reply_requested: true }.encode(&mut out);
        let mut expected = vec![b'd', 0, 0, 0, 38, b'r'];
        for number in [1_u64, 2, 0, 3] {
            expected.extend(number.to_be_bytes());
        }
        expected.push(1);
        assert_eq!(&out[..], &expected[..]);
    }

    #[test]
    fn log_data_is_handed_on_with_its_place_and_clock() {
        let mut payload = vec![b'w'];
        for number in [16_u64, 32, 7] {
            payload.extend(number.to_be_bytes());
        }
        payload.extend(b"abc");
        let expected = CopyMessage::Data {
            start: Lsn(16),
            wal_end: Lsn(32),
            server_time: Timestamp::from_postgres(7),
            bytes: Bytes::from_static(b"abc"),
        };
        assert_eq!(take(&payload).expect("whole"), expected);
        assert!(take(&payload[..20]).is_err(), "cut");
    }

    #[test]
    fn keepalives_empty_and_unknown_messages_are_told_apart() {
        let mut payload = vec![b'k'];
        payload.extend(32_u64.to_be_bytes());
        payload.extend(7_u64.to_be_bytes());
        assert!(take(&payload).is_err(), "cut");
        payload.push(1);
        let found = take(&payload).expect("whole");
        assert!(matches!(found, CopyMessage::Keepalive { reply_requested: true, .. }));
        assert_eq!(take(b"").expect("whole"), CopyMessage::Empty);
        assert_eq!(take(b"s").expect("whole"), CopyMessage::Other(b's'));
    }
}
