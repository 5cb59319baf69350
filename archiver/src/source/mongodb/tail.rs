//! A cursor that follows one member's oplog.
//!
//! Enters: a member, and the entry that was archived last. Leaves: batches that begin with that very
//! entry, as bytes. Majority read concern: what is sent can never be rolled back. An empty batch
//! comes every half second: proof that nothing more is there yet.

use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf, doc};
use futures_util::StreamExt;
use mongodb::Collection;
use mongodb::options::{CollectionOptions, CursorType, ReadConcern};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use proto::mongodb::{Entry, OpTime, OplogTs};

use super::{Error, Member};

/// The collection, in `local`.
pub(super) const OPLOG: &str = "oplog.rs";
/// How long the server waits for something new before it answers with nothing.
const AWAIT: Duration = Duration::from_millis(500);
/// Entries, or events, in one answer. Without a limit a server that has them sends 16 MB: no faster, as the
/// next answer is prepared while one is taken in, and held in memory several times.
pub(super) const BATCH_ENTRIES: u32 = 500;
/// How long one answer may take: a server that has much to read from its disk is slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many empty answers a member that lags behind us is given before another is asked.
const BEHIND_MAX: u32 = 20;

/// As it completes "cannot …" and "may not …".
const READING: &str = "read local.oplog.rs";

/// A cursor, and the batch that it began with.
pub struct Tail {
    member: Member,
    cursor: RawBatchCursor,
}

/// One answer of the server.
pub struct Batch(RawBatch);

/// Where a cursor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With this very entry, or not at all.
    Entry(OpTime),
    /// With the first entry at this timestamp or behind it.
    AtLeast(OplogTs),
}

pub(super) fn oplog(member: &Member) -> Collection<RawDocumentBuf> {
    let options = CollectionOptions::builder().read_concern(ReadConcern::majority()).build();
    member.client().database("local").collection_with_options(OPLOG, options)
}

impl Tail {
    /// Opens the cursor and waits for its first entry.
    ///
    /// # Errors
    /// [`Error::EntryGone`], [`Error::OtherHistory`] or [`Error::Behind`] when the first entry is
    /// not the one that it must be.
    pub async fn open(member: Member, from: From) -> Result<(Self, Batch), Error> {
        let ts = match from {
            From::Entry(at) => at.ts,
            From::AtLeast(ts) => ts,
        };
        let oplog = oplog(&member);
        let find = oplog
            .find(doc! { "ts": { "$gte": bson::Timestamp::from(ts) } })
            .cursor_type(CursorType::TailableAwait)
            .max_await_time(AWAIT)
            .no_cursor_timeout(true)
            .batch_size(BATCH_ENTRIES)
            .batch();
        let cursor = member.within(READING, PATIENCE, find).await?;
        let mut tail = Self { member, cursor };
        for _ in 0..BEHIND_MAX {
            let batch = tail.next().await?;
            if let Some(first) = batch.first(&tail.member)? {
                tail.check(from, first)?;
                return Ok((tail, batch));
            }
        }
        let member = tail.member.name().to_owned();
        Err(Error::Behind {
            member,
            wanted: ts.at(if let From::Entry(at) = from { at.term } else { -1 }),
        })
    }

    fn check(&self, from: From, found: OpTime) -> Result<(), Error> {
        let member = || self.member.name().to_owned();
        match from {
            From::Entry(wanted) if found.ts > wanted.ts => {
                Err(Error::EntryGone { member: member(), wanted })
            }
            From::Entry(wanted) if found != wanted => {
                Err(Error::OtherHistory { member: member(), wanted, found })
            }
            _ => Ok(()),
        }
    }

    /// The next answer; empty when nothing new came in half a second. Not cancel-safe: once
    /// cancelled, the tail is to be dropped.
    ///
    /// # Errors
    /// When the cursor has ended or the member is away.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        let Self { member, cursor } = self;
        let next = async { cursor.next().await.transpose() };
        let batch = member.within(READING, PATIENCE, next).await?;
        batch.map(Batch).ok_or_else(|| Error::CursorEnded { member: member.name().to_owned() })
    }

    pub const fn member(&self) -> &Member {
        &self.member
    }
}

impl Batch {
    /// The entries, where they lie.
    ///
    /// # Errors
    /// When the answer is none.
    pub fn entries(
        &self,
        member: &Member,
    ) -> Result<impl Iterator<Item = Result<&RawDocument, Error>>, Error> {
        let name = member.name().to_owned();
        let broken = move |_| Error::Answer { member: name.clone(), field: "documents" };
        let entries = self.0.doc_slices().map_err(|error| member.error(READING, error))?;
        Ok(entries.into_iter().map(move |entry| {
            let entry = entry.map_err(&broken)?;
            entry
                .as_document()
                .ok_or_else(|| Error::Answer { member: String::new(), field: "documents" })
        }))
    }

    pub(super) const fn new(batch: RawBatch) -> Self {
        Self(batch)
    }

    /// Of a change stream: where it goes on behind this batch.
    pub fn resume_token(&self) -> Option<&RawDocument> {
        let cursor = self.0.as_raw_document().get_document("cursor").ok()?;
        cursor.get_document("postBatchResumeToken").ok()
    }

    /// Its first entry.
    pub(super) fn first(&self, member: &Member) -> Result<Option<OpTime>, Error> {
        let Some(first) = self.entries(member)?.next() else { return Ok(None) };
        let source = |source| Error::NoEntry { member: member.name().to_owned(), source };
        Entry::place(first?).map(|(at, _)| Some(at)).map_err(source)
    }
}
