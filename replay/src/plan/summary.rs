//! A plan as a person reads it.

use proto::position::ByteCount;

use super::{Plan, PlannedSegment};

impl Plan {
    /// What a person is shown before it is done.
    pub fn summary(&self) -> String {
        let target = &self.target;
        let side = if target.inclusive { "after" } else { "before" };
        let mut lines = vec![
            format!("target     {}", target.asked),
            format!(
                "stops      {side} the record at {} on timeline {}",
                target.lsn, target.timeline
            ),
        ];
        let commit = |commit: &crate::catalog::Commit| {
            let xid = commit.xid.map_or("unknown".to_owned(), |xid| xid.to_string());
            format!("transaction {xid} at {} (LSN {})", commit.time, commit.start)
        };
        if let Some(kept) = &target.last_kept {
            lines.push(format!("last kept  {}", commit(kept)));
        }
        if let Some(left) = &target.first_left_out {
            lines.push(format!("left out   {}", commit(left)));
        }
        let base = &self.base;
        let damaged = if base.damaged { ", DAMAGED" } else { "" };
        lines.push(format!(
            "base       {} (finished {}, PostgreSQL {}{damaged})",
            base.id,
            base.finished,
            base.version_num / 10_000
        ));
        lines.push(self.log_line());
        lines.push(format!(
            "fetch      {} ({} base, {} log); disk {} and what the database grows by",
            ByteCount(self.fetch.total()),
            ByteCount(self.fetch.base),
            ByteCount(self.fetch.log),
            ByteCount(self.disk_bytes)
        ));
        lines.push(format!(
            "archive    {}  lineage {}  cluster {}",
            self.archive, self.lineage, self.identity.cluster
        ));
        lines.extend(self.warnings.iter().map(|warning| format!("note       {warning}")));
        lines.join("\n") + "\n"
    }

    fn log_line(&self) -> String {
        let name = |segment: Option<&PlannedSegment>| {
            segment.map_or_else(String::new, |segment| segment.name.clone())
        };
        let (first, last) = (name(self.segments.first()), name(self.segments.last()));
        let count = self.segments.len();
        let counted = if count == 1 { "1 segment" } else { &format!("{count} segments") };
        let span = if count == 1 { first } else { format!("{first} to {last}") };
        format!("log        {counted}, {span}; frozen at {}", self.end.lsn)
    }
}
