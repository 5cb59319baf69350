//! Whether recovery stopped where the plan says: looked at before anything is written.
//!
//! Enters: the plan and a server at its target. Leaves: one [`Check`] for each thing that can be
//! looked at: the position, the server's own words, the last commit kept, the first one left out.

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

/// The checks, and the end of the last record replayed.
///
/// # Errors
/// When the server does not answer.
pub async fn prove(
    client: &Client,
    plan: &Plan,
    log: &Log,
) -> Result<(Vec<Check>, Option<Lsn>), RestoreError> {
    let text = "SELECT pg_last_wal_replay_lsn()::text, \
                (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint, \
                pg_snapshot_xmax(pg_current_snapshot())::text";
    let row = client.query_one(text, &[]).await.map_err(asking("where it stopped"))?;
    let reached: Option<String> = row.get(0);
    let reached: Option<Lsn> = reached.and_then(|text| text.parse().ok());
    let time: Option<i64> = row.get(1);
    let next: String = row.get(2);
    let mut checks = vec![position(plan, reached)];
    checks.extend(words(plan, log));
    let next = next.parse().unwrap_or(0);
    if let Some(kept) = plan.target.last_kept {
        match kept.xid {
            Some(xid) => checks.push(transaction(client, xid, next, &kept, true).await?),
            // Without an id only the time tells.
            None => checks.extend(time.map(|time| timed(&kept, Timestamp(time)))),
        }
    }
    if let Some(left_out) = plan.target.first_left_out
        && let Some(xid) = left_out.xid
    {
        checks.push(transaction(client, xid, next, &left_out, false).await?);
    }
    Ok((checks, reached))
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
