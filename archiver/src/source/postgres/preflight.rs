//! A first connection that tells a refusal which will last from one that will pass.
//!
//! Enters: options. Leaves: a session, or an error of the class that it deserves. Asks and changes
//! nothing.

use super::error::{Error, SqlState};
use super::options::ConnectOptions;
use super::session::{Session, SlotName};
use super::sql::SqlSession;
use super::stream::StreamOptions;

/// Connects for replication.
///
/// # Errors
/// As [`Session::connect`]; [`Error::NoWalSenders`] where the server allows none at all. It answers
/// that as it answers when all are taken (proc.c, `InitProcess`: too_many_connections), and to
/// wait would be in vain.
pub async fn connect(options: &ConnectOptions) -> Result<Session, Error> {
    let error = match Session::connect(options).await {
        Ok(session) => return Ok(session),
        Err(error) => error,
    };
    if error.sqlstate() != Some(SqlState::TOO_MANY_CONNECTIONS) {
        return Err(error);
    }
    // Who may not ask waits: that is what the first answer means.
    let Ok(mut sql) = SqlSession::connect(options).await else { return Err(error) };
    let settings = sql.settings().await;
    let endpoint = sql.connection().endpoint().clone();
    sql.close().await;
    match settings {
        Ok(found) if found.hot_standby.get("max_wal_senders") == Some(&0) => {
            Err(Error::NoWalSenders { endpoint, wal_level: found.wal_level })
        }
        _ => Err(error),
    }
}

/// Whether nobody streams from a slot, found out by starting to: any role may do that. Nothing is
/// reported, so the slot stays where it is.
///
/// # Errors
/// `Class::SlotInUse` when somebody does.
pub async fn slot_is_free(options: &ConnectOptions, slot: &SlotName) -> Result<(), Error> {
    let session = Session::connect(options).await?;
    let at = session.server().identity.clone();
    let streaming = StreamOptions::default();
    let stream = session.start_replication(Some(slot), at.timeline, at.flushed, streaming).await?;
    stream.close().await;
    Ok(())
}
