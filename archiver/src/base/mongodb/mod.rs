//! A MongoDB base: snapshot reads of every collection, each as of a moment of its own.
//!
//! Enters: a client of one member. Leaves: objects of raw BSON in the store, and `complete.json`
//! last. Nothing is locked on the server and nothing is written there.
//!
//! `server` (positions) and `catalog` → `copy` (what is read when) → `read` by `batches` → `pack`.

mod error;
mod batches;
mod server;
mod catalog;
mod read;
mod pack;
mod copy;

pub use error::ReadError;

use mongodb::Client;

use proto::clock::Clock;
use proto::mongodb::SourceMode;
use proto::mongodb::base::MongodbBase;
use proto::timestamp::Timestamp;

use super::error::BaseError;
use super::parts::Destination;
use super::progress::{Meter, OnProgress};
use copy::Meters;
use server::Server;

/// What was copied, and the server's clock when that began and ended.
#[derive(Debug, Clone)]
pub struct Copied {
    pub base: MongodbBase,
    pub started: Timestamp,
    pub finished: Timestamp,
}

/// Copies every collection of a replica set to `to`. The base exists only when its `complete.json`
/// does.
///
/// # Errors
/// [`BaseError`], by whose class the caller decides when to try again.
pub async fn copy(
    client: &Client,
    to: &Destination,
    on_progress: Option<OnProgress>,
    clock: &dyn Clock,
) -> Result<Copied, BaseError> {
    copy_for(SourceMode::Oplog, client, to, on_progress, clock).await
}

/// The same, of what a log from there carries on.
///
/// # Errors
/// [`BaseError`], by whose class the caller decides when to try again.
pub async fn copy_for(
    mode: SourceMode,
    client: &Client,
    to: &Destination,
    on_progress: Option<OnProgress>,
    clock: &dyn Clock,
) -> Result<Copied, BaseError> {
    let server = Server::new(client.clone());
    let started = server.hello().await?.local_time;
    let expected = server.expected_bytes().await;
    let meters = Meters::new(Meter::new(clock, expected, on_progress));
    let base = Box::pin(copy::copy(&server, mode, to, &meters)).await?;
    meters.waiting_for_log();
    let finished = server.hello().await?.local_time;
    Ok(Copied { base, started, finished })
}
