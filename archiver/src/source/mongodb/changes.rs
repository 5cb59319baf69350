//! A change stream of the whole deployment, asked of one member.
//!
//! Enters: a member, and behind which event the stream goes on. Leaves: batches of events as bytes,
//! as the server makes them. Only what a majority has is sent. The server itself proves that it has
//! the event that the token is of: without it the stream is refused. An empty batch comes every half
//! second, with the token of how far the member has looked.

use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use futures_util::StreamExt;
use mongodb::raw_batch_cursor::RawBatchCursor;
use proto::mongodb::OplogTs;

use super::error::code;
use super::tail::{BATCH_ENTRIES, Batch};
use super::{Error, Member};

/// How long the server waits for something new before it answers with nothing.
const AWAIT: Duration = Duration::from_millis(500);
/// How long one answer may take: a member looks through its oplog for the place to go on from.
const PATIENCE: Duration = Duration::from_secs(120);

/// As it completes "cannot …" and "may not …".
pub(super) const WATCHING: &str = "open a change stream of the whole deployment";

/// Codes of src/mongo/base/error_codes.yml.
const FATAL: i32 = 280;
const HISTORY_LOST: i32 = 286;
const TOO_LARGE: i32 = 10334;
const NO_SUCH_STAGE: i32 = 40324;

pub struct Stream {
    member: Member,
    cursor: RawBatchCursor,
}

/// Where a stream begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Begin {
    /// With the first event at this time or behind it.
    At(OplogTs),
    /// Behind the event with this resume token, the whole of it.
    After(RawDocumentBuf),
}

impl Stream {
    /// Opens the stream; its first batch may be empty. `split` asks for events of more than 16 MB in
    /// fragments, and is taken back where the server does not know how.
    ///
    /// # Errors
    /// [`Error::HistoryLost`] when the member has not what the stream goes on behind.
    pub async fn open(
        member: Member,
        begin: &Begin,
        split: &mut bool,
    ) -> Result<(Self, Batch), Error> {
        let cursor = match cursor(&member, begin, *split).await {
            Err(Error::Driver { source, .. }) if *split && code(&source) == Some(NO_SUCH_STAGE) => {
                *split = false;
                cursor(&member, begin, false).await?
            }
            opened => opened?,
        };
        let mut stream = Self { member, cursor };
        let first = stream.next().await?;
        Ok((stream, first))
    }

    /// The next answer; empty when nothing new came in half a second. Not cancel-safe: once
    /// cancelled, the stream is to be dropped.
    ///
    /// # Errors
    /// When the cursor has ended or the member is away.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        let Self { member, cursor } = self;
        let next = async { cursor.next().await.transpose() };
        let batch = member.within(WATCHING, PATIENCE, next).await.map_err(lost)?;
        batch.map(Batch::new).ok_or_else(|| Error::CursorEnded { member: member.name().to_owned() })
    }

    pub const fn member(&self) -> &Member {
        &self.member
    }
}

async fn cursor(member: &Member, begin: &Begin, split: bool) -> Result<RawBatchCursor, Error> {
    let admin = member.client().database("admin");
    let stages = admin.aggregate(pipeline(Some(begin), split));
    let aggregate = stages.max_await_time(AWAIT).batch_size(BATCH_ENTRIES).batch();
    member.within(WATCHING, PATIENCE, aggregate).await.map_err(lost)
}

/// The stages of such a stream; from now on, without a place to begin.
pub(super) fn pipeline(begin: Option<&Begin>, split: bool) -> Vec<Document> {
    let mut stage = doc! {
        "allChangesForCluster": true,
        "showExpandedEvents": true,
        // Where a collection has images, an update is told by its result, exactly.
        "fullDocument": "whenAvailable",
    };
    match begin {
        Some(Begin::At(ts)) => {
            stage.insert("startAtOperationTime", bson::Timestamp::from(*ts));
        }
        Some(Begin::After(token)) => {
            // Of our own making or the server's: it can be read.
            let token = Document::try_from(token.clone()).unwrap_or_default();
            stage.insert("startAfter", token);
        }
        None => {}
    }
    let mut pipeline = vec![doc! { "$changeStream": stage }];
    if split {
        pipeline.push(doc! { "$changeStreamSplitLargeEvent": {} });
    }
    pipeline
}

fn lost(error: Error) -> Error {
    match error {
        Error::Driver { member, source, doing } => match code(&source) {
            Some(FATAL | HISTORY_LOST) => Error::HistoryLost { member, source },
            Some(TOO_LARGE) => Error::EventTooLarge { member, source },
            _ => Error::Driver { member, doing, source },
        },
        error => error,
    }
}
