//! Where an archive of a set begins, and where a member's oplog does.

use bson::{RawDocumentBuf, doc};
use mongodb::error::Result as Answer;
use proto::mongodb::{Entry, OpTime, OplogTs};

use super::member::PATIENCE;
use super::{Error, Member, tail};

/// The entry that a first base needs the log from: the newest one that a majority has, or the first
/// one of the oldest transaction that is still open.
///
/// # Errors
/// When the member cannot be asked, or its oplog is empty.
pub async fn first_entry(member: &Member) -> Result<OpTime, Error> {
    // Before the newest entry is looked for: a transaction that begins in between lies behind it.
    let open = oldest_open_transaction(member).await?;
    let newest = newest(member).await?;
    match open {
        Some(open) if open < newest.ts => {
            // As far back as this oplog goes.
            Ok(at_or_after(member, open).await?.unwrap_or(newest))
        }
        _ => Ok(newest),
    }
}

/// The newest entry that this member knows a majority to have.
///
/// # Errors
/// When it cannot be asked, or its oplog is empty.
pub async fn newest(member: &Member) -> Result<OpTime, Error> {
    one(member, doc! {}, -1).await?.ok_or_else(|| no_entry(member))
}

/// The oldest entry that it still has.
///
/// # Errors
/// As [`newest`].
pub async fn oldest(member: &Member) -> Result<OpTime, Error> {
    one(member, doc! {}, 1).await?.ok_or_else(|| no_entry(member))
}

/// The first entry at `ts` or behind it, if there is one.
///
/// # Errors
/// When the member cannot be asked.
pub async fn at_or_after(member: &Member, ts: OplogTs) -> Result<Option<OpTime>, Error> {
    one(member, doc! { "ts": { "$gte": bson::Timestamp::from(ts) } }, 1).await
}

fn no_entry(member: &Member) -> Error {
    Error::Answer { member: member.name().to_owned(), field: "an entry in its oplog" }
}

async fn one(
    member: &Member,
    filter: bson::Document,
    natural: i32,
) -> Result<Option<OpTime>, Error> {
    let oplog = tail::oplog(member);
    let find = oplog.find_one(filter).sort(doc! { "$natural": natural });
    let work = async { find.await as Answer<Option<RawDocumentBuf>> };
    let found = member.within("read local.oplog.rs", PATIENCE, work).await?;
    let place = found.map(|raw| Entry::place(&raw).map(|(at, _)| at)).transpose();
    place.map_err(|source| Error::NoEntry { member: member.name().to_owned(), source })
}

/// `config.transactions` holds one document a session; a state stands there only for transactions,
/// and `startOpTime` only while they are open.
async fn oldest_open_transaction(member: &Member) -> Result<Option<OplogTs>, Error> {
    let open = doc! { "state": { "$in": ["inProgress", "prepared"] } };
    let find = doc! {
        "find": "transactions", "filter": open, "sort": { "startOpTime.ts": 1 }, "limit": 1,
        "singleBatch": true,
    };
    let answer = member.run("read config.transactions", "config", find).await?;
    let first = answer.get_document("cursor").ok();
    let first =
        first.and_then(|cursor| cursor.get_array("firstBatch").ok()?.first()?.as_document());
    let start = first.and_then(|found| found.get_document("startOpTime").ok());
    Ok(start.and_then(|start| start.get_timestamp("ts").ok()).map(OplogTs::from))
}
