//! A replica set whose store is away: nothing holds its oplog for us, so the spool reads on, and how
//! long that lasts is said.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use proto::archive::ledger::Event;
use tests::archive::Archive;
use tests::gate::Gate;
use tests::mongod::ReplicaSet;
use tests::programs::{self, Pitrd, PitrdBuilder};
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::{self, Deadline};

use super::pressure::{MIB, minute};

struct Pressed {
    set: ReplicaSet,
    seaweed: Seaweed,
    archive: Archive,
    pitrd: Pitrd,
    gate: Gate<ReplicaSet>,
    next: i32,
}

impl Pressed {
    fn start(name: &str, oplog_mb: u32, arguments: &[&str]) -> Result<Self> {
        let set = ReplicaSet::builder(1).oplog_mb(oplog_mb).argument("--syncdelay").argument("2");
        let set = set.start()?;
        let seaweed = Seaweed::start_new()?;
        let archive = Archive::on_s3(&seaweed, name);
        let mut pitrd = PitrdBuilder::default()
            .args(["run", "--archive", archive.url(), "--flush", "100ms", "--compression", "none"])
            .args(arguments.iter().copied())
            .env("PITR_SOURCE", &set.url())
            .envs(archive.environment())
            .start()?;
        pitrd.wait_for_log("base complete", &Deadline::seconds(300))?;
        let mut it = Self { set, seaweed, archive, pitrd, gate: Gate::new(), next: 0 };
        it.note()?;
        Ok(it)
    }

    /// A document and a moment behind it.
    fn note(&mut self) -> Result<()> {
        self.insert(1, 100)?;
        self.gate.note(&self.set).map(drop)
    }

    /// Documents that are gone at once, so that only the log holds them.
    fn fill(&mut self, mebibytes: u32) -> Result<()> {
        for _ in 0..mebibytes {
            self.insert(1, 1 << 20)?;
            let all = doc! { "q": { "_id": { "$gte": 0 }, "large": true }, "limit": 0 };
            self.set.run("shop", doc! { "delete": "orders", "deletes": [all] })?;
        }
        Ok(())
    }

    fn insert(&mut self, documents: i32, bytes: usize) -> Result<()> {
        let large = bytes > 1000;
        let one = |id: i32| doc! { "_id": id, "large": large, "text": "x".repeat(bytes) };
        let all: Vec<Document> = (self.next..self.next + documents).map(one).collect();
        self.next += documents;
        self.set.run("shop", doc! { "insert": "orders", "documents": all }).map(drop)
    }
}

#[test]
fn a_replica_set_outlives_a_store_that_is_away_and_sigterm_says_what_is_left() -> Result<()> {
    let mut it = Pressed::start("mongo-away", 990, &["--spool-max", "256MiB"])?;
    let before = it.pitrd.memory()?;
    it.seaweed.kill9()?;
    for _ in 0..scope::scale(8, 200) {
        it.fill(2)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    it.pitrd.wait_state("store-away", &minute())?;
    it.note()?;
    it.pitrd.wait_for_log("forecast: spool full in", &minute())?;
    let lag = it.pitrd.lag()?;
    ensure!(lag > 3.0, "the lag is {lag}");
    let after = it.pitrd.memory()?;
    let grown = after.resident.saturating_sub(before.resident);
    ensure!(grown < 96 * MIB, "{before:?} became {after:?}");
    ensure!(it.pitrd.sigterm(&minute())?.success(), "{}", it.pitrd.log());
    let log = it.pitrd.log();
    ensure!(log.contains("stay in the spool") && log.contains("spool_bytes="), "{log}");
    it.seaweed.start()?;
    it.pitrd.start()?;
    it.note()?;
    it.pitrd.wait_state("streaming", &minute())?;
    println!("lag {lag}; {}", it.gate.pass(&it.set, &it.archive)?);
    Ok(())
}

#[test]
fn an_oplog_that_runs_past_a_held_sidecar_is_told_before_it_is_lost() -> Result<()> {
    let mut it = Pressed::start("mongo-past", 16, &["--spool-max", "64MiB"])?;
    it.seaweed.kill9()?;
    it.fill(8)?;
    it.note()?;
    it.fill(70)?;
    it.pitrd.wait_state("held", &minute())?;
    // As fast as the oplog removes, until nothing is left in front of us.
    wait::until(&Deadline::seconds(180), "the window to be under pressure", || {
        it.fill(1)?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(it.pitrd.log().contains("OPLOG WINDOW UNDER PRESSURE").then_some(()))
    })?;
    let log = it.pitrd.log();
    ensure!(!log.contains("GAP"), "it was told too late:\n{log}");
    it.pitrd.wait_state("oplog-window-under-pressure", &minute())?;
    let window = it.pitrd.metrics()?.sum("pitr_oplog_window_seconds").context("a window")?;
    it.insert(1, 100)?;
    it.fill(30)?;
    it.insert(1, 100)?;
    it.gate.note_lost(&it.set)?;
    it.fill(30)?;
    it.seaweed.start()?;
    it.pitrd.wait_for_log("GAP", &Deadline::seconds(120))?;
    it.pitrd.wait("a new base by itself", &Deadline::seconds(120), |pitrd| {
        Ok(pitrd.log().matches("base complete").count() == 2)
    })?;
    it.note()?;
    // No entry stands there, and nobody knows what was committed before it.
    let gap = it.archive.ledger()?.into_iter().find_map(|event| match event {
        Event::Gap { oplog, .. } => oplog,
        _ => None,
    });
    let [last, first] = gap.context("a gap in the ledger")?;
    let inside = proto::mongodb::OplogTs(last.ts.0 + 1);
    ensure!(inside < first.ts, "{last} to {first}");
    let plan = ["plan", "--archive", it.archive.url(), "--at", &inside.to_string()];
    programs::run("pitr", &plan, &it.archive.environment())?.code_is(10)?;
    println!("a window of {window} s; {}", it.gate.pass(&it.set, &it.archive)?);
    Ok(())
}
