//! How far an archive in a folder is durable, seen from outside: what a restore would find.

use std::path::{Path, PathBuf};

use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize};
use proto::segment::TailHeader;

/// Looks at the newest objects only.
#[derive(Debug)]
pub struct ArchiveEnd {
    root: PathBuf,
    size: SegmentSize,
    open: Option<SegmentId>,
    next: u64,
    end: Lsn,
}

impl ArchiveEnd {
    pub fn new(archive: &Path, size: SegmentSize) -> Self {
        let root = archive.join("lineage/1");
        Self { root, size, open: None, next: 0, end: Lsn(0) }
    }

    /// The end of the tail chain of the newest segment that has one.
    pub fn now(&mut self) -> Lsn {
        let names = std::fs::read_dir(self.root.join("tail")).into_iter().flatten().flatten();
        let ids = names.filter_map(|entry| {
            SegmentId::parse(&entry.file_name().to_string_lossy(), self.size).ok()
        });
        let newest = ids.max();
        if newest != self.open {
            self.open = newest;
            self.next = 0;
        }
        while let Some(id) = self.open {
            let name = format!("tail/{}/{:08}.zst", id.name(self.size), self.next);
            let Ok(bytes) = std::fs::read(self.root.join(name)) else { break };
            let Ok(header) = TailHeader::decode(&bytes) else { break };
            self.end = self.end.max(header.end().into());
            self.next += 1;
        }
        self.end
    }
}
