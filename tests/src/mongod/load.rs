//! Writers that never stop of themselves: inserts, updates of several kinds, replacements, deletes
//! and small transactions, in a collection each. Elections, kills and freezes do not end them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::mongodb::{Client, Collection};
use anyhow::Result;
use bson::{Document, doc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::ReplicaSet;
use super::runtime;

/// What is written to; its collections are `c0`, `c1` and so on.
const DATABASE: &str = "load";

/// Documents that a writer's collection has about.
const IDS: i64 = 2_000;
/// Bytes of text in a document.
const TEXT_MAX: usize = 600;

/// Writers at work; they end when this value goes.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
    failed: AtomicU64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Operations that the server said were done.
    pub done: u64,
    /// Operations that ended otherwise, done or not.
    pub failed: u64,
}

impl Load {
    /// Starts so many writers on a set.
    pub fn start(set: &ReplicaSet, writers: usize) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let client = set.client()?;
        let writer = |number: usize| {
            let (client, shared) = (client.clone(), shared.clone());
            std::thread::spawn(move || runtime::blocking(write(client, number, &shared)))
        };
        Ok(Self { writers: (0..writers).map(writer).collect(), shared })
    }

    /// What has come of it so far.
    pub fn written(&self) -> Written {
        let done = self.shared.done.load(Ordering::Relaxed);
        Written { done, failed: self.shared.failed.load(Ordering::Relaxed) }
    }

    /// Ends the writers, each behind its present operation.
    pub fn stop(mut self) -> Written {
        self.end();
        self.written()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

async fn write(client: Client, number: usize, shared: &Shared) {
    let mut random = StdRng::seed_from_u64(number as u64);
    let collection = client.database(DATABASE).collection::<Document>(&format!("c{number}"));
    while !shared.stop.load(Ordering::Relaxed) {
        let outcome = match random.random_range(0..50) {
            0 => transaction(&client, &collection, &mut random).await,
            _ => one(&collection, &mut random).await,
        };
        match outcome {
            Ok(()) => shared.done.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(%error, "a writer goes on behind an error");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                shared.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

fn text(random: &mut StdRng) -> String {
    let length = random.random_range(0..TEXT_MAX);
    (0..length).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}

fn document(id: i64, random: &mut StdRng) -> Document {
    doc! { "_id": id, "n": 0, "list": [1, 2, 3], "inner": { "x": id }, "text": text(random) }
}

async fn one(
    collection: &Collection<Document>,
    random: &mut StdRng,
) -> Result<(), ::mongodb::error::Error> {
    let id: i64 = random.random_range(0..IDS);
    let only = doc! { "_id": id };
    match random.random_range(0..10) {
        0..4 => {
            let new = document(id, random);
            collection.replace_one(only, new).upsert(true).await?;
        }
        4 => {
            let many = (0..20).map(|_| document(random.random_range(IDS..1 << 40), random));
            collection.insert_many(many.collect::<Vec<_>>()).ordered(false).await?;
        }
        5 => {
            collection.delete_one(only).await?;
        }
        6 => {
            collection.delete_many(doc! { "_id": { "$gte": IDS, "$lt": id << 29 } }).await?;
        }
        7 => {
            let push = doc! { "$push": { "list": { "$each": [id], "$slice": -50 } } };
            collection.update_one(only, push).await?;
        }
        8 => {
            let move_about =
                doc! { "$unset": { "text": 1 }, "$set": { format!("inner.{}", id % 7): id } };
            collection.update_one(only, move_about).await?;
        }
        _ => {
            collection.update_one(only, doc! { "$inc": { "n": 1 } }).upsert(true).await?;
        }
    }
    Ok(())
}

async fn transaction(
    client: &Client,
    collection: &Collection<Document>,
    random: &mut StdRng,
) -> Result<(), ::mongodb::error::Error> {
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    for _ in 0..random.random_range(1..6) {
        let id: i64 = random.random_range(0..IDS);
        let more = doc! { "$inc": { "n": 1 } };
        collection.update_one(doc! { "_id": id }, more).upsert(true).session(&mut session).await?;
    }
    if random.random_range(0..4) == 0 {
        return session.abort_transaction().await;
    }
    session.commit_transaction().await
}
