//! Which writer epoch a run takes, and whether it may take it now (DESIGN §5.6).
//!
//! A sidecar that restarts with its own spool goes on at once; otherwise it waits until the chain
//! has stood still, so that two sidecars never take turns.

use std::path::Path;
use std::time::Duration;

use proto::archive::ledger;
use tokio_util::sync::CancellationToken;

use crate::pipeline::{Ground, Opened, PipelineError, Settings};
use crate::ship::resume;
use crate::ship::shipper::WATERMARK_EVERY;

/// How long the chain must have stood still, by monotonic time, before another's work is taken.
const STILL: Duration = Duration::from_secs(30);
/// The same while somebody streams for this archive, or nobody can say: beside an idle database a
/// living writer puts one watermark a minute.
const STILL_BESIDE_A_WRITER: Duration =
    Duration::from_secs(WATERMARK_EVERY.as_secs() * 2 + STILL.as_secs());
const LOOK_EVERY: Duration = Duration::from_secs(2);
const OWN: &str = "writer";
const OWN_NEXT: &str = "writer.next";

/// By what right the archive is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    /// `--take-over`, or nobody wrote it before.
    pub at_once: bool,
    /// The epoch that this process has taken already.
    pub mine: Option<u64>,
}

/// Takes the next writer epoch; `None` when stopped while waiting. `waits` is told again and again
/// as long as it is another's turn.
pub(crate) async fn take(
    ground: &Ground,
    settings: &Settings,
    opened: &Opened,
    claim: Claim,
    waits: &(dyn Fn() + Sync),
    stop: &CancellationToken,
) -> Result<Option<u64>, PipelineError> {
    settings.source.continues(ground, opened).await?;
    let ledger = ledger::read(&*ground.store, opened.lineage).await?;
    for entry in &ledger.damaged {
        tracing::error!(
            key = %entry.key, detail = entry.detail,
            "ALERT: an entry of the ledger is damaged; it is read past. `pitr verify` names it too"
        );
    }
    if let Some(last) = ledger.writer() {
        if claim.mine == Some(last) {
            return Ok(claim.mine);
        }
        let ours = own_writer(ground, &settings.spool) == Some(last);
        if !ours && !claim.at_once && !settings.source.is_ahead(ground, opened).await? {
            if !wait_until_still(ground, settings, opened, last, waits, stop).await? {
                return Ok(None);
            }
            // A clone may have become another one meanwhile.
            settings.source.continues(ground, opened).await?;
        }
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let store = &*ground.store;
    let writer = resume::take_writer(store, opened.lineage, &*ground.clock, host).await?;
    if let Err(error) = remember(ground, &settings.spool, writer) {
        // It costs a wait at the next start, nothing else.
        tracing::warn!(%error, "the writer epoch is not remembered in the spool");
    }
    Ok(Some(writer))
}

/// The epoch that the spool remembers: the later one, when a kill left both names.
fn own_writer(ground: &Ground, spool: &Path) -> Option<u64> {
    let read = |name: &str| {
        let text = ground.disk.read(&spool.join(name)).ok()?;
        String::from_utf8(text).ok()?.trim().parse().ok()
    };
    [OWN, OWN_NEXT].into_iter().filter_map(read).max()
}

/// Losing this file costs a wait of half a minute, nothing else: so one of the two names stands at
/// every moment.
fn remember(ground: &Ground, spool: &Path, writer: u64) -> Result<(), PipelineError> {
    let (path, next) = (spool.join(OWN), spool.join(OWN_NEXT));
    let failed =
        |source| crate::spool::SpoolError::Io { action: "write", path: path.clone(), source };
    let write = || {
        let disk = &ground.disk;
        disk.create_dirs(spool)?;
        if disk.len(&next).is_ok() {
            disk.remove(&next)?;
        }
        let mut file = disk.create_new(&next)?;
        file.write_all(format!("{writer}\n").as_bytes())?;
        file.sync()?;
        if disk.len(&path).is_ok() {
            disk.remove(&path)?;
        }
        disk.rename_exclusive(&next, &path)
    };
    write().map_err(failed).map_err(PipelineError::from)
}

async fn wait_until_still(
    ground: &Ground,
    settings: &Settings,
    opened: &Opened,
    writer: u64,
    waits: &(dyn Fn() + Sync),
    stop: &CancellationToken,
) -> Result<bool, PipelineError> {
    tracing::info!(
        writer,
        "another sidecar wrote this archive: waiting until it stands still (--take-over does not wait)"
    );
    let mut since = ground.clock.monotonic();
    let mut seen = None;
    loop {
        waits();
        let end = settings.source.find_end(&*ground.store, opened).await?;
        let now = Some((end.durable, end.chain.next_seq()));
        if now != seen {
            seen = now;
            since = ground.clock.monotonic();
        }
        let stood = ground.clock.monotonic().saturating_sub(since);
        // Promoted meanwhile: the other one streams from a server that has been left behind.
        if matches!(settings.source.is_ahead(ground, opened).await, Ok(true)) {
            return Ok(true);
        }
        let alone =
            stood >= STILL && matches!(settings.source.is_streamed().await, Ok(Some(false)));
        if alone || stood >= STILL_BESIDE_A_WRITER {
            return Ok(true);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
