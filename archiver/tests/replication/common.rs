//! Connecting to a cluster of the harness, and collecting what it streams.

use std::time::Duration;

use anyhow::{Context, Result};
use archiver::source::postgres::{
    ConnectOptions, Environment, Session, SlotName, StreamEvent, StreamOptions, WalStream,
};
use proto::postgres::lsn::{Lsn, Timeline};
use tests::postgres::Cluster;

/// Ten times what anything here is expected to take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn options(url: &str) -> Result<ConnectOptions> {
    Ok(ConnectOptions::parse(url, &Environment::default())?)
}

pub(crate) async fn session(cluster: &Cluster) -> Result<Session> {
    Ok(Session::connect(&options(&cluster.replication_url())?).await?)
}

pub(crate) fn slot(name: &str) -> SlotName {
    name.parse().expect("a slot name")
}

/// Streams from the start of the segment of the server's flush position.
pub(crate) async fn stream_from_here(
    cluster: &Cluster,
    slot: Option<&SlotName>,
) -> Result<WalStream> {
    let mut session = session(cluster).await?;
    let identity = session.identify().await?;
    let start = session.server().segment_size.floor(identity.flushed);
    let options = StreamOptions::default();
    Ok(session.start_replication(slot, identity.timeline, start, options).await?)
}

pub(crate) async fn stream_at(
    cluster: &Cluster,
    slot: Option<&SlotName>,
    timeline: Timeline,
    start: Lsn,
) -> Result<WalStream> {
    let session = session(cluster).await?;
    Ok(session.start_replication(slot, timeline, start, StreamOptions::default()).await?)
}

pub(crate) async fn next(stream: &mut WalStream) -> Result<StreamEvent> {
    Ok(tokio::time::timeout(LIMIT, stream.next()).await.context("no event")??)
}

/// Appends what is streamed until `end` has been reached.
pub(crate) async fn collect(stream: &mut WalStream, end: Lsn, into: &mut Vec<u8>) -> Result<()> {
    while stream.position() < end {
        if let StreamEvent::Data { bytes, .. } = next(stream).await? {
            into.extend_from_slice(&bytes);
        }
    }
    Ok(())
}
