//! A server-side cursor, batch by batch, as bytes.

use bson::{RawArray, RawDocument};
use futures_util::StreamExt;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

use proto::mongodb::OplogTs;

use super::error::ReadError;

pub(super) struct Batches {
    cursor: RawBatchCursor,
    what: String,
}

pub(super) struct Batch(RawBatch);

impl Batches {
    pub(super) fn new(cursor: RawBatchCursor, what: String) -> Self {
        Self { cursor, what }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Batch>, ReadError> {
        let next = self.cursor.next().await.transpose();
        Ok(next.map_err(ReadError::ask(self.what.clone()))?.map(Batch))
    }
}

impl Batch {
    pub(super) fn documents(
        &self,
    ) -> Result<impl Iterator<Item = Result<&RawDocument, ReadError>>, ReadError> {
        let array: &RawArray = self.0.doc_slices().map_err(ReadError::ask("reading a batch"))?;
        Ok(array.into_iter().map(|value| {
            let missing = ReadError::Answer { what: "a read", field: "document" };
            value?.as_document().ok_or(missing)
        }))
    }

    /// The moment that a snapshot read sees.
    pub(super) fn at_cluster_time(&self) -> Option<OplogTs> {
        let cursor = self.0.as_raw_document().get_document("cursor").ok()?;
        cursor.get_timestamp("atClusterTime").ok().map(OplogTs::from)
    }
}
