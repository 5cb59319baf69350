//! Where every object of an archive stands: the only place that knows a key (docs/FORMAT.md).

use crate::mongodb::OplogTs;
use crate::position::Epoch;
use crate::postgres::lsn::{SegmentId, SegmentSize, Timeline};
use crate::segment::MERGE_COUNT;
use crate::store::Key;

/// How to restore by hand: the archive's first object.
pub fn readme() -> Key {
    Key::new("README.md")
}

/// The folder of all lineages.
pub const LINEAGES: &str = "lineage/";

/// One unbroken life of a cluster inside an archive; counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lineage(pub u32);

/// The names of one segment: engine-specific, decided once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentName {
    pub epoch: Epoch,
    pub group: String,
    pub name: String,
}

impl SegmentName {
    pub fn postgres(id: SegmentId, size: SegmentSize) -> Self {
        Self { epoch: id.timeline.into(), group: id.group(size), name: id.name(size) }
    }

    /// An oplog segment, named by the timestamp of its first entry and grouped by its hour, UTC.
    /// Names sort as the log does.
    pub fn mongodb(first: OplogTs) -> Self {
        let second = first.time();
        let group = second.to_string()[..HOUR_LEN].to_owned();
        let name = format!("{:010}.{:010}{BSON}", first.seconds(), first.increment());
        Self { epoch: OPLOG_EPOCH, group, name }
    }
}

/// An oplog has one epoch: elections change the term of its entries, and branch nothing off that a
/// majority has confirmed.
pub const OPLOG_EPOCH: Epoch = Epoch(1);

/// `2026-11-20T09`.
const HOUR_LEN: usize = 13;
/// What the name of an oplog segment ends in.
const BSON: &str = ".bson";

impl Lineage {
    pub fn root(self) -> String {
        format!("lineage/{}/", self.0)
    }

    fn key(self, rest: &str) -> Key {
        Key::new(format!("{}{rest}", self.root()))
    }

    pub fn identity(self) -> Key {
        self.key("identity.json")
    }

    /// A PostgreSQL timeline's history file, raw.
    pub fn history(self, timeline: Timeline) -> Key {
        self.key(&format!("epochs/{:08X}.history", timeline.0))
    }

    pub fn epochs(self) -> String {
        format!("{}epochs/", self.root())
    }

    pub fn log(self) -> String {
        format!("{}log/", self.root())
    }

    pub fn log_epoch(self, epoch: Epoch) -> String {
        format!("{}{:08X}/", self.log(), epoch.0)
    }

    pub fn log_group(self, epoch: Epoch, group: &str) -> String {
        format!("{}{group}/", self.log_epoch(epoch))
    }

    pub fn sealed(self, segment: &SegmentName) -> Key {
        Key::new(format!("{}{}.zst", self.log_group(segment.epoch, &segment.group), segment.name))
    }

    /// A timeline's last, unfilled segment.
    pub fn partial(self, segment: &SegmentName) -> Key {
        let folder = self.log_group(segment.epoch, &segment.group);
        Key::new(format!("{folder}{}.partial.zst", segment.name))
    }

    pub fn tails(self) -> String {
        format!("{}tail/", self.root())
    }

    /// The chain of one segment's tails.
    pub fn chain(self, segment: &str) -> String {
        format!("{}{segment}/", self.tails())
    }

    pub fn tail(self, segment: &str, seq: u64) -> Key {
        Key::new(format!("{}{seq:08}.zst", self.chain(segment)))
    }

    /// The folder of tails merged `level` times (1 or 2): it sorts behind the single ones.
    pub fn merged_chain(self, segment: &str, level: u32) -> String {
        format!("{}m{level}/", self.chain(segment))
    }

    /// A merged tail, named by the first sequence number in it.
    pub fn merged(self, segment: &str, level: u32, first: u64) -> Key {
        debug_assert_eq!(first % MERGE_COUNT.pow(level), 0, "merged tails are aligned");
        Key::new(format!("{}{first:08}.zst", self.merged_chain(segment, level)))
    }

    pub fn index(self, segment: &SegmentName, version: u32) -> Key {
        Key::new(format!("{}{}.v{version}", self.index_epoch(segment.epoch), segment.name))
    }

