//! The change stream of a set as the server sends it to anybody, to compare an archive with.

use ::mongodb::Client;
use ::mongodb::error::ErrorKind;
use ::mongodb::raw_batch_cursor::RawBatchCursor;
use anyhow::{Context, Result, ensure};
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use futures_util::StreamExt;
use proto::mongodb::Event;
use proto::segment::Hash;

use super::runtime::blocking;
use super::{ArchivedOplog, Node};

impl Node {
    /// The events from this time on, up to the one with this token.
    pub fn events(&self, from: Timestamp, last: &str) -> Result<Vec<RawDocumentBuf>> {
        let client = self.client()?;
        blocking(async {
            let stage = doc! {
                "allChangesForCluster": true, "showExpandedEvents": true,
                "fullDocument": "whenAvailable", "startAtOperationTime": from,
            };
            let mut cursor = open(&client, stage).await?;
            let mut found = Vec::new();
            loop {
                let batch = cursor.next().await.context("the stream has ended")??;
                for event in batch.doc_slices()? {
                    let raw = event?.as_document().context("an event")?.to_owned();
                    let token = Event::read(&raw)?.token.to_owned();
                    if token.as_str() > last {
                        return Ok(found);
                    }
                    found.push(raw);
                    if token == last {
                        return Ok(found);
                    }
                }
            }
        })
    }
}

/// Asks as `pitrd` does: with fragments, tokens have a field more. An older server does not know them
/// (40324 is "Unrecognized pipeline stage name").
async fn open(client: &Client, stage: Document) -> Result<RawBatchCursor> {
    let admin = client.database("admin");
    let plain = vec![doc! { "$changeStream": stage }];
    let split = [&plain[..], &[doc! { "$changeStreamSplitLargeEvent": {} }]].concat();
    match admin.aggregate(split).batch().await {
        Err(error) if matches!(&*error.kind, ErrorKind::Command(error) if error.code == 40324) => {
            Ok(admin.aggregate(plain).batch().await?)
        }
        opened => Ok(opened?),
    }
}

impl ArchivedOplog {
    /// The events of the archive, without what the archiver wrote between them.
    pub fn events(&self) -> Result<Vec<&RawDocumentBuf>> {
        let mut events = Vec::new();
        for raw in &self.entries {
            if !Event::read(raw)?.is_note() {
                events.push(raw);
            }
        }
        Ok(events)
    }

    /// Fails unless its events are those that this member sends, byte for byte, from its beginning to
    /// the last one. Gives a line that says what was compared.
    pub fn assert_is_the_change_stream_of(&self, node: &Node) -> Result<String> {
        let archived = self.events()?;
        let first = self.entries.first().context("the archive holds no document")?;
        let from = Event::read(first)?.at;
        let last = Event::read(archived.last().context("the archive holds no event")?)?.token;
        let own = node.events(from.into(), last)?;
        let differs = own.iter().zip(&archived).position(|(own, archived)| own != *archived);
        if let Some(at) = differs {
            let show = |raw: &RawDocumentBuf| bson::Document::try_from(raw.clone());
            let (own, archived) = (show(&own[at])?, show(archived[at])?);
            anyhow::bail!("event {at}: {archived}, and the server sends {own}");
        }
        let (count, notes) = (archived.len(), self.entries.len() - archived.len());
        ensure!(own.len() == count, "{count} events, and the server sends {}", own.len());
        let hash = |events: &mut dyn Iterator<Item = &RawDocumentBuf>| {
            Hash::of(&events.flat_map(|event| event.as_bytes().to_vec()).collect::<Vec<u8>>())
        };
        let (ours, theirs) = (hash(&mut archived.into_iter()), hash(&mut own.iter()));
        ensure!(ours == theirs, "{ours} and {theirs}");
        Ok(format!("{count} events, {notes} notes, {} sealed segments, {ours}", self.sealed))
    }
}
