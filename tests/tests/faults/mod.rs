//! What goes wrong: kills, stores that are away, full disks, writers that were thought dead.

pub(crate) mod kills;
mod guarded;
mod power_cut;
mod oplog_kills;
mod oplog_network;
mod store_away;
mod store_storm;
mod store_network;
mod store_config;
mod rot;
mod shutdown;
mod spool;
mod disk_limits;
mod slow_disk;
mod writers;
mod oplog_writers;
mod gap;
mod pressure;
mod oplog_pressure;
mod pressed_disks;
mod synchronous;
mod promotion;
mod left_behind;
mod members;
mod members_turns;
mod from_standby;
mod frozen;
mod races;
mod crashes;
mod oplog_members;
pub(crate) mod early;

use std::path::Path;

use anyhow::{Context, Result};
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize};
use proto::segment::{FrameKind, decompress, first_frame};

/// How far a spool folder holds the log of segments of 4 MB, by its files alone.
fn spooled(folder: &Path) -> Result<Lsn> {
    spooled_in(folder, 4)
}

/// The same with segments of so many MB.
fn spooled_in(folder: &Path, segment_mb: u64) -> Result<Lsn> {
    let mut end = Lsn(0);
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((segment, _)) = name.split_once('.') else { continue };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            // A running sidecar seals it under another name: the next look finds that one.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let (mut at, mut raw) = (0, 0);
        while let Ok(Some(span)) = first_frame(&bytes[at..]) {
            if span.kind != FrameKind::Skippable {
                let Ok(piece) = decompress(&bytes[at..at + span.len]) else { break };
                raw += piece.len() as u64;
            }
            at += span.len;
        }
        let size = SegmentSize::try_from(segment_mb << 20)?;
        let id = SegmentId::parse(segment, size).context("a segment's name")?;
        end = end.max(Lsn(id.start(size).0 + raw));
    }
    Ok(end)
}
