//! Whether recovery stopped where the plan says: looked at before anything is written.
//!
//! Enters: the plan and a server at its target. Leaves: one [`Check`] for each thing that can be
//! looked at: the position, the server's own words, the last commit kept, the first one left out.

use std::path::Path;

use proto::postgres::history::{Branch, History};
use proto::postgres::lsn::{Lsn, SegmentSize};
use proto::timestamp::Timestamp;
use tokio_postgres::Client;

use crate::catalog::Commit;
use crate::plan::Plan;
use crate::target::postgres::RestoreError;
use crate::target::postgres::report::Check;
use crate::target::postgres::server::Log;

/// xlog_internal.h: pages, and their headers (the first of a segment has the long one).
const PAGE: u64 = 8192;
const HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

fn asking(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> RestoreError {
    move |source| RestoreError::Query { what, source }
}

/// The checks, and the end of the last record replayed. `ended` is the data folder of a server
/// whose recovery has ended: what stands in its own timeline's history tells where.
///
/// # Errors
/// When the server does not answer.
pub async fn prove(
    client: &Client,
    plan: &Plan,
    log: &Log,
    ended: Option<&Path>,
) -> Result<(Vec<Check>, Option<Lsn>), RestoreError> {
    let text = "SELECT pg_last_wal_replay_lsn()::text, \
                (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint, \
                pg_snapshot_xmax(pg_current_snapshot())::text";
    let row = client.query_one(text, &[]).await.map_err(asking("where it stopped"))?;
    let reached: Option<String> = row.get(0);
    let time: Option<i64> = row.get(1);
    let next: String = row.get(2);
    let next = next.parse().unwrap_or(0);
    let branch = match ended {
        Some(folder) => Some(branch(client, folder).await?),
        None => None,
    };
    let reached: Option<Lsn> = match &branch {
        Some(branch) => branch.as_ref().map(|branch| branch.at),
        None => reached.and_then(|text| text.parse().ok()),
    };
    let mut checks = vec![position(plan, reached)];
    match &branch {
        Some(branch) => checks.push(reason(plan, branch.as_ref())),
        None => checks.extend(words(plan, log)),
    }
    if let Some(kept) = plan.target.last_kept {
        match kept.xid {
            Some(xid) => checks.push(transaction(client, xid, next, &kept, true).await?),
            // Without an id only the time tells.
            None => checks.extend(time.map(|time| timed(&kept, Timestamp(time)))),
        }
    }
    // Once recovery has ended its id may have been given to a transaction of the copy's own.
    if ended.is_none()
        && let Some(left_out) = plan.target.first_left_out
        && let Some(xid) = left_out.xid
    {
        checks.push(transaction(client, xid, next, &left_out, false).await?);
    }
    Ok((checks, reached))
}

/// How the timeline that the server is on began.
async fn branch(client: &Client, folder: &Path) -> Result<Option<Branch>, RestoreError> {
    let timeline = super::timeline_of(client).await?;
    let path = folder.join("pg_wal").join(History::file_name(timeline));
    let raw = match std::fs::read(&path) {
        Ok(raw) => raw,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RestoreError::Io { action: "reading", path, source }),
    };
    let history = History::parse(timeline, raw.into())
        .map_err(|e| RestoreError::Stopped { detail: e.to_string() })?;
    Ok(history.branch().cloned())
}

/// What the server wrote into its history when it stopped (xlogrecovery.c,
/// `getRecoveryStopReason`).
fn reason(plan: &Plan, branch: Option<&Branch>) -> Check {
    let target = &plan.target;
    let side = if target.inclusive { "after" } else { "before" };
    let lsn = target.lsn;
    // PostgreSQL writes the lower half without leading zeros.
    let expected =
        format!("{side} LSN {:X}/{:X} on timeline {}", lsn.0 >> 32, lsn.0 as u32, target.timeline);
    let found = branch.map_or_else(
        || "no history".to_owned(),
        |branch| format!("{} on timeline {}", branch.reason, branch.parent),
    );
    let padded = format!("{side} LSN {lsn} on timeline {}", target.timeline);
    let ok = found == expected || found == padded;
    Check { what: "the history says that it stopped".to_owned(), expected, found, ok }
}

