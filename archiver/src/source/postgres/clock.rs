//! The server's clock, asked without SQL: a role may be let in for replication alone.
//!
//! Enters: options. Leaves: what the server's clock said, from a keepalive of a stream without a
//! slot. Nothing of the log is used, and nothing on the server changes.

use std::time::Duration;

use proto::timestamp::Timestamp;

use super::error::Error;
use super::options::ConnectOptions;
use super::session::Session;
use super::stream::{StreamEvent, StreamOptions};

const DOING: &str = "asking for the server's clock";
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// # Errors
/// When the server cannot be reached or does not stream.
pub async fn of_stream(options: &ConnectOptions) -> Result<Timestamp, Error> {
    let session = Session::connect(options).await?;
    let at = session.server().identity.clone();
    let streaming = StreamOptions::default();
    let mut stream = session.start_replication(None, at.timeline, at.flushed, streaming).await?;
    // A status that asks for an answer is answered at once (walsender.c, `ProcessStandbyReplyMessage`).
    stream.ping();
    let heard = tokio::time::timeout(ANSWER_MAX, stream.next()).await;
    let event = heard.unwrap_or(Err(Error::TimedOut { doing: DOING, after: ANSWER_MAX }))?;
    stream.close().await;
    match event {
        StreamEvent::Data { server_time, .. } | StreamEvent::Keepalive { server_time, .. } => {
            Ok(server_time)
        }
        _ => Err(Error::Closed { doing: DOING }),
    }
}
