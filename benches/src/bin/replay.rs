//! Replaying an oplog into an empty replica set: `pitr restore`, against one operation per `applyOps`
//! as other tools have it, of the same entries on the same kind of server, in turn.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::measure::{Cost, run};
use benches::oplog::{COLLECTION, DATABASE, Mixed, cpu, newest};
use bson::raw::cstr;
use bson::{RawArrayBuf, RawDocumentBuf, Timestamp, doc, rawdoc};
use proto::mongodb::{Entry, OplogTs};
use tests::hashes::differences;
use tests::mongod::{Builder, Moment, Node, ReplicaSet, blocking};
use tests::programs::{self, Pitrd};
use tests::scratch::Folder;
use tests::wait::Deadline;
use tokio::time::Instant;

const ROUNDS: usize = 3;
const OPERATIONS: usize = 400_000;
/// For so long the others go on in each round: they would need minutes for all of it.
const PEER_TIME: Duration = Duration::from_secs(15);
/// What issue 3 promises against one operation per `applyOps` at w:1.
const RATIO_MIN: f64 = 10.0;

fn main() -> Result<()> {
    let source = sized(4096).start()?;
    let folder = Folder::new("replay")?;
    let archive = folder.path().join("archive").display().to_string();
    let (log, moment) = fill(&source, &archive)?;
    let bytes: usize = log.iter().map(|entry| entry.as_bytes().len()).sum();
    println!("{} operations, {:.0} MB of oplog, {ROUNDS} rounds", log.len(), bytes as f64 / 1e6);

    let (mut ours, mut one, mut default) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(pitr(&archive, &moment, log.len())?);
        one.push(one_by_one(&log, Some(1))?);
        default.push(one_by_one(&log, None)?);
    }
    let (ours, one, default) = (middle(ours)?, middle(one)?, middle(default)?);
    println!("| | operations/s | pitr against it | server's CPU, µs each |\n|---|---|---|---|");
    let row = |name: &str, run: &Run| {
        let (rate, server) = (run.rate(), run.server.as_secs_f64() * 1e6 / run.operations as f64);
        println!("| {name} | {rate:.0} | {:.1} | {server:.0} |", ours.rate() / rate);
    };
    row("`pitr restore`, all of it", &ours);
    row("one per applyOps, w:1", &one);
    row("one per applyOps, the server's default", &default);
    println!("own CPU {:.1} s, at most {:.1} MiB", ours.own.cpu.as_secs_f64(), mib(&ours.own));
    let ratio = ours.rate() / one.rate();
    ensure!(ratio >= RATIO_MIN, "{ratio:.1} times one by one, {RATIO_MIN} are promised");
    Ok(())
}

/// What one replay took.
#[derive(Clone, Copy)]
struct Run {
    operations: usize,
    wall: Duration,
    /// Of the server's CPU.
    server: Duration,
    own: Cost,
}

impl Run {
    /// Operations a second.
    fn rate(&self) -> f64 {
        self.operations as f64 / self.wall.as_secs_f64()
    }
}

fn mib(cost: &Cost) -> f64 {
    cost.peak_bytes as f64 / f64::from(1 << 20)
}

fn sized(oplog_mb: u32) -> Builder {
    ReplicaSet::builder(1).oplog_mb(oplog_mb)
}

/// Protects the empty set, writes, and gives the operations behind the base, and what came of them.
fn fill(source: &ReplicaSet, archive: &str) -> Result<(Vec<RawDocumentBuf>, Moment)> {
    let mut pitrd = Pitrd::builder(&source.url(), archive).start()?;
    programs::wait_for_status(archive, &[], "a base", &Deadline::seconds(120), |status| {
        status["windows"].as_array().is_some_and(|windows| !windows.is_empty())
    })?;
    let from = newest(source.primary()?)?;
    source.run(DATABASE, doc! { "create": COLLECTION })?;
    let mut mixed = Mixed::default();
    // Of the deletes of a round some find nothing.
    for _ in 0..=OPERATIONS / 1990 {
        mixed.round(source)?;
    }
    let log = operations(source.primary()?, from)?;
    ensure!(log.len() >= OPERATIONS, "only {} operations", log.len());
    let moment = source.record()?;
    let status = |status: &serde_json::Value| {
        let to = status["windows"].as_array().and_then(|windows| windows.last());
        let to = to.and_then(|window| window["to_ts"].as_str()?.parse().ok());
        to.is_some_and(|to: OplogTs| to >= moment.at)
    };
    programs::wait_for_status(archive, &[], "all of it", &Deadline::seconds(600), status)?;
    pitrd.sigterm(&Deadline::seconds(120))?;
    Ok((log, moment))
}

/// Writes of documents, as an `applyOps` takes them.
fn operations(node: &Node, from: Timestamp) -> Result<Vec<RawDocumentBuf>> {
    let namespace = format!("{DATABASE}.{COLLECTION}");
    let mut operations = Vec::new();
    for raw in node.oplog(from)? {
        let entry = Entry::read(&raw)?;
        if entry.ns != namespace {
            continue;
        }
        let mut operation = rawdoc! { "op": raw.get_str("op")?, "ns": entry.ns };
        operation.append(cstr!("o"), entry.o);
        if let Some(o2) = entry.o2 {
            operation.append(cstr!("o2"), o2);
        }
        operations.push(operation);
    }
    Ok(operations)
}

fn pitr(archive: &str, moment: &Moment, operations: usize) -> Result<Run> {
    let target = sized(990).start()?;
    let primary = target.primary()?;
    let mut command: Command = programs::command("pitr")?;
    let (at, url) = (moment.at.to_string(), primary.url());
    command.args(["restore", "--archive", archive, "--at", &at, "--into", &url]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let before = cpu(primary)?;
    let own = run(command)?;
    let server = cpu(primary)?.saturating_sub(before);
    let differs = differences(&moment.hashes, &primary.collection_hashes()?);
    ensure!(differs.is_empty(), "{}", differs.join(", "));
    Ok(Run { operations, wall: own.wall, server, own })
}

fn one_by_one(log: &[RawDocumentBuf], w: Option<i32>) -> Result<Run> {
    let target = sized(990).start()?;
    let primary = target.primary()?;
    primary.run(DATABASE, doc! { "create": COLLECTION })?;
    let admin = primary.client()?.database("admin");
    let before = cpu(primary)?;
    let (operations, wall) = blocking(async {
        let (began, mut done) = (Instant::now(), 0);
        for operation in log {
            let mut operations = RawArrayBuf::new();
            operations.push(operation);
            let mut command = RawDocumentBuf::new();
            command.append(cstr!("applyOps"), operations);
            if let Some(w) = w {
                command.append(cstr!("writeConcern"), rawdoc! { "w": w });
            }
            admin.run_raw_command(command).await.context("applyOps")?;
            done += 1;
            if began.elapsed() >= PEER_TIME {
                break;
            }
        }
        Ok::<_, anyhow::Error>((done, began.elapsed()))
    })?;
    let server = cpu(primary)?.saturating_sub(before);
    Ok(Run { operations, wall, server, own: Cost::default() })
}

/// By their rates.
fn middle(mut runs: Vec<Run>) -> Result<Run> {
    runs.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    runs.get(runs.len() / 2).copied().context("at least one round")
}
