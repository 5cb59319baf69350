//! What cannot be restored: refused with what can be, and nothing written; what stands before a
//! gap or a damaged segment, and behind it, is restored still.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use proto::timestamp::Timestamp;
use tests::archive::Archive;
use tests::postgres::{Cluster, Moment};
use tests::process;
use tests::programs::{self, Output};
use tests::user;
use tests::wait::Deadline;

use super::protected::{Place, Protected};
use super::targets_kinds::restored;

/// A life with a gap in it: `held` and `kept` stand before it, `lost` in it, `regained` behind it.
struct Life {
    protected: Protected,
    before_base: String,
    held: Moment,
    kept: Moment,
    lost: Moment,
    regained: Moment,
}

fn now(cluster: &Cluster) -> Result<String> {
    let format = "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'";
    cluster.value("postgres", &format!("SELECT to_char(clock_timestamp(), {format})"))
}

fn live() -> Result<Life> {
    let cluster = Cluster::builder(15).segment_mb(1).conf("wal_recycle", "off").start()?;
    cluster.sql("CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)")?;
    let before_base = now(&cluster)?;
    let mut protected = Protected::around(cluster, Place::Folder, &["--flush", "200ms"])?;
    protected.await_base()?;
    let cluster = &protected.cluster;
    cluster.sql("INSERT INTO steps VALUES (2); SELECT pg_create_restore_point('known')")?;
    let held = cluster.record("postgres")?;
    // Before lost log only a later commit proves a moment complete.
    cluster.sql("INSERT INTO steps VALUES (22)")?;
    cluster.fill_log(4)?;
    cluster.sql("INSERT INTO steps VALUES (3)")?;
    let kept = cluster.record("postgres")?;
    cluster.sql("INSERT INTO steps VALUES (33)")?;
    protected.await_everything()?;

    // Nobody holds the log any more, and the server lets it go.
    ensure!(
        protected.pitrd.sigterm(&Deadline::seconds(60))?.success(),
        "{}",
        protected.pitrd.log()
    );
    let cluster = &protected.cluster;
    cluster.sql("SELECT pg_drop_replication_slot('pitr'); INSERT INTO steps VALUES (4)")?;
    let lost = cluster.record("postgres")?;
    cluster.fill_log(4)?;
    cluster.switch_wal()?;
    cluster.sql("CHECKPOINT")?;
    cluster.switch_wal()?;
    cluster.sql("INSERT INTO steps VALUES (5); CHECKPOINT")?;

    protected.pitrd.start()?;
    let (archive, none) = (protected.archive.clone(), Vec::new());
    let what = "a base behind the gap";
    programs::wait_for_status(&archive, &none, what, &Deadline::seconds(120), |status| {
        status["windows"].as_array().is_some_and(|windows| windows.len() == 2)
    })
    .with_context(|| protected.pitrd.log())?;
    let cluster = &protected.cluster;
    cluster.sql("INSERT INTO steps VALUES (6)")?;
    let regained = cluster.record("postgres")?;
    protected.await_everything()?;
    protected.await_proof(&regained.time)?;
    ensure!(
        protected.pitrd.sigterm(&Deadline::seconds(60))?.success(),
        "{}",
        protected.pitrd.log()
    );
    Ok(Life { protected, before_base, held, kept, lost, regained })
}

/// Every file of an archive with its length and the moment of its last change.
fn listing(folder: &Path) -> Result<BTreeMap<PathBuf, (u64, std::time::SystemTime)>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                folders.push(entry.path());
            }
            found.insert(entry.path(), (meta.len(), meta.modified()?));
        }
    }
    Ok(found)
}

/// `pitr restore` of an archive, whatever comes of it.
fn restore(life: &Protected, archive: &str, into: &Path, target: &[&str]) -> Result<Output> {
    let (into, bin) = (into.display().to_string(), life.cluster.bin_dir().display().to_string());
    let mut all = vec!["restore", "--archive", archive, "--into", &into, "--pg-bin", &bin];
    if let Some(user) = user::run_as() {
        all.extend(["--run-as", user]);
    }
    all.extend(target);
    programs::run("pitr", &all, &[("TZ".to_owned(), "Europe/Berlin".to_owned())])
}

/// Refused into a folder that is absent and into one that is empty, with this exit code and these
/// words; both stay as they are, and so does the archive.
fn refused(
    life: &Protected,
    archive: &str,
    target: &[&str],
    exit: i32,
    words: &[&str],
) -> Result<()> {
    let before = listing(Path::new(archive))?;
    let (absent, empty) = (life.folder.path().join("absent"), life.folder.sub("empty")?);
    for into in [&absent, &empty] {
        let output = restore(life, archive, into, target)?.code_is(exit)?;
        let said = format!("{}{}", output.stdout, output.stderr);
        if into == &absent {
            println!("{} -> exit {exit}\n{said}", target.join(" "));
        }
        for word in words {
            ensure!(said.contains(word), "{word:?} is not in what {target:?} was told: {said}");
        }
    }
    ensure!(!absent.exists(), "{target:?} made {}", absent.display());
    ensure!(std::fs::read_dir(&empty)?.next().is_none(), "{target:?} left something behind");
    ensure!(listing(Path::new(archive))? == before, "{target:?} changed the archive");
    Ok(())
}

