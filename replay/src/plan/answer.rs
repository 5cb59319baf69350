//! What recovery is told about a file it asks for: decided from the plan alone, so that neither a
//! store that is away nor one that lies by omission can end recovery early (DESIGN §5.10).

use super::{Plan, PlannedSegment};
use proto::postgres::history::History;
use proto::postgres::lsn::{SegmentId, Timeline};

/// The plan's answer about one file name.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It is part of the restore: whatever keeps it from being served is an error.
    Segment(&'a PlannedSegment),
    /// A history file on the way to the target.
    History(Timeline),
    /// Proven to lie beyond the plan, or not to exist on the way to the target.
    Absent,
    /// No file that recovery asks for: never answered with "the log ends here".
    Unknown,
}

impl Plan {
    /// What `wal-fetch NAME` is about.
    pub fn answer(&self, name: &str) -> Answer<'_> {
        if let Some(timeline) = History::parse_name(name) {
            // A history beyond the target's timeline belongs to another future.
            let served = self.histories.contains(&timeline);
            return if served { Answer::History(timeline) } else { Answer::Absent };
        }
        let size = self.segment_size();
        let Ok(id) = SegmentId::parse(name, size) else { return Answer::Unknown };
        if let Some(found) = self.segments.iter().find(|segment| segment.name == name) {
            return Answer::Segment(found);
        }
        let number = |segment: Option<&PlannedSegment>| {
            segment.and_then(|s| SegmentId::parse(&s.name, size).ok()).map(|id| id.number)
        };
        match (number(self.segments.first()), number(self.segments.last())) {
            // In the range the plan names the one timeline that each segment comes from.
            (Some(first), Some(_)) if id.number >= first => Answer::Absent,
            _ => Answer::Unknown,
        }
    }
}
