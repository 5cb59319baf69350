//! Timeline history files: which timeline branched from which, where, and why.
//!
//! In: the raw bytes of a `.history` file. Out: its branches, oldest first. The raw bytes are kept
//! as they came, for they are what the archive stores and what recovery reads; nothing is written
//! here. Source: src/backend/access/transam/timeline.c, `readTimeLineHistory` and
//! `writeTimeLineHistory`.

use bytes::Bytes;

use super::lsn::{Lsn, Timeline};

/// The reason that a promotion writes (xlogrecovery.c, `getRecoveryStopReason`): every stop at a
/// target writes another one.
const PROMOTION: &str = "no recovery target specified";

/// One history file: how `timeline` came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub timeline: Timeline,
    /// The file, byte for byte.
    pub raw: Bytes,
    /// Oldest first; the last one is where `timeline` itself begins.
    pub entries: Vec<Branch>,
}

/// `parent` was left at `at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    pub parent: Timeline,
    /// The first byte that no longer belongs to `parent`.
    pub at: Lsn,
    pub reason: String,
}

/// A timeline and the part of the log that it owns on the way to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub timeline: Timeline,
    pub from: Lsn,
    /// The first byte that the next timeline owns; none for the last one.
    pub until: Option<Lsn>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HistoryError {
    #[error("history of timeline {timeline}, line {line}: expected {expected}, found {found:?}")]
    Line { timeline: Timeline, line: usize, expected: &'static str, found: String },
    #[error("history of timeline {timeline}, line {line}: timeline {found} is not above {below}")]
    Order { timeline: Timeline, line: usize, below: Timeline, found: Timeline },
    #[error("history of timeline {timeline}: names timeline {found} as its own ancestor")]
    OwnAncestor { timeline: Timeline, found: Timeline },
    #[error("history of timeline {timeline}: no parent is named")]
    Empty { timeline: Timeline },
}

impl History {
    /// # Errors
    /// When a line cannot be read or the timelines do not rise to `timeline`.
    pub fn parse(timeline: Timeline, raw: Bytes) -> Result<Self, HistoryError> {
        let mut entries: Vec<Branch> = Vec::new();
        for (number, line) in raw.split(|b| *b == b'\n').enumerate() {
            let line = String::from_utf8_lossy(line);
            let text = line.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let branch = parse_line(timeline, number + 1, text)?;
            if let Some(last) = entries.last()
                && branch.parent <= last.parent
            {
                let (below, found) = (last.parent, branch.parent);
                return Err(HistoryError::Order { timeline, line: number + 1, below, found });
            }
            if branch.parent >= timeline {
                return Err(HistoryError::OwnAncestor { timeline, found: branch.parent });
            }
            entries.push(branch);
        }
        if entries.is_empty() && timeline.0 > 1 {
            return Err(HistoryError::Empty { timeline });
        }
        Ok(Self { timeline, raw, entries })
    }

    /// The history of a timeline without one: timeline 1.
    pub fn first(timeline: Timeline) -> Self {
        Self { timeline, raw: Bytes::new(), entries: Vec::new() }
    }

    /// `00000002.history`
    pub fn file_name(timeline: Timeline) -> String {
        format!("{:08X}.history", timeline.0)
    }

    /// The timeline that a history file's name stands for.
    pub fn parse_name(name: &str) -> Option<Timeline> {
        let digits = name.strip_suffix(".history")?;
        let plain = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let number = plain.then(|| u32::from_str_radix(digits, 16).ok())??;
        Some(Timeline(number))
    }

    /// Where and why this timeline itself began; none for the first one.
    pub fn branch(&self) -> Option<&Branch> {
        self.entries.last()
    }

    /// Who owns which part of the log on the way to this timeline, oldest first.
    pub fn path(&self) -> Vec<Stretch> {
        let mut from = Lsn(0);
        let mut path = Vec::with_capacity(self.entries.len() + 1);
        for branch in &self.entries {
            path.push(Stretch { timeline: branch.parent, from, until: Some(branch.at) });
            from = branch.at;
        }
        path.push(Stretch { timeline: self.timeline, from, until: None });
        path
    }

    /// The timeline that owns the byte at `lsn`. As in PostgreSQL's `tliOfPointInHistory`, a
    /// branch point itself belongs to the newer timeline.
    pub fn owner_of(&self, lsn: Lsn) -> Timeline {
        self.entries.iter().find(|b| lsn < b.at).map_or(self.timeline, |b| b.parent)
    }

    /// Where `timeline` was left on the way here; `None` when it is no ancestor.
    pub fn left_at(&self, timeline: Timeline) -> Option<Lsn> {
        self.entries.iter().find(|b| b.parent == timeline).map(|b| b.at)
    }

    /// Whether what stands at `lsn` of `timeline` is part of this timeline's past.
    pub fn contains(&self, timeline: Timeline, lsn: Lsn) -> bool {
        timeline == self.timeline || self.left_at(timeline).is_some_and(|left| lsn <= left)
    }

    /// Whether `ancestor`'s whole history is the beginning of this one's.
    pub fn continues(&self, ancestor: &Self) -> bool {
        let shared = ancestor.entries.len();
        if self.timeline == ancestor.timeline {
            return same_places(&self.entries, &ancestor.entries);
        }
        self.entries.len() > shared
            && same_places(&self.entries[..shared], &ancestor.entries)
            && self.entries[shared].parent == ancestor.timeline
    }
}

impl Branch {
    pub fn is_promotion(&self) -> bool {
        is_promotion(&self.reason)
    }
}

/// Whether a branch came from a promotion, and not from a recovery to a target: the mark of a
/// restored copy (DESIGN §5.7).
pub fn is_promotion(reason: &str) -> bool {
    reason.trim() == PROMOTION
}

fn same_places(a: &[Branch], b: &[Branch]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.parent == b.parent && a.at == b.at)
}