fn status(life: &Protected) -> Result<serde_json::Value> {
    life.pitr(&["status", "--json"])?.ok()?.json()
}

fn text(value: &serde_json::Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

#[test]
fn what_cannot_be_restored_is_refused_with_the_nearest_moments_and_nothing_written() -> Result<()> {
    let life = live()?;
    let (protected, archive) = (&life.protected, life.protected.archive.as_str());
    let status = status(protected)?;
    let window = |at: usize, side: &str| text(&status["windows"][at][side]).map(str::to_owned);
    let (first_from, first_to) = (window(0, "from")?, window(0, "to")?);
    let (second_from, second_to) = (window(1, "from")?, window(1, "to")?);
    ensure!(status["gaps"].as_array().is_some_and(|gaps| gaps.len() == 1), "{}", status["gaps"]);
    let list = protected.pitr(&["list"])?.ok()?.stdout;
    println!("{list}");
    let moments = [&first_from, &first_to, &second_from, &second_to];
    for moment in moments {
        let seconds = &moment[11..19];
        ensure!(list.contains(seconds), "{moment} is not in: {list}");
    }
    ensure!(first_to < life.lost.time && life.lost.time < second_from, "{status:#}");

    let early = ["PITR-N001", first_from.as_str()];
    refused(protected, archive, &["--at", &life.before_base], 10, &early)?;
    let future = Timestamp::parse(&second_to)?.plus_micros(3_600_000_000).to_string();
    let late = ["PITR-N001", "later than what is archived", second_to.as_str()];
    refused(protected, archive, &["--at", &future], 10, &late)?;
    let gap = ["PITR-N001", "lost", first_to.as_str(), second_from.as_str()];
    refused(protected, archive, &["--at", &life.lost.time], 10, &gap)?;
    refused(protected, archive, &["--at-lsn", &life.lost.lsn.to_string()], 10, &gap)?;
    let readings =
        ["PITR-U004", "no zone", "2026-11-20T14:20:00", "2026-11-20T13:20:00", "Europe/Berlin"];
    refused(protected, archive, &["--at", "2026-11-20 14:20"], 2, &readings)?;
    refused(protected, archive, &["--at", "2026-11-20 14:20 CET"], 2, &["PITR-U004", "+01:00"])?;
    refused(protected, archive, &["--at-name", "unknown"], 10, &["PITR-N001", "known"])?;
    refused(
        protected,
        archive,
        &["--at-xid", "4000000"],
        10,
        &["PITR-N001", "4000000", "which has"],
    )?;
    let id = text(&status["bases"][0]["id"])?;
    let other = ["--latest", "--base", "20260101T000000Z"];
    refused(protected, archive, &other, 10, &["PITR-N004", id])?;
    // The first base cannot be replayed across the gap.
    refused(protected, archive, &["--latest", "--base", id], 10, &["PITR-N004"])?;
    refused(protected, archive, &["--latest", "--lineage", "7"], 6, &["PITR-W001", "7"])?;
    other_archives(protected)?;
    folders_in_use(protected)?;

    restored(protected, "before-the-gap", &["--at", &life.kept.time], &life.kept)?;
    restored(protected, "behind-the-gap", &["--at", &life.regained.time], &life.regained)?;
    damaged(&life)?;
    broken(&life)
}

/// Archives that are not for this program: told apart by what they say of themselves.
fn other_archives(protected: &Protected) -> Result<()> {
    let archive = copied(protected, "other")?;
    let path = Path::new(&archive).join("lineage/1/identity.json");
    let own = std::fs::read_to_string(&path)?;
    for (from, to, exit, code) in [
        ("\"postgresql\"", "\"mongodb\"", 6, "PITR-W001"),
        ("\"format\": 1", "\"format\": 99", 3, "PITR-C005"),
    ] {
        ensure!(own.contains(from), "{own}");
        std::fs::write(&path, own.replacen(from, to, 1))?;
        refused(protected, &archive, &["--latest"], exit, &[code])?;
    }
    let nowhere = protected.folder.sub("nowhere")?.display().to_string();
    refused(protected, &nowhere, &["--latest"], 3, &["PITR-C004"])?;
    Ok(std::fs::remove_dir_all(archive)?)
}

/// A folder that holds anything is left as it is, above all a running server's.
fn folders_in_use(protected: &Protected) -> Result<()> {
    let archive = &protected.archive;
    let full = protected.folder.sub("full")?;
    std::fs::write(full.join("mine"), "text")?;
    let output = restore(protected, archive, &full, &["--latest"])?.code_is(4)?;
    ensure!(output.stderr.contains("PITR-R001") && output.stderr.contains("mine"), "{output:?}");
    ensure!(std::fs::read_dir(&full)?.count() == 1, "something was added");
    let data = protected.cluster.data();
    let before = std::fs::metadata(data)?.permissions();
    let output = restore(protected, archive, data, &["--latest"])?.code_is(4)?;
    println!("{}", output.stderr);
    ensure!(output.stderr.contains("PITR-R001"), "{}", output.stderr);
    ensure!(std::fs::metadata(data)?.permissions() == before && !data.join(".pitr").exists());
    ensure!(protected.cluster.is_running(), "the server was disturbed");
    protected.cluster.sql("INSERT INTO steps VALUES (7)")?;
    Ok(())
}

/// A copy of the archive, to be damaged.
fn copied(protected: &Protected, name: &str) -> Result<String> {
    let copy = protected.folder.path().join(name).display().to_string();
    let mut cp = std::process::Command::new("cp");
    cp.args(["-a", &protected.archive, &copy]);
    process::run(cp)?;
    Ok(copy)
}

/// A byte of a segment between `held` and `kept` turned over: in its data, then in its trailer.
fn damaged(life: &Life) -> Result<()> {
    let protected = &life.protected;
    let size = proto::postgres::lsn::SegmentSize::try_from(1_u64 << 20)?;
    let number = size.segment_of(life.held.lsn) + 2;
    ensure!(number < size.segment_of(life.kept.lsn), "{} to {}", life.held.lsn, life.kept.lsn);
    let timeline = proto::postgres::lsn::Timeline(1);
    let name = proto::postgres::lsn::SegmentId { timeline, number }.name(size);
    for (folder, in_data) in [("damaged-data", true), ("damaged-end", false)] {
        let archive = copied(protected, folder)?;
        let keys = Archive::at(Path::new(&archive)).keys("lineage/1/log/")?;
        let key = keys.iter().find(|key| key.contains(&name)).context("it is sealed")?;
        let path = Path::new(&archive).join(key);
        let mut bytes = std::fs::read(&path)?;
        let at = if in_data { bytes.len() / 8 } else { bytes.len() - 12 };
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes)?;
        let into = protected.folder.path().join(format!("{folder}-behind"));
        let output = restore(protected, &archive, &into, &["--at", &life.kept.time])?;
        println!("byte {at} of {name}: {:?}\n{}", output.code, output.stderr);
        ensure!(matches!(output.code, Some(1 | 10)), "{output:?}");
        ensure!(output.stderr.contains(&name), "{name} is not named: {}", output.stderr);
        ensure!(!into.join("pg_wal/00000002.history").exists(), "it was promoted");
        let into = protected.folder.path().join(format!("{folder}-before"));
        restore(protected, &archive, &into, &["--at", &life.held.time])?.ok()?;
        protected.assert_restored(&into, &life.held)?;
        let verified = programs::pitr(&["verify", "--read-data", "--archive", &archive])?;
        ensure!(verified.code == Some(9) && verified.stdout.contains(&name), "{verified:?}");
    }
    Ok(())
}

