//! How old what only the spool holds is, after a restart: its oldest commits, by decoding.
//!
//! Enters: what was recovered, and how much of it the store holds. Leaves: for each file with a
//! commit that the store lacks, where the file ends and when its oldest such commit was. Only as
//! many frames are unpacked as it takes to find one. Only reads.

use std::path::Path;

use proto::disk::Disk;
use proto::position::{Offset, Position};
use proto::segment::{FrameEntry, decompress};
use proto::timestamp::Timestamp;

use super::error::io_error;
use super::recover::Recovered;
use super::{Slot, SpoolError};
use crate::watch::lag::CommitTimes;

/// A file of the spool.
struct Left<'a> {
    path: &'a Path,
    slot: &'a Slot,
    frames: &'a [FrameEntry],
    raw_len: u64,
    /// How much of its beginning stands elsewhere: in the store, or in the epoch before it.
    known: u64,
}

/// The oldest commits beyond the `stored` first bytes of the first file. Blocks.
///
/// # Errors
/// When a file cannot be read.
pub fn oldest_commits(
    disk: &dyn Disk,
    recovered: &Recovered,
    stored: u64,
    commits: &dyn CommitTimes,
) -> Result<Vec<(Position, Timestamp)>, SpoolError> {
    let mut found = Vec::new();
    for left in files(recovered, stored) {
        if let Some(oldest) = left.oldest(disk, commits)? {
            let end = Offset(left.slot.start.0 + left.raw_len);
            found.push((Position::new(left.slot.name.epoch, end), oldest));
        }
    }
    Ok(found)
}

fn files(recovered: &Recovered, stored: u64) -> Vec<Left<'_>> {
    let mut known = stored;
    let mut files = Vec::with_capacity(recovered.sealed.len() + 1);
    for sealed in &recovered.sealed {
        let (footer, slot) = (&sealed.footer, &sealed.slot);
        let (path, frames, raw_len) = (sealed.path.as_path(), &footer.frames[..], footer.raw_len);
        files.push(Left { path, slot, frames, raw_len, known });
        // The next epoch's first segment begins with a copy of this one.
        known = if footer.partial { raw_len } else { 0 };
    }
    if let Some(open) = &recovered.start.open {
        let (slot, frames, raw_len) =
            (&open.slot, &open.segment.frames[..], open.segment.raw_len());
        files.push(Left { path: open.path(), slot, frames, raw_len, known });
    }
    files
}

impl Left<'_> {
    fn oldest(
        &self,
        disk: &dyn Disk,
        commits: &dyn CommitTimes,
    ) -> Result<Option<Timestamp>, SpoolError> {
        if self.known >= self.raw_len {
            return Ok(None);
        }
        let after = Offset(self.slot.start.0 + self.known);
        let mut reader = commits.reader(self.slot.start);
        let mut at = 0;
        for entry in self.frames {
            let len = entry.file_len as usize;
            let frame = disk.read_at(self.path, at, len).map_err(io_error("read", self.path))?;
            let path = self.path.to_owned();
            let raw = decompress(&frame).map_err(|source| SpoolError::Segment { path, source })?;
            if let Some(oldest) = reader.feed(&raw, after) {
                return Ok(Some(oldest));
            }
            at += u64::from(entry.file_len);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::disk::SystemDisk;
    use proto::position::Epoch;
    use proto::postgres::lsn::{Lsn, SegmentSize};
    use proto::postgres::scan::Scanner;
    use proto::postgres::transaction::Meaning;
    use proto::segment::{Codec, Engine, Frame, Hash, SegmentHead};

    use super::*;
    use crate::source::postgres::commits::WalCommits;
    use crate::spool::{OpenFile, SpoolStart, WalSegments};

    const SIZE: u64 = 1 << 20;
    const START: u64 = 7 * SIZE;
    /// What a server of 18 wrote (testdata/wal/README.md).
    const WAL: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/wal/18/000000010000000000000007.wal.zst");

    fn size() -> SegmentSize {
        SegmentSize::try_from(SIZE).expect("a size")
    }

    /// Where each commit of the segment ends, and its time.
    fn commits_in(raw: &[u8]) -> Vec<(u64, Timestamp)> {
        let mut found = Vec::new();
        Scanner::new(Lsn(START), size()).feed(raw, &mut |event| {
            if let Meaning::Transaction(ended) = &event.meaning
                && ended.end.is_commit()
            {
                found.push((event.end.0 - START, ended.time));
            }
        });
        found
    }

    #[test]
    fn the_oldest_commit_that_the_store_lacks_is_found_by_decoding() {
        let packed = SystemDisk.read(Path::new(WAL)).expect("a capture");
        let wal = zstd::decode_all(&packed[..]).expect("zstd");
        let raw = &wal[..wal.len().min(1 << 20)];
        let all = commits_in(raw);
        assert!(all.len() > 3, "{} commits", all.len());
        let dir = tempfile::tempdir().expect("a folder");
        let slot = WalSegments(size()).slot(Position::new(Epoch(1), Offset(START)));
        let head = SegmentHead {
            engine: Engine::Postgresql,
            lineage: 1,
            epoch: Epoch(1),
            number: slot.number,
            writer: 1,
            start: slot.start,
            previous: Hash::NONE,
        };
        let disk = Arc::new(SystemDisk);
        let mut open = OpenFile::create(disk, dir.path(), slot, head).expect("a file");
        // As a slow database's frames are: small, and cut anywhere.
        for piece in raw.chunks(5000) {
            open.append(&Frame::of(Codec::Lz4, piece).expect("a frame"), piece).expect("appended");
        }
        let next = Offset(START + raw.len() as u64);
        let (epoch, previous) = (Epoch(1), Hash::NONE);
        let start = SpoolStart { epoch, next, previous, open: Some(open), proved: None };
        let recovered = Recovered { sealed: Vec::new(), start, bytes: 0 };
        let commits = WalCommits(size());
        let oldest = |stored| {
            oldest_commits(&SystemDisk, &recovered, stored, &commits)
                .expect("the spool is readable")
        };
        let end = Position::new(Epoch(1), next);
        assert_eq!(oldest(0), [(end, all[0].1)]);
        // A commit is in the store when its record is there to the end.
        assert_eq!(oldest(all[2].0 - 1), [(end, all[2].1)]);
        assert_eq!(oldest(all[2].0), [(end, all[3].1)]);
        assert_eq!(oldest(all[all.len() - 1].0), []);
    }
}
