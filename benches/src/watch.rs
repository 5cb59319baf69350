//! How far an archive in a folder is durable, seen from outside: what a restore would find. Only the
//! tails are looked at, so that what is sealed counts no earlier than the tail behind it.

use std::path::{Path, PathBuf};

use proto::mongodb::{Documents, Entry, OplogTs};
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize};
use proto::segment::{TailHeader, read_tail};

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

/// The same of an oplog: its newest entry.
#[derive(Debug)]
pub struct OplogEnd {
    tails: PathBuf,
    open: Option<String>,
    next: u64,
    /// The beginning of an entry of which a later tail has the rest.
    rest: Vec<u8>,
    end: OplogTs,
}

impl OplogEnd {
    pub fn new(archive: &Path) -> Self {
        let tails = archive.join("lineage/1/tail");
        Self { tails, open: None, next: 0, rest: Vec::new(), end: OplogTs::default() }
    }

    /// The last whole entry in the tails of the newest segment that has any.
    pub fn now(&mut self) -> OplogTs {
        let names = std::fs::read_dir(&self.tails).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        // Names sort as the log does.
        let newest = names.max();
        if newest != self.open {
            self.open = newest;
            self.next = 0;
            self.rest.clear();
        }
        while let Some(name) = &self.open {
            let tail = self.tails.join(name).join(format!("{:08}.zst", self.next));
            let Ok(bytes) = std::fs::read(tail) else { break };
            let Ok((_, raw)) = read_tail(&bytes) else { break };
            self.rest.extend(raw);
            let mut entries = Documents::new(&self.rest);
            let last = entries.by_ref().flatten().last();
            if let Some(at) = last.and_then(|(_, entry)| Entry::place(entry).ok()) {
                self.end = self.end.max(at.0.ts);
            }
            let whole = entries.offset();
            self.rest.drain(..whole);
            self.next += 1;
        }
        self.end
    }
}