/// A tail of the open segment turned over in its data, then in its header, then lost, while others follow it:
/// `status` and `verify` tell of it, and what stands before is restored.
fn broken(life: &Life) -> Result<()> {
    let protected = &life.protected;
    for folder in ["broken-data", "broken-header", "broken-lost"] {
        let archive = copied(protected, folder)?;
        let keys = Archive::at(Path::new(&archive)).keys("lineage/1/tail/")?;
        let last = keys.last().context("an open segment")?;
        let segment = last.trim_start_matches("lineage/1/tail/").split('/').next().unwrap_or("");
        let chain: Vec<_> = keys.iter().filter(|key| key.contains(segment)).collect();
        ensure!(chain.len() > 1, "one tail cannot be lost in the middle: {chain:?}");
        let path = Path::new(&archive).join(chain[0]);
        let mut bytes = std::fs::read(&path)?;
        match folder {
            "broken-lost" => std::fs::remove_file(&path)?,
            _ => {
                let at = if folder == "broken-data" { bytes.len() - 6 } else { 20 };
                bytes[at] ^= 0x10;
                std::fs::write(&path, bytes)?;
            }
        }
        let verified = programs::pitr(&["verify", "--read-data", "--archive", &archive])?;
        println!("{folder} of {}: {verified:?}", chain[0]);
        ensure!(verified.code == Some(9) && verified.stdout.contains(segment), "{verified:?}");
        let status = programs::pitr(&["status", "--archive", &archive])?;
        println!("{status:?}");
        ensure!(
            status.stdout.contains(&format!("DAMAGED  lineage/1/tail/{segment}")),
            "{status:?}"
        );
        let into = protected.folder.path().join(format!("{folder}-behind"));
        let output = restore(protected, &archive, &into, &["--at", &life.regained.time])?;
        println!("{output:?}");
        ensure!(matches!(output.code, Some(1 | 10)), "{output:?}");
        let into = protected.folder.path().join(format!("{folder}-before"));
        restore(protected, &archive, &into, &["--at", &life.held.time])?.ok()?;
        protected.assert_restored(&into, &life.held)?;
    }
    Ok(())
}
