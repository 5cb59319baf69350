//! The task that owns the socket: it hands events on without ever waiting for who takes them, and
//! tells the server what has become durable.
//!
//! Enters: a stream, acknowledgements. Leaves: events, through a [`Sink`] that must not block. When
//! the sink is full the connection is closed (DESIGN §2.2): a client that merely stops reading
//! would block the server's shutdown.

use std::time::Duration;

use proto::postgres::lsn::{Lsn, Timeline};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acknowledged::Acknowledged;
use super::error::Error;
use super::session::Session;
use super::stream::{StreamEvent, WalStream};

/// The sink's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    Taken,
    /// There is no room. The event is lost with the connection; the next one starts before it.
    Full,
}

/// Takes what the stream yields, without ever waiting.
pub trait Sink: Send {
    fn push(&mut self, event: StreamEvent) -> Push;

    /// Waits a moment for room, while compression or disk catch up; `false` when there will be
    /// none soon: the connection is then closed. Meanwhile nothing is read, but reports are sent.
    fn room(&mut self) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }
}

impl<F: FnMut(StreamEvent) -> Push + Send> Sink for F {
    fn push(&mut self, event: StreamEvent) -> Push {
        self(event)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Drive {
    /// How long a server that seems to shut down is kept waiting for the tail.
    pub shutdown_grace: Duration,
    /// Ask for the server's position and clock when nothing was received for so long.
    pub ping_idle: Option<Duration>,
}

/// Why the stream is over. In all cases but `Ended` the connection is closed.
pub enum Outcome {
    /// The sink was full. Reconnect when there is room.
    Held,
    /// `stop` was cancelled.
    Stopped,
    /// The timeline ended; the session can fetch the history of the next and stream it.
    Ended { next: Option<(Timeline, Lsn)>, session: Box<Session> },
    /// The server shut down, and everything it sent was acknowledged.
    ServerStopped,
    /// We left a server that seems to shut down; what was not durable is not acknowledged.
    Yielded,
}

/// Runs until something of [`Outcome`] happens. The sink sees every event but `Ended` and
/// `ServerStopped`; `ShutdownSuspected` comes once and means: make the tail durable now.
///
/// # Errors
/// When the connection breaks or the server refuses; [`Error::class`] says what to do.
pub async fn run(
    mut stream: WalStream,
    sink: &mut impl Sink,
    mut acknowledged: watch::Receiver<Acknowledged>,
    stop: CancellationToken,
    drive: Drive,
) -> Result<Outcome, Error> {
    // A shutdown we believe in: until when to wait.
    let mut suspicion: Option<Instant> = None;
    let mut ping_at = drive.ping_idle.map(|idle| Instant::now() + idle);
    // Nothing is reported before the server has sent something: a report moves the slot, even back
    // (slot.c, `PhysicalConfirmReceivedLocation`), and a server that no longer has our log would lose
    // what its slot still holds.
    let (mut listening, mut heard) = (false, false);
    loop {
        if !await_room(&mut stream, sink, &mut acknowledged, &mut listening, &stop).await {
            stream.close().await;
            return Ok(Outcome::Held);
        }
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => {
                if heard {
                    stream.report(*acknowledged.borrow());
                }
                stream.close().await;
                return Ok(Outcome::Stopped);
            }
            changed = acknowledged.changed(), if listening => {
                listening = changed.is_ok();
                stream.report(*acknowledged.borrow_and_update());
                continue;
            }
            () = until(suspicion) => {
                stream.close().await;
                return Ok(Outcome::Yielded);
            }
            event = stream.next() => event?,
            () = until(ping_at) => {
                stream.ping();
                ping_at = drive.ping_idle.map(|idle| Instant::now() + idle);
                continue;
            }
        };
        if !heard {
            (listening, heard) = (true, true);
            stream.report(*acknowledged.borrow_and_update());
        }
        match event {
            StreamEvent::Ended { next } => {
                let session = stream.into_session().map(Box::new);
                let session = session.expect("a stream that has ended gives its session back");
                return Ok(Outcome::Ended { next, session });
            }
            StreamEvent::ServerStopped => return Ok(Outcome::ServerStopped),
            StreamEvent::ShutdownSuspected { .. } if suspicion.is_some() => continue,
            StreamEvent::ShutdownSuspected { .. } => {
                suspicion = Some(Instant::now() + drive.shutdown_grace);
            }
            // A server that waits for us to shut down has nothing more to send.
            StreamEvent::Data { .. } => {
                suspicion = None;
                ping_at = drive.ping_idle.map(|idle| Instant::now() + idle);
            }
            StreamEvent::Keepalive { .. } => {
                ping_at = drive.ping_idle.map(|idle| Instant::now() + idle);
            }
        }
        if sink.push(event) == Push::Full {
            stream.close().await;
            return Ok(Outcome::Held);
        }
    }
}

/// Waits for the sink's room without leaving the server alone: reports go out all the while.
async fn await_room(
    stream: &mut WalStream,
    sink: &mut impl Sink,
    acknowledged: &mut watch::Receiver<Acknowledged>,
    listening: &mut bool,
    stop: &CancellationToken,
) -> bool {
    let mut room = std::pin::pin!(sink.room());
    loop {
        tokio::select! {
            biased;
            room = &mut room => return room,
            () = stop.cancelled() => return true,
            changed = acknowledged.changed(), if *listening => {
                *listening = changed.is_ok();
                stream.report(*acknowledged.borrow_and_update());
            }
            () = stream.tend() => {}
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl Default for Drive {
    fn default() -> Self {
        Self { shutdown_grace: Duration::from_secs(5), ping_idle: Some(Duration::from_secs(1)) }
    }
}
