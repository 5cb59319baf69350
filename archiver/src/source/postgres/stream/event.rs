//! What a stream is told, and what it yields.

use std::sync::Arc;

use bytes::Bytes;
use proto::clock::{Clock, SystemClock};
use proto::postgres::lsn::{Lsn, Timeline};
use proto::timestamp::Timestamp;

#[derive(Clone, Debug)]
pub struct StreamOptions {
    pub clock: Arc<dyn Clock>,
    /// Report as written only what is acknowledged, so that not even
    /// `synchronous_commit = remote_write` is answered early.
    pub write_follows_flush: bool,
}

/// What the stream yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// Bytes of the log from `start`, which is where the last ones ended. They may cross a segment
    /// boundary.
    Data { start: Lsn, bytes: Bytes, wal_end: Lsn, server_time: Timestamp },
    /// The server's position and clock while nothing is to be sent. It has been answered.
    Keepalive { wal_end: Lsn, server_time: Timestamp, reply_requested: bool },
    /// The server waits for us before it shuts down, or cannot be told from one that does: see
    /// DESIGN §5.5. Make the tail durable, report it, and go.
    ShutdownSuspected { wal_end: Lsn, server_time: Timestamp },
    /// This timeline ends at our position or before; `next` branches off at the position given.
    /// [`super::WalStream::into_session`] gives the connection back.
    Ended { next: Option<(Timeline, Lsn)> },
    /// The server has shut down in order. The connection is gone.
    ServerStopped,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock::new()), write_follows_flush: false }
    }
}
