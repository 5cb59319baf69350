//! A base is taken, and a moment restored from it and from entries that were read from the source.

use std::sync::Arc;

use ::mongodb::Client;
use anyhow::{Context, Result};
use archiver::base::mongodb::{Copied, copy};
use archiver::base::parts::Destination;
use bson::Timestamp;
use proto::archive::layout::Lineage;
use proto::clock::SystemClock;
use proto::mongodb::base::MongodbBase;
use proto::segment::Codec;
use proto::store::retry::Policy;
use proto::store::{Access, Store};
use replay::target::mongodb::{BaseFolder, Replay, Replayed, conclude, load, prepare};
use replay::target::progress::Silent;
use tests::mongod::Node;
use tests::scratch::Folder;

/// A base, and the store that holds it.
pub(crate) struct Taken {
    pub(crate) base: MongodbBase,
    pub(crate) from: BaseFolder,
    pub(crate) folder: Folder,
}

/// Takes a base of the member that the client is of.
pub(crate) async fn base(client: &Client) -> Result<Taken> {
    let folder = Folder::new("mongodb-base")?;
    let address = folder.path().display().to_string();
    let store: Arc<dyn Store> = proto::store::url::open(&address, Access::ReadWrite).await?;
    let (lineage, id) = (Lineage(1), "one".to_owned());
    let to = Destination {
        store: store.clone(),
        lineage,
        id: id.clone(),
        codec: Codec::default(),
        policy: Policy::Attempts(1),
    };
    let Copied { base, .. } = copy(client, &to, None, &SystemClock::new()).await?;
    // As complete.json keeps it.
    let base = serde_json::from_slice(&serde_json::to_vec(&base)?)?;
    Ok(Taken { base, from: BaseFolder { store, lineage, id }, folder })
}

/// The source's log from the base's start on: what an archive will hold.
pub(crate) fn log(source: &Node, base: &MongodbBase) -> Result<Vec<u8>> {
    let entries = source.oplog(base.start.ts.into())?;
    Ok(entries.iter().flat_map(|entry| entry.as_bytes().iter().copied()).collect())
}

/// Restores into an empty server.
pub(crate) async fn restore(
    target: &Client,
    taken: &Taken,
    log: &[u8],
    until: Timestamp,
) -> Result<Replayed> {
    prepare(target, "one").await?;
    load(target.clone(), &taken.from, &taken.base, &Silent).await.context("loading the base")?;
    let mut replay = Replay::begin(target.clone(), &taken.base, until.into()).await?;
    replay.take(log).await?;
    let replayed = replay.finish().await?;
    replay.build_indexes(|_| {}).await?;
    conclude(target).await?;
    Ok(replayed)
}
