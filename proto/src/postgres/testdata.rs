//! Real captures for the tests: what servers of 14 to 18 wrote, and what their `pg_waldump` read
//! in it (`testdata/wal/README.md`).

use std::path::PathBuf;

use super::lsn::{Lsn, SegmentId, SegmentSize};

pub(crate) const VERSIONS: [u8; 5] = [14, 15, 16, 17, 18];

pub(crate) struct Capture {
    pub(crate) version: u8,
    pub(crate) size: SegmentSize,
    pub(crate) start: Lsn,
    pub(crate) wal: Vec<u8>,
    pub(crate) dump: Vec<Line>,
}

/// One line of `pg_waldump`.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) manager: String,
    pub(crate) total_len: u32,
    pub(crate) xid: u32,
    pub(crate) lsn: Lsn,
    pub(crate) prev: Lsn,
    pub(crate) description: String,
}

impl Capture {
    pub(crate) fn open(version: u8) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../testdata/wal/{version}"));
        let size = SegmentSize::try_from(1 << 20).expect("a size");
        let name = std::fs::read_dir(&folder)
            .expect("the captures are part of the source")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|name| name.ends_with(".wal.zst"))
            .expect("a capture");
        let first = SegmentId::parse(&name[..24], size).expect("named after its first segment");
        let unpack = |name: &str| {
            let file = std::fs::File::open(folder.join(name)).expect("a file of the capture");
            zstd::decode_all(file).expect("zstd")
        };
        let text = String::from_utf8(unpack("waldump.txt.zst")).expect("text");
        let dump = text.lines().filter_map(Line::parse).collect();
        Self { version, size, start: first.start(size), wal: unpack(&name), dump }
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        VERSIONS.into_iter().map(Self::open)
    }
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let (manager, rest) = line.strip_prefix("rmgr: ")?.split_once("len (rec/tot):")?;
        let (lengths, rest) = rest.split_once(", tx:")?;
        let (xid, rest) = rest.split_once(", lsn:")?;
        let (lsn, rest) = rest.split_once(", prev ")?;
        let (prev, rest) = rest.split_once(',')?;
        Some(Self {
            manager: manager.trim().to_owned(),
            total_len: lengths.split_once('/')?.1.trim().parse().ok()?,
            xid: xid.trim().parse().ok()?,
            lsn: lsn.trim().parse().ok()?,
            prev: prev.trim().parse().ok()?,
            description: rest.trim().trim_start_matches("desc:").trim().to_owned(),
        })
    }

    /// The moment that the description shows, as our own text shows it.
    pub(crate) fn time(&self) -> Option<String> {
        let at = self.description.find(" UTC")?;
        let text = &self.description[..at];
        let moment = &text[text.len().checked_sub(26)?..];
        Some(format!("{}Z", moment.replace(' ', "T")))
    }
}
