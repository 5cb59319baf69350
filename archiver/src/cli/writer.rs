//! Which writer epoch a run takes, and whether it may take it now (DESIGN §5.6).
//!
//! A sidecar that restarts with its own spool goes on at once; otherwise it waits until the chain
//! has stood still, so that two sidecars never take turns.

use std::path::Path;
use std::time::Duration;

use proto::archive::ledger::{self, Event};
use tokio_util::sync::CancellationToken;

use crate::pipeline::{Ground, Opened, PipelineError};
use crate::ship::resume;

/// How long the chain must have stood still, by monotonic time, before another's work is taken.
const STILL: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_secs(2);
const OWN: &str = "writer";

/// Takes the next writer epoch; `None` when stopped while waiting.
pub(super) async fn take(
    ground: &Ground,
    opened: &Opened,
    spool: &Path,
    at_once: bool,
    stop: &CancellationToken,
) -> Result<Option<u64>, PipelineError> {
    let entries = ledger::read(&*ground.store, opened.lineage).await?;
    let last = entries.iter().rev().find(|entry| matches!(entry.event, Event::Writer { .. }));
    let own = own_writer(ground, spool);
    if let Some(last) = last
        && own != Some(last.seq)
        && !at_once
        && !wait_until_still(ground, opened, last.seq, stop).await?
    {
        return Ok(None);
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let store = &*ground.store;
    let writer = resume::take_writer(store, opened.lineage, &*ground.clock, host).await?;
    remember(ground, spool, writer)?;
    Ok(Some(writer))
}

fn own_writer(ground: &Ground, spool: &Path) -> Option<u64> {
    let text = ground.disk.read(&spool.join(OWN)).ok()?;
    String::from_utf8(text).ok()?.trim().parse().ok()
}

/// Losing this file costs a wait of half a minute, nothing else.
fn remember(ground: &Ground, spool: &Path, writer: u64) -> Result<(), PipelineError> {
    let path = spool.join(OWN);
    let failed =
        |source| crate::spool::SpoolError::Io { action: "write", path: path.clone(), source };
    let write = || {
        ground.disk.create_dirs(spool)?;
        if ground.disk.len(&path).is_ok() {
            ground.disk.remove(&path)?;
        }
        let mut file = ground.disk.create_new(&path)?;
        file.write_all(format!("{writer}\n").as_bytes())?;
        file.sync()
    };
    write().map_err(failed).map_err(PipelineError::from)
}

async fn wait_until_still(
    ground: &Ground,
    opened: &Opened,
    writer: u64,
    stop: &CancellationToken,
) -> Result<bool, PipelineError> {
    tracing::info!(
        writer,
        "another sidecar wrote this archive: waiting until it stands still (--take-over does not wait)"
    );
    let mut since = ground.clock.monotonic();
    let mut seen = None;
    loop {
        let end = resume::find_end(&*ground.store, opened.lineage, &opened.postgres).await?;
        let now = Some((end.durable, end.chain.next_seq()));
        if now != seen {
            seen = now;
            since = ground.clock.monotonic();
        }
        if ground.clock.monotonic().saturating_sub(since) >= STILL {
            return Ok(true);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