    pub fn index_epoch(self, epoch: Epoch) -> String {
        format!("{}index/{:08X}/", self.root(), epoch.0)
    }

    /// Summaries of the 256 segments from `first` on.
    pub fn roll_up(self, first: &SegmentName, version: u32) -> Key {
        Key::new(format!("{}roll-up/{}.v{version}", self.index_epoch(first.epoch), first.name))
    }

    pub fn bases(self) -> String {
        format!("{}base/", self.root())
    }

    pub fn base(self, id: &str) -> String {
        format!("{}{id}/", self.bases())
    }

    /// `name` is an object of that base: `base.tar.zst.000001`, `backup_manifest.zst` …
    pub fn base_object(self, id: &str, name: &str) -> Key {
        Key::new(format!("{}{name}", self.base(id)))
    }

    /// The base's last object: without it the base does not exist.
    pub fn base_complete(self, id: &str) -> Key {
        self.base_object(id, "complete.json")
    }

    pub fn ledger(self) -> String {
        format!("{}ledger/", self.root())
    }

    pub fn ledger_entry(self, seq: u64) -> Key {
        Key::new(format!("{}{seq:08}.json", self.ledger()))
    }
}

/// The number in `00000042.zst` or `00000042.json`.
pub fn sequence_of(name: &str) -> Option<u64> {
    let (digits, _) = name.split_once('.')?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// The WAL segment that an object below `log/` holds, and whether it is a partial one.
pub fn postgres_segment_of(name: &str, size: SegmentSize) -> Option<(SegmentId, bool)> {
    let name = name.strip_suffix(".zst")?;
    let (name, partial) = match name.strip_suffix(".partial") {
        Some(name) => (name, true),
        None => (name, false),
    };
    SegmentId::parse(name, size).ok().map(|id| (id, partial))
}

/// The oplog segment that an object below `log/` holds, by its first entry, and whether it is a
/// partial one.
pub fn mongodb_segment_of(name: &str) -> Option<(OplogTs, bool)> {
    let name = name.strip_suffix(".zst")?;
    match name.strip_suffix(".partial") {
        Some(name) => mongodb_first(name).map(|first| (first, true)),
        None => mongodb_first(name).map(|first| (first, false)),
    }
}

/// The first entry of the oplog segment of that name: `1763632800.0000000001.bson`.
pub fn mongodb_first(name: &str) -> Option<OplogTs> {
    let (seconds, increment) = name.strip_suffix(BSON)?.split_once('.')?;
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse::<u32>().ok() } else { None }
    };
    let first = OplogTs::new(number(seconds)?, number(increment)?);
    // Only one way of writing it is ours.
    (SegmentName::mongodb(first).name == name).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oplog_segments_are_grouped_by_their_hour_and_sort_as_the_log_does() {
        let name = |seconds, increment| SegmentName::mongodb(OplogTs::new(seconds, increment));
        let first = name(1_763_632_800, 1);
        assert_eq!(first.group, "2025-11-20T10");
        assert_eq!(
            Lineage(1).sealed(&first).as_str(),
            "lineage/1/log/00000001/2025-11-20T10/1763632800.0000000001.bson.zst"
        );
        assert_eq!(Lineage(1).tail(&first.name, 3).name(), "00000003.zst");
        let mut names = [name(1_763_632_800, 10), first.clone(), name(1_763_632_801, 1)];
        names.sort_by(|a, b| a.name.cmp(&b.name));
        let increments = names.map(|name| mongodb_first(&name.name).map(OplogTs::increment));
        assert_eq!(increments, [Some(1), Some(10), Some(1)]);
    }

    #[test]
    fn a_name_that_is_written_otherwise_is_no_oplog_segment() {
        let of =
            |name: &str| mongodb_segment_of(name).map(|(ts, partial)| (ts.to_string(), partial));
        let ours = "1763632800.0000000001.bson";
        assert_eq!(of(&format!("{ours}.zst")), Some(("1763632800,1".to_owned(), false)));
        assert_eq!(of(&format!("{ours}.partial.zst")), Some(("1763632800,1".to_owned(), true)));
        for bad in ["1763632800.1.bson.zst", "1763632800.+000000001.bson.zst", ".bson.zst", ours] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
