//! A MongoDB replica set with a shop's orders, which are dropped.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use bson::{Document, doc};
use proto::mongodb::OplogTs;
use tests::fetch;
use tests::hashes::Hashes;
use tests::mongod::{Load, Node, ReplicaSet};
use tests::programs::{self, Pitrd};
use tests::wait::Deadline;

use super::{Before, Server};
use crate::needs;
use crate::screen::Screen;

const ORDERS: i32 = 50_000;
const AT_ONCE: i32 = 1_000;
const WRITERS: usize = 3;
const DATABASE: &str = "shop";
/// What is lost by accident.
const VICTIM: &str = "orders";

pub(super) fn start(screen: &mut Screen) -> Result<ReplicaSet> {
    screen.step("A MongoDB replica set of one, fetched once, with a shop's orders");
    needs::libraries("mongod", &[fetch::mongod::usual()?], None)?;
    let set = ReplicaSet::single()?;
    for from in (0..ORDERS).step_by(AT_ONCE as usize) {
        let orders: Vec<Document> = (from..from + AT_ONCE).map(order).collect();
        set.run(DATABASE, doc! { "insert": VICTIM, "documents": orders })?;
    }
    screen.note(&format!("{}, {ORDERS} documents", set.url()));
    Ok(set)
}

fn order(number: i32) -> Document {
    let lines = [
        doc! { "article": number % 97, "pieces": 1 },
        doc! { "article": number % 89, "pieces": 3 },
    ];
    doc! { "_id": number, "customer": number % 5_000, "state": "new", "lines": lines.to_vec() }
}

/// Orders are worked on, a hundred at a time. How many were.
fn work(set: &ReplicaSet, end: &AtomicBool) -> Result<u64> {
    let (mut worked, mut customer) = (0, 0);
    while !end.load(Ordering::Acquire) {
        customer = (customer + 7) % 5_000;
        let some = doc! { "customer": { "$gte": customer, "$lt": customer + 10 } };
        let change = doc! { "$set": { "state": "sent" }, "$inc": { "lines.0.pieces": 1 } };
        let update = doc! { "q": some, "u": change, "multi": true };
        let done = set.run(DATABASE, doc! { "update": VICTIM, "updates": [update] })?;
        worked += u64::try_from(done.get_i32("nModified")?)?;
    }
    Ok(worked)
}

impl Server for ReplicaSet {
    const WORDS: (&'static str, &'static str) = ("collection", "document");
    const LOAD: &'static str = "inserts, updates, deletes and transactions, 4 clients";

    fn source(&self) -> String {
        self.url()
    }

    fn load(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<String> {
        let running = Load::start(self, WRITERS)?;
        let end = AtomicBool::new(false);
        let worked = std::thread::scope(|scope| {
            let worker = scope.spawn(|| work(self, &end));
            let watched = meanwhile();
            end.store(true, Ordering::Release);
            let worked = worker.join().expect("it does not panic");
            watched.and(worked)
        })?;
        let written = running.stop();
        Ok(format!("{} operations, {worked} orders changed", written.done))
    }

    fn record(&self) -> Result<Before> {
        let moment = Self::record(self)?;
        // Clocks of MongoDB tell milliseconds apart: what comes next has a later one.
        std::thread::sleep(std::time::Duration::from_millis(10));
        Ok(Before { hashes: moment.hashes, time: moment.time.to_string() })
    }

    fn accident(&self, screen: &Screen) -> Result<String> {
        screen.command(&format!("mongosh {DATABASE} --eval 'db.{VICTIM}.drop()'"));
        self.run(DATABASE, doc! { "drop": VICTIM })?;
        self.run("load", doc! { "insert": "c0", "documents": [{ "_id": "goes on" }] })?;
        Ok(format!("{DATABASE}.{VICTIM}"))
    }

    /// Once the archive can be restored to the present moment, all of it is there.
    fn await_archived(&self, _pitrd: &mut Pitrd, archive: &str) -> Result<()> {
        let note = doc! { "appendOplogNote": 1, "data": { "msg": "behind the accident" } };
        let last = OplogTs::from(self.run("admin", note)?.get_timestamp("operationTime")?);
        let status = programs::wait_for_status(
            archive,
            &[],
            "the accident in the archive",
            &Deadline::seconds(120),
            |status| {
                let to = status["windows"].as_array().and_then(|windows| windows.last());
                let to = to.and_then(|window| window["to_ts"].as_str()?.parse().ok());
                to.is_some_and(|to: OplogTs| to >= last)
            },
        );
        status.map(drop)
    }

    fn restore_arguments(&self) -> Result<Vec<String>> {
        Ok(vec!["--mongod".to_owned(), fetch::mongod::usual()?.display().to_string()])
    }

    fn hashes(&self) -> Result<Hashes> {
        self.primary()?.collection_hashes()
    }

    fn hashes_of(&self, copy: &Path) -> Result<Hashes> {
        let restored = Node::open(copy)?;
        restored.start()?;
        restored.collection_hashes()
    }
}
