//! Loading a base into an empty target: collections with their options, then their documents.
//!
//! Enters: a base in a store, and a target. Leaves: every collection as the base has it, without
//! indexes but the one on `_id`. Documents go in by `applyOps`, with what an insert would fill in put
//! back behind it (`strict`). After a crash the
//! objects that the target's progress names are left out, and the others loaded anew over what is
//! there.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bson::{RawDocument, rawdoc};
use futures_util::{StreamExt, TryStreamExt, stream};

use proto::archive::ArchiveError;
use proto::archive::layout::Lineage;
use proto::mongodb::Documents;
use proto::mongodb::base::{Collection, MongodbBase, PieceObject};
use proto::mongodb::scope::is_restored_document;
use proto::position::ByteCount;
use proto::segment::{Hash, read_frames};
use proto::store::{Range, Store};

use super::batch::Batch;
use super::catalog::create_command;
use super::error::ReplayError;
use super::operation::operation;
use super::target::{Confirm, Reached, Target, keep};
use crate::target::progress::Progress;

/// Collections that are loaded at once.
const LOADERS: usize = 3;
const LOADED: &str = "object:";
const CREATED: &str = "created";

/// Where a base lies.
#[derive(Debug, Clone)]
pub struct BaseFolder {
    pub store: Arc<dyn Store>,
    pub lineage: Lineage,
    pub id: String,
}

/// Loads a base, or goes on with it.
///
/// # Errors
/// When the store or the target fails, or an object is damaged.
pub async fn load(
    client: mongodb::Client,
    from: &BaseFolder,
    base: &MongodbBase,
    progress: &dyn Progress,
) -> Result<(), ReplayError> {
    let target = Target::new(client);
    if target.reached().await?.is_some() {
        return Ok(());
    }
    let kept: HashSet<String> = target
        .progress()
        .await?
        .iter()
        .filter_map(|document| document.get_str("_id").ok().map(str::to_owned))
        .collect();
    progress.begin("base", Some(ByteCount(base.raw_bytes())));
    if !kept.contains(CREATED) {
        for collection in &base.collections {
            create(&target, collection).await?;
        }
        target.apply_one(&keep(rawdoc! { "_id": CREATED }), "keeping the progress").await?;
    }
    let done = AtomicU64::new(0);
    // Views last: a view is checked against what it is a view of.
    let (views, others): (Vec<_>, Vec<_>) =
        base.collections.iter().partition(|collection| collection.name == "system.views");
    for collections in [others, views] {
        let loads: Vec<_> = collections
            .into_iter()
            .map(|collection| one(&target, from, collection, &kept, (&done, progress)))
            .collect();
        stream::iter(loads).buffer_unordered(LOADERS).try_collect::<Vec<()>>().await?;
    }
    let begin = Reached { at: proto::mongodb::OplogTs(1), operations: 0 };
    target.set_reached(begin, Confirm::Majority).await?;
    progress.end();
    Ok(())
}

async fn create(target: &Target, collection: &Collection) -> Result<(), ReplayError> {
    let id_index = collection.id_index.as_deref();
    let command = create_command(&collection.name, &collection.options, id_index);
    let command = command.map_err(|error| ReplayError::Object {
        object: "complete.json".to_owned(),
        detail: format!("{}: {error}", collection.namespace()),
    })?;
    // A server has its own from the start; another create of it is nothing.
    target.create(&collection.database, &command).await
}

/// The objects of a collection, in order: what has an order of its own keeps it.
async fn one(
    target: &Target,
    from: &BaseFolder,
    collection: &Collection,
    kept: &HashSet<String>,
    (done, progress): (&AtomicU64, &dyn Progress),
) -> Result<(), ReplayError> {
    let namespace = collection.namespace();
    for object in collection.pieces.iter().flat_map(|piece| &piece.objects) {
        if !kept.contains(&format!("{LOADED}{}", object.object)) {
            let raw = fetch(from, object).await?;
            insert(target, collection, &namespace, object, &raw).await?;
        }
        let now = done.fetch_add(object.raw_bytes, Ordering::Relaxed) + object.raw_bytes;
        progress.done(ByteCount(now), &namespace);
    }
    Ok(())
}

async fn insert(
    target: &Target,
    collection: &Collection,
    namespace: &str,
    object: &PieceObject,
    raw: &[u8],
) -> Result<(), ReplayError> {
    let damaged = |detail: String| ReplayError::Object { object: object.object.clone(), detail };
    let mut batch = Batch::default();
    let mut documents = 0;
    for document in Documents::new(raw) {
        let (_, document) = document.map_err(|error| damaged(error.to_string()))?;
        documents += 1;
        let id = document.get_str("_id").ok();
        if is_restored_document(&collection.database, &collection.name, id) {
            let insert = operation("i", namespace, document as &RawDocument, None);
            batch.push_plain(target, &insert).await?;
        }
    }
    if documents != object.documents {
        return Err(damaged(format!("{documents} documents instead of {}", object.documents)));
    }
    let loaded = keep(rawdoc! { "_id": format!("{LOADED}{}", object.object) });
    batch.push_plain(target, &loaded).await?;
    batch.flush(target).await
}

/// An object's raw bytes, proved to be what was written.
async fn fetch(from: &BaseFolder, object: &PieceObject) -> Result<Vec<u8>, ReplayError> {
    let key = from.lineage.base_object(&from.id, &object.object);
    let stored = from.store.get(&key, Range::All).await.map_err(ArchiveError::from)?;
    let expected = (object.raw_bytes, object.hash);
    let name = object.object.clone();
    let unpacked = tokio::task::spawn_blocking(move || unpack(&stored, expected)).await;
    let unpacked = unpacked.unwrap_or_else(|error| Err(error.to_string()));
    unpacked.map_err(|detail| ReplayError::Object { object: name, detail })
}

fn unpack(stored: &[u8], (bytes, hash): (u64, Hash)) -> Result<Vec<u8>, String> {
    let raw = read_frames(stored, bytes).map_err(|error| error.to_string())?;
    if raw.len() as u64 != bytes || Hash::of(&raw) != hash {
        return Err("its bytes are not those that were written".to_owned());
    }
    Ok(raw)
}
