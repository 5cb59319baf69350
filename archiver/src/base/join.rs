//! A base beside a writer that runs elsewhere: what `pitrd base` does.
//!
//! Enters: an address of each side. Leaves: a complete base, or an error. It takes no writer epoch
//! and writes nothing but the base and the ledger's word of it.

use std::io::{self, Write};
use std::sync::Arc;

use proto::archive::base::Complete;
use proto::archive::identity::Identity;
use proto::archive::layout::Lineage;
use proto::archive::{ArchiveError, ends};
use proto::clock::Clock;
use proto::mongodb::OplogTs;
use proto::position::ByteCount;
use proto::postgres::lsn::SegmentSize;
use proto::store::Store;
use tokio::sync::watch;

use super::durable::ArchivedLog;
use super::error::BaseError;
use super::mongodb_bases::{Log, joined, take_mongodb};
use super::postgres::PostgresSource;
use super::progress::Progress;
use super::writer::{BaseOptions, take};
use crate::pipeline::Opened;
use crate::source::mongodb as mongo;
use crate::source::mongodb::goal::Newest;
use crate::source::postgres::capture::{CaptureError, check_lineage};
use crate::source::postgres::{ConnectOptions, Session};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Nothing was begun.
    #[error("{address} holds no archive yet: the first pitrd run makes one")]
    NoArchive { address: String },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The server is another one, or a copy of the archived one.
    #[error(transparent)]
    Server(#[from] CaptureError),
}

/// Takes a base into the archive's newest lineage, whose log somebody else writes.
///
/// # Errors
/// [`JoinError`].
pub async fn join(
    source: ConnectOptions,
    store: Arc<dyn Store>,
    options: &BaseOptions,
    clock: &dyn Clock,
) -> Result<Complete, JoinError> {
    let (lineage, identity) = newest(&*store).await?;
    if let Some(postgres) = identity.postgres() {
        if let Some(archived) = ends::timelines(&*store, lineage).await?.last() {
            source.newest.know(*archived);
        }
        let session = Session::connect(&source).await.map_err(CaptureError::from)?;
        check_lineage(&*store, lineage, postgres, None, session).await?;
    }
    let mut source = PostgresSource::new(source);
    let size = identity.postgres().map_or(SegmentSize::DEFAULT, |postgres| postgres.segment_bytes);
    let log_store = store.clone();
    let log = ArchivedLog::new(&*log_store, lineage, size);
    Ok(take(&mut source, store, lineage, &log, options, clock).await?)
}

/// The same for a replica set.
///
/// # Errors
/// [`JoinError`].
pub async fn join_mongodb(
    source: &mongo::ConnectOptions,
    store: Arc<dyn Store>,
    options: &BaseOptions,
) -> Result<Complete, JoinError> {
    let (lineage, identity) = newest(&*store).await?;
    let opened = Opened { lineage, identity, fresh: false };
    let nobody = watch::Sender::new(None);
    let newest = Newest { ts: OplogTs(0), reached: nobody.subscribe() };
    let log = Log { newest: &newest, durable: None, state: None };
    Ok(take_mongodb(source, &joined(store), &opened, &log, options).await?)
}

async fn newest(store: &dyn Store) -> Result<(Lineage, Identity), JoinError> {
    let no_archive = || JoinError::NoArchive { address: store.address() };
    let lineage = ends::lineages(store).await?.pop().ok_or_else(no_archive)?;
    let identity = ends::identity(store, lineage).await?.ok_or_else(no_archive)?;
    Ok((lineage, identity))
}

/// What a finished base is told as: a few lines, or one JSON object.
///
/// # Errors
/// When `out` fails.
pub fn tell(complete: &Complete, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        let json = match &complete.mongodb {
            None => serde_json::json!({
                "id": complete.id,
                "start": complete.postgres().start,
                "stop": complete.postgres().stop,
                "timeline": complete.postgres().timeline,
                "raw_bytes": complete.raw_bytes,
                "bytes": complete.stored_bytes,
                "damaged": complete.damaged,
            }),
            Some(mongodb) => serde_json::json!({
                "id": complete.id,
                "start": mongodb.start,
                "stop": mongodb.stop,
                "collections": mongodb.collections.len(),
                "raw_bytes": complete.raw_bytes,
                "bytes": complete.stored_bytes,
            }),
        };
        return out.write_all(&proto::archive::to_json(&json));
    }
    let (raw, stored) = (ByteCount(complete.raw_bytes), ByteCount(complete.stored_bytes));
    writeln!(out, "base {}: {raw}, stored as {stored}", complete.id)?;
    let stop = match &complete.mongodb {
        None => complete.postgres().stop.to_string(),
        Some(mongodb) => mongodb.stop.to_string(),
    };
    writeln!(out, "every moment from {stop} on can be restored from it")?;
    for page in &complete.damaged {
        let block = page.block.map_or_else(String::new, |block| format!(", block {block}"));
        writeln!(out, "DAMAGED on the server: {}{block}: {}", page.file, page.detail)?;
    }
    Ok(())
}

/// Bytes, rate and time left, on one line.
pub fn progress_line(progress: &Progress) -> String {
    let done = ByteCount(progress.raw_bytes);
    if progress.waiting_for_log {
        return format!("{done} copied; waiting until the log is in the archive");
    }
    let rate = ByteCount(progress.bytes_per_second as u64);
    let Some(expected) = progress.expected_bytes.filter(|n| *n >= progress.raw_bytes) else {
        return format!("{done} copied, {rate}/s");
    };
    let left = (expected - progress.raw_bytes) as f64 / progress.bytes_per_second.max(1.0);
    let (minutes, seconds) = (left as u64 / 60, left as u64 % 60);
    format!("{done} of {} copied, {rate}/s, {minutes}:{seconds:02} left", ByteCount(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_rate_and_time_left() {
        let progress = Progress {
            raw_bytes: 1 << 30,
            expected_bytes: Some(3 << 30),
            stored_bytes: 0,
            bytes_per_second: f64::from(16 << 20),
            waiting_for_log: false,
        };
        let line = progress_line(&progress);
        assert_eq!(line, "1.0 GiB of 3.0 GiB copied, 16.0 MiB/s, 2:08 left");
    }
}
