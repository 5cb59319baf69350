//! A replica set with a log of known kinds of entries, and what its server has used.

use std::time::Duration;

use anyhow::{Context, Result};
use bson::{Document, Timestamp, doc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::mongod::{Node, ReplicaSet};

use crate::measure::TICKS;

/// Where the entries are of.
pub const DATABASE: &str = "bench";
pub const COLLECTION: &str = "c";

/// Writes in rounds of 2000 entries: a third inserts, more than half updates, a tenth deletes.
#[derive(Debug)]
pub struct Mixed {
    random: StdRng,
    next: i32,
}

const INSERTS: i32 = 700;
const UPDATES: i32 = 1100;
const DELETES: i32 = 200;

impl Default for Mixed {
    fn default() -> Self {
        Self { random: StdRng::seed_from_u64(7), next: 0 }
    }
}

impl Mixed {
    /// # Errors
    /// When the set does not take them.
    pub fn round(&mut self, set: &ReplicaSet) -> Result<()> {
        let (first, end) = (self.next, self.next + INSERTS);
        let documents: Vec<Document> = (first..end).map(|id| self.document(id)).collect();
        set.run(DATABASE, doc! { "insert": COLLECTION, "documents": documents })?;
        self.next = end;
        // Those that were made last: nothing that is deleted is changed.
        let low = (end - UPDATES - DELETES).max(0);
        let of = |from: i32, to: i32| doc! { "_id": { "$gte": from, "$lt": to } };
        let push = doc! { "$each": [self.random.random_range(0..100)], "$slice": -8 };
        let change =
            doc! { "$inc": { "n": 1 }, "$set": { "state": "sent" }, "$push": { "list": push } };
        let update = doc! { "q": of(end - UPDATES, end), "u": change, "multi": true };
        set.run(DATABASE, doc! { "update": COLLECTION, "updates": [update] })?;
        let delete = doc! { "q": of(low, low + DELETES), "limit": 0 };
        set.run(DATABASE, doc! { "delete": COLLECTION, "deletes": [delete] })?;
        Ok(())
    }

    fn document(&mut self, id: i32) -> Document {
        let text = noise(&mut self.random, 120);
        let customer = self.random.random_range(0..100_000);
        doc! { "_id": id, "customer": customer, "n": 0, "state": "new", "list": [1, 2], "text": text }
    }
}

/// Text that does not compress well.
pub fn noise(random: &mut StdRng, length: usize) -> String {
    (0..length).map(|_| char::from(random.random_range(b'!'..=b'~'))).collect()
}

/// The last entry that a majority has.
///
/// # Errors
/// When the server does not say.
pub fn newest(node: &Node) -> Result<Timestamp> {
    let hello = node.hello()?;
    Ok(hello.get_document("lastWrite")?.get_document("majorityOpTime")?.get_timestamp("ts")?)
}

/// What the server's process has used so far.
///
/// # Errors
/// When it does not run.
pub fn cpu(node: &Node) -> Result<Duration> {
    cpu_of(&node.pid().context("the server runs")?.to_string())
}

/// What a process has used so far, such as `self`: fields 14 and 15 of proc_pid_stat(5).
///
/// # Errors
/// When there is none.
pub fn cpu_of(pid: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a name in parentheses")?;
    let mut ticks = 0_u32;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u32>()?;
    }
    Ok(Duration::from_secs(1) * ticks / TICKS)
}
