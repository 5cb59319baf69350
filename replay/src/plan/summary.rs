//! A plan as a person reads it.

use proto::position::ByteCount;

use super::shared::Summary;
use super::{Plan, PlannedSegment};
use crate::catalog::Commit;

impl Plan {
    /// What a person is shown before it is done.
    pub fn summary(&self) -> String {
        let (target, base) = (&self.target, &self.base);
        let side = if target.inclusive { "after" } else { "before" };
        let damaged = if base.damaged { ", DAMAGED" } else { "" };
        let summary = Summary {
            head: &self.head,
            asked: &target.asked,
            stop: format!(
                "stops      {side} the record at {} on timeline {}",
                target.lsn, target.timeline
            ),
            last_kept: target.last_kept.as_ref().map(shown),
            left_out: target.first_left_out.as_ref().map(shown),
            base: &base.id,
            finished: base.finished,
            server: format!("PostgreSQL {}{damaged}", base.version_num / 10_000),
            segments: self.segments.len(),
            log: self.log(),
            fetch: self.fetch,
            disk: Some(format!("{} and what the database grows by", ByteCount(self.disk_bytes))),
            kind: "cluster",
            warnings: &self.warnings,
        };
        summary.text()
    }

    fn log(&self) -> String {
        let name = |segment: Option<&PlannedSegment>| {
            segment.map_or_else(String::new, |segment| segment.name.clone())
        };
        let (first, last) = (name(self.segments.first()), name(self.segments.last()));
        let span = if self.segments.len() == 1 { first } else { format!("{first} to {last}") };
        format!("{span}; frozen at {}", self.end.lsn)
    }
}

fn shown(commit: &Commit) -> String {
    let xid = commit.xid.map_or("unknown".to_owned(), |xid| xid.to_string());
    format!("transaction {xid} at {} (LSN {})", commit.time, commit.start)
}