fn position(plan: &Plan, reached: Option<Lsn>) -> Check {
    let target = &plan.target;
    let size = plan.segment_size();
    let found = reached.map_or_else(|| "nothing replayed".to_owned(), |lsn| lsn.to_string());
    let (expected, ok) = match (target.inclusive, target.record_end) {
        (false, _) => (
            format!("the record at {} is the next one", target.lsn),
            reached.is_some_and(|lsn| next_record(lsn, size) == target.lsn),
        ),
        (true, Some(end)) => (
            end.to_string(),
            reached.is_some_and(|lsn| next_record(lsn, size) == next_record(end, size)),
        ),
        (true, None) => {
            (format!("beyond {}", target.lsn), reached.is_some_and(|lsn| lsn > target.lsn))
        }
    };
    Check { what: "end of the last record replayed".to_owned(), expected, found, ok }
}

/// Where a record begins that follows one that ends at `end`: aligned, behind a page's header.
fn next_record(end: Lsn, size: SegmentSize) -> Lsn {
    let aligned = Lsn(end.0.next_multiple_of(8));
    match (aligned.0 % size.bytes(), aligned.0 % PAGE) {
        (0, _) => Lsn(aligned.0 + LONG_HEADER),
        (_, 0) => Lsn(aligned.0 + HEADER),
        _ => aligned,
    }
}

/// What the server wrote to its log when it stopped.
fn words(plan: &Plan, log: &Log) -> Option<Check> {
    let told = |after: bool, lsn: Lsn| format!("{} {lsn}", if after { "after" } else { "before" });
    let (after, lsn) = log.stopped_at()?;
    let (expected, found) = (told(plan.target.inclusive, plan.target.lsn), told(after, lsn));
    let ok = expected == found;
    Some(Check { what: "the server says that it stopped".to_owned(), expected, found, ok })
}

/// The fate of a transaction, by its id. Ids of the log have 32 bits; `next` tells the rest.
async fn transaction(
    client: &Client,
    xid: u32,
    next: u64,
    commit: &Commit,
    kept: bool,
) -> Result<Check, RestoreError> {
    let distance = i64::from(xid.wrapping_sub(next as u32).cast_signed());
    let whole = next.cast_signed() + distance;
    let status = if distance >= 0 {
        Some("not begun".to_owned())
    } else {
        let text = format!("SELECT pg_xact_status('{whole}'::xid8)");
        let row = client.query_one(&text, &[]).await.map_err(asking("a transaction's fate"))?;
        row.get::<_, Option<String>>(0)
    };
    let found = status.unwrap_or_else(|| "too old to tell".to_owned());
    let committed = found == "committed";
    let (what, expected, ok) = match kept {
        true => ("last commit kept", "committed", committed || found == "too old to tell"),
        false => ("first commit left out", "not committed", !committed),
    };
    let what = format!("{what} (transaction {xid}, {})", commit.time);
    Ok(Check { what, expected: expected.to_owned(), found, ok })
}

/// An abort behind the last commit moves the time on, never back.
fn timed(kept: &Commit, found: Timestamp) -> Check {
    Check {
        what: "time of the last transaction replayed".to_owned(),
        expected: format!("{} or later", kept.time),
        found: found.to_string(),
        ok: found >= kept.time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_record_stands_behind_alignment_and_page_headers() {
        let size = SegmentSize::DEFAULT;
        for (end, next) in [
            (0x0300_0141, 0x0300_0148),
            (0x0300_0148, 0x0300_0148),
            (0x0300_2000, 0x0300_2018),
            (0x0400_0000, 0x0400_0028),
            (0x03FF_FFFB, 0x0400_0028),
        ] {
            assert_eq!(next_record(Lsn(end), size), Lsn(next), "{end:X}");
        }
    }
}