fn parse_line(timeline: Timeline, line: usize, text: &str) -> Result<Branch, HistoryError> {
    let bad = |expected| HistoryError::Line { timeline, line, expected, found: text.to_owned() };
    // `sscanf("%u\t%X/%08X")`: any white space stands between the fields.
    let (parent, rest) = text
        .split_once(|c: char| c.is_ascii_whitespace())
        .ok_or_else(|| bad("a timeline and a position"))?;
    let parent = parent.parse().map_err(|_| bad("a timeline number"))?;
    let rest = rest.trim_start();
    let (at, reason) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    let at = at.parse().map_err(|_| bad("a position like 16/B374D848"))?;
    Ok(Branch { parent: Timeline(parent), at, reason: reason.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIRD: &str = "1\t0/3000148\tno recovery target specified\n\
        # a comment\n\n\
        2\t1/A0000000\tbefore 2026-11-20 14:20:00+00\n";

    fn third() -> History {
        History::parse(Timeline(3), Bytes::from_static(THIRD.as_bytes())).expect("a history")
    }

    #[test]
    fn a_history_names_the_owner_of_every_position() {
        let history = third();
        assert_eq!(history.raw, THIRD.as_bytes());
        for (lsn, owner) in [
            (0, 1),
            (0x0300_0147, 1),
            (0x0300_0148, 2),
            (0x1_9FFF_FFFF, 2),
            (0x1_A000_0000, 3),
            (u64::MAX, 3),
        ] {
            assert_eq!(history.owner_of(Lsn(lsn)), Timeline(owner), "{lsn:X}");
        }
        assert_eq!(history.path().len(), 3);
        assert!(history.contains(Timeline(1), Lsn(0x0300_0148)));
        assert!(!history.contains(Timeline(1), Lsn(0x0300_0149)));
        assert!(!history.contains(Timeline(4), Lsn(0)));
    }

    #[test]
    fn only_a_promotion_without_a_target_counts_as_one() {
        let history = third();
        assert!(history.entries[0].is_promotion());
        assert!(!history.entries[1].is_promotion());
    }

    #[test]
    fn a_history_continues_only_the_one_it_came_from() {
        let second = "1\t0/3000148\tno recovery target specified\n";
        let parse = |text: &'static str| {
            History::parse(Timeline(2), Bytes::from_static(text.as_bytes())).expect("a history")
        };
        assert!(third().continues(&parse(second)));
        assert!(third().continues(&History::first(Timeline(1))));
        assert!(!third().continues(&parse("1\t0/3000150\tno recovery target specified\n")));
        assert!(!parse(second).continues(&third()));
    }

    #[test]
    fn a_history_that_postgres_never_wrote_is_refused() {
        for text in ["x\t0/1\ty", "1", "1\tzz", "3\t0/1\tr", "1\t0/1\tr\n1\t0/2\tr", "", "# only"] {
            let raw = Bytes::copy_from_slice(text.as_bytes());
            assert!(History::parse(Timeline(3), raw).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_history_file_is_named_in_hexadecimal() {
        assert_eq!(History::file_name(Timeline(26)), "0000001A.history");
        assert_eq!(History::parse_name("0000001A.history"), Some(Timeline(26)));
        for name in ["1A.history", "0000001A.histor", "+000001A.history", "0000001A.history.x"] {
            assert_eq!(History::parse_name(name), None, "{name}");
        }
    }
}
