//! Catching up on at least a gigabyte of oplog into a folder: `pitrd` against the driver's raw
//! read of the same entries to nowhere, in turn.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::measure::{Cost, run};
use benches::oplog::{COLLECTION, DATABASE, cpu, cpu_of, newest, noise};
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::options::{CollectionOptions, ReadConcern};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::mongod::{Load, Node, ReplicaSet, blocking};
use tests::programs;
use tests::scratch::Folder;
use tokio::time::Instant;

const ROUNDS: usize = 5;
const BYTES: u64 = 1 << 30;
/// What issue 3 promises of the raw read, for the first of [`WAYS`].
const RATIO_MIN: f64 = 0.8;

/// A way to capture: its name, and what `pitrd run` is given for it.
type Way = (&'static str, &'static [&'static str]);

/// Every way reads what the same entries tell, each on an archive of its own; rates and costs are of
/// the oplog's bytes, whatever was sent. Another source of `pitrd` is a line here.
const WAYS: [Way; 3] = [
    ("pitrd, lz4", &["--compression", "lz4"]),
    ("pitrd, zstd:3", &["--compression", "zstd:3"]),
    ("pitrd, change stream, lz4", &["--source-mode", "change-stream", "--compression", "lz4"]),
];

/// What one reading took, what it took of the server, and what pitrd used at most.
#[derive(Clone, Copy)]
struct Read {
    wall: Duration,
    server: Duration,
    cost: Cost,
}

fn main() -> Result<()> {
    let set = ReplicaSet::builder(1).oplog_mb(4096).start()?;
    let node = set.primary()?;
    let folder = Folder::new("oplog")?;
    // All have followed before, and come back to what was written meanwhile.
    for place in 0..ROUNDS * WAYS.len() {
        pitrd(&set, &folder.sub(&place.to_string())?, WAYS[place % WAYS.len()])?;
    }
    let idle = pitrd(&set, &folder.path().join("0"), WAYS[0])?;
    println!("{:.2} s with nothing new to read", idle.wall.as_secs_f64());
    let from = newest(node)?;
    fill(&set, from)?;
    let (bytes, entries) = raw(node, from)?;
    println!("{:.0} MB of oplog, {entries} entries, {ROUNDS} rounds", bytes as f64 / 1e6);

    let mut peer = Vec::new();
    let mut ours = vec![Vec::new(); WAYS.len()];
    for round in 0..ROUNDS {
        peer.push(timed(node, || {
            let before = cpu_of("self")?;
            raw(node, from)?;
            Ok(Cost { cpu: cpu_of("self")?.saturating_sub(before), ..Cost::default() })
        })?);
        for (number, way) in WAYS.into_iter().enumerate() {
            let dir = folder.path().join((round * WAYS.len() + number).to_string());
            ours[number].push(timed(node, || pitrd(&set, &dir, way))?);
        }
    }
    let peer = middle(peer)?;
    let gigabytes = bytes as f64 / 1e9;
    let ratio = |read: &Read| peer.wall.as_secs_f64() / read.wall.as_secs_f64();
    let row = |name: &str, read: &Read| {
        println!(
            "| {name} | {:.0} | {:.2} | {:.2} | {:.2} | {:.1} MiB |",
            gigabytes * 1e3 / read.wall.as_secs_f64(),
            ratio(read),
            read.server.as_secs_f64() / gigabytes,
            read.cost.cpu.as_secs_f64() / gigabytes,
            read.cost.peak_bytes as f64 / f64::from(1 << 20),
        );
    };
    println!("| | MB/s | against the raw read | server's CPU s/GB | own CPU s/GB | peak memory |");
    println!("|---|---|---|---|---|---|");
    row("driver, raw batches to nowhere", &peer);
    let ours = ours.into_iter().map(middle).collect::<Result<Vec<_>>>()?;
    for ((name, _), read) in WAYS.iter().zip(&ours) {
        row(name, read);
    }
    let first = ratio(ours.first().context("there is a way")?);
    ensure!(first >= RATIO_MIN, "{first:.2} of the raw read, {RATIO_MIN} is promised");
    Ok(())
}

/// At least so many bytes of log: large inserts, and small writes of every kind between them.
fn fill(set: &ReplicaSet, from: Timestamp) -> Result<()> {
    let load = Load::start(set, 4)?;
    let mut random = StdRng::seed_from_u64(7);
    while raw(set.primary()?, from)?.0 < BYTES {
        for _ in 0..100 {
            let many: Vec<Document> = (0..500).map(|_| document(&mut random)).collect();
            set.run(DATABASE, doc! { "insert": COLLECTION, "documents": many })?;
        }
    }
    load.stop();
    Ok(())
}

/// About a kilobyte, of which half is noise.
fn document(random: &mut StdRng) -> Document {
    let noise = noise(random, 400);
    let customer = random.random_range(0..100_000);
    doc! { "customer": customer, "noise": noise, "text": "all the same ".repeat(30) }
}

/// Bytes and entries from here on, read as raw batches and thrown away.
fn raw(node: &Node, from: Timestamp) -> Result<(u64, u64)> {
    let client = node.client()?;
    blocking(async {
        let options = CollectionOptions::builder().read_concern(ReadConcern::majority()).build();
        let oplog =
            client.database("local").collection_with_options::<RawDocumentBuf>("oplog.rs", options);
        let mut batches = oplog.find(doc! { "ts": { "$gte": from } }).batch().await?;
        let (mut bytes, mut entries) = (0, 0);
        while let Some(batch) = batches.try_next().await? {
            for entry in batch.doc_slices()? {
                bytes += entry?.as_document().context("an entry")?.as_bytes().len() as u64;
                entries += 1;
            }
        }
        Ok((bytes, entries))
    })
}

fn timed(node: &Node, work: impl FnOnce() -> Result<Cost>) -> Result<Read> {
    let (server, begin) = (cpu(node)?, Instant::now());
    let cost = work()?;
    Ok(Read { wall: begin.elapsed(), server: cpu(node)?.saturating_sub(server), cost })
}

fn middle(mut reads: Vec<Read>) -> Result<Read> {
    reads.sort_by_key(|read| read.wall);
    reads.get(reads.len() / 2).copied().context("at least one round")
}

fn pitrd(set: &ReplicaSet, dir: &Path, (_, way): Way) -> Result<Cost> {
    let mut command: Command = programs::command("pitrd")?;
    command
        .args(["run", "--once", "--no-base", "--listen", "127.0.0.1:0"])
        .args(way)
        .arg("--source")
        .arg(set.url())
        .arg("--archive")
        .arg(dir.join("archive"))
        .arg("--spool")
        .arg(dir.join("spool"))
        .stderr(std::fs::File::create(dir.join("log"))?);
    run(command).with_context(|| std::fs::read_to_string(dir.join("log")).unwrap_or_default())
}
