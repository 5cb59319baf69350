//! The spool's disk fails: flipped, cut, deleted, full, and an fsync that does not work.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::archive::Archive;
use tests::postgres::Cluster;
use tests::programs::{Pitrd, PitrdBuilder};
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::Deadline;

fn cluster() -> Result<Cluster> {
    let version = scope::newest_postgres();
    Cluster::builder(version).segment_mb(4).conf("wal_keep_size", "4GB").start()
}

fn assert_whole(what: &str, cluster: &Cluster, archive: &Archive) -> Result<()> {
    let log = archive.log()?;
    let found = log.assert_unbroken()?;
    let files = log.assert_equals_files(&cluster.wal_dir())?;
    ensure!(log.gaps().is_empty(), "{what}: a gap");
    println!("{what}: {found}; {files} files equal the server's");
    Ok(())
}

fn with_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    Ok(found)
}

/// Turns over one bit in the middle of a file.
fn flip(path: &Path) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    let at = bytes.len() / 2;
    bytes[at] ^= 0x08;
    Ok(std::fs::write(path, bytes)?)
}

/// A sidecar that was killed while the store was away: its spool holds what the store lacks.
struct Stranded {
    cluster: Cluster,
    seaweed: Seaweed,
    archive: Archive,
    pitrd: Pitrd,
}

impl Stranded {
    fn new(name: &str, codec: &str) -> Result<Self> {
        let cluster = cluster()?;
        let seaweed = Seaweed::start_new()?;
        let archive = Archive::on_s3(&seaweed, name);
        let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
            .args(["--no-base", "--flush", "100ms", "--compression", codec])
            .envs(archive.environment())
            .start()?;
        pitrd.wait_state("streaming", &Deadline::seconds(60))?;
        cluster.add_rows(1000)?;
        pitrd.wait_caught_up(&cluster)?;
        seaweed.kill9()?;
        cluster.fill_log(10)?;
        let target = cluster.add_rows(1000)?;
        pitrd.wait("the spool to hold it", &Deadline::seconds(60), |pitrd| {
            Ok(super::spooled(&pitrd.spool()?)? >= target)
        })?;
        pitrd.kill9()?;
        ensure!(!with_ending(&pitrd.spool()?, ".sealed")?.is_empty(), "nothing was sealed");
        Ok(Self { cluster, seaweed, archive, pitrd })
    }

    fn recover(mut self, what: &str) -> Result<()> {
        self.seaweed.start()?;
        self.cluster.add_rows(10)?;
        self.pitrd.start()?;
        self.pitrd.wait_caught_up(&self.cluster)?;
        assert_whole(what, &self.cluster, &self.archive)
    }
}

#[test]
fn what_the_spool_alone_holds_goes_up_after_a_restart() -> Result<()> {
    let stranded = Stranded::new("stranded", "zstd:3")?;
    stranded.recover("left as it was")
}

#[test]
fn a_flipped_bit_in_the_open_file_comes_again_from_the_source() -> Result<()> {
    for codec in ["zstd:3", "lz4", "none"] {
        let stranded = Stranded::new("flipped", codec)?;
        let open = with_ending(&stranded.pitrd.spool()?, ".open")?;
        flip(open.first().context("an open file")?)?;
        stranded.recover(&format!("flipped, {codec}"))?;
    }
    Ok(())
}

#[test]
fn a_cut_open_file_and_a_torn_sealed_one_come_again_from_the_source() -> Result<()> {
    let stranded = Stranded::new("cut", "zstd:3")?;
    let spool = stranded.pitrd.spool()?;
    let open = with_ending(&spool, ".open")?;
    let file = std::fs::OpenOptions::new().write(true).open(open.first().context("open")?)?;
    file.set_len(file.metadata()?.len() / 2)?;
    let sealed = with_ending(&spool, ".sealed")?;
    let file = std::fs::OpenOptions::new().write(true).open(sealed.last().context("sealed")?)?;
    file.set_len(file.metadata()?.len() / 2)?;
    stranded.recover("cut")
}

#[test]
fn a_flipped_bit_in_a_sealed_file_never_reaches_the_archive() -> Result<()> {
    for codec in ["zstd:3", "none"] {
        let stranded = Stranded::new("sealed", codec)?;
        let sealed = with_ending(&stranded.pitrd.spool()?, ".sealed")?;
        flip(sealed.first().context("a sealed file")?)?;
        stranded.recover(&format!("sealed flipped, {codec}"))?;
    }
    Ok(())
}

#[test]
fn a_deleted_spool_costs_nothing_that_was_acknowledged() -> Result<()> {
    let mut stranded = Stranded::new("deleted", "zstd:3")?;
    std::fs::remove_dir_all(stranded.pitrd.spool()?)?;
    stranded.seaweed.start()?;
    // Without its spool it cannot tell that it is the last writer: it waits until that stands still.
    stranded.pitrd.start()?;
    stranded
        .pitrd
        .wait_durable_within(stranded.cluster.flush_position()?, &Deadline::seconds(300))?;
    assert_whole("deleted", &stranded.cluster, &stranded.archive)
}

/// Under strace, the nth fdatasync of each thread fails once, as a disk does that lost a page.
fn failing_sync(builder: PitrdBuilder, nth: u32) -> PitrdBuilder {
    let inject = format!("inject=fdatasync:error=EIO:when={nth}");
    let options = ["strace", "-f", "-y", "-o", "strace.log"];
    builder.under(options).under_more(["-e", "trace=fdatasync,unlink", "-e", &inject])
}

/// The files below `spool` whose fdatasync failed. Each was given up: not one was synced again before
/// it was removed.
fn abandoned(trace: &str, spool: &str) -> Result<Vec<String>> {
    let lines: Vec<&str> = trace.lines().collect();
    let mut files = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("INJECTED")) {
        // Of a call that another thread's interrupted, the line before names the file.
        let thread = |line: &str| line.split_whitespace().next().map(str::to_owned);
        let begun =
            |before: &&&str| before.contains("<unfinished") && thread(before) == thread(line);
        let named = match line.contains("resumed>") {
            true => lines[..at].iter().rev().find(begun).context("strace tells the beginning")?,
            false => line,
        };
        let file = named.split(['<', '>']).nth(1).context("strace -y names the file")?;
        if !file.starts_with(spool) || file.ends_with("/writer") {
            continue;
        }
        let later = lines[at + 1..].iter().filter(|line| line.contains(file));
        let first = later.clone().next().with_context(|| format!("{file} stays:\n{trace}"))?;
        ensure!(first.contains("unlink"), "{file} was used again: {first}\n{trace}");
        files.push(file.to_owned());
    }
    Ok(files)
}

#[test]
fn a_failed_fsync_is_never_tried_again_on_the_same_file() -> Result<()> {
    let cluster = cluster()?;
    let mut all = 0;
    for nth in [2, 3, 5] {
        let archive = Archive::in_folder()?;
        let slot = format!("sync{nth}");
        let builder = Pitrd::builder(&cluster.replication_url(), archive.url()).args([
            "--no-base",
            "--flush",
            "50ms",
            "--slot",
            &slot,
        ]);
        let mut pitrd = failing_sync(builder, nth).start()?;
        pitrd.wait_state("streaming", &Deadline::seconds(60))?;
        for _ in 0..10 {
            cluster.add_rows(500)?;
        }
        cluster.fill_log(9)?;
        pitrd.wait_caught_up(&cluster)?;
        let trace = std::fs::read_to_string(pitrd.folder().join("strace.log"))?;
        ensure!(trace.contains("INJECTED"), "no fdatasync failed:\n{trace}");
        let files = abandoned(&trace, &pitrd.spool()?.display().to_string())?;
        let log = pitrd.log();
        let told = log.matches("fsync failed").count();
        ensure!(told == files.len(), "told {told} times of {files:?}:\n{log}");
        all += files.len();
        assert_whole(&format!("fdatasync {nth}, abandoned {files:?}"), &cluster, &archive)?;
    }
    ensure!(all > 0, "no file of a spool was hit");
    Ok(())
}

/// The spool on a small disk of its own, seen by the sidecar alone: it goes with the process.
pub(super) fn on_small_disk(builder: PitrdBuilder, spool: &Path, options: &str) -> PitrdBuilder {
    let script = format!("mount -t tmpfs -o {options} tmpfs {0} && exec \"$@\"", spool.display());
    let root = if rustix::process::getuid().is_root() { "-mf" } else { "-rmf" };
    builder.under(["unshare", root, "sh", "-c", &script, "sh"])
}

/// A sidecar whose spool has 80 MiB, and the file that takes them from it.
fn streaming_onto_a_small_disk(
    cluster: &Cluster,
    archive: &Archive,
) -> Result<(Pitrd, PathBuf, tests::scratch::Folder)> {
    let folder = tests::scratch::Folder::new("small")?;
    let spool = folder.sub("spool")?;
    let builder = Pitrd::builder(&cluster.replication_url(), archive.url()).args([
        "--no-base",
        "--flush",
        "50ms",
        "--compression",
        "none",
        "--spool",
        &spool.display().to_string(),
    ]);
    let mut pitrd = on_small_disk(builder, &spool, "size=80m").start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    pitrd.wait_caught_up(cluster)?;
    // Its own view of the folder is reached through its process.
    let inside = PathBuf::from(format!("/proc/{}/root{}", pitrd.pid()?, spool.display()));
    Ok((pitrd, inside.join("filler"), folder))
}

#[test]
fn a_full_disk_holds_the_source_with_one_message_and_heals_by_itself() -> Result<()> {
    let cluster = cluster()?;
    let archive = Archive::in_folder()?;
    let (mut pitrd, filler, _folder) = streaming_onto_a_small_disk(&cluster, &archive)?;
    std::fs::write(&filler, vec![1; 60 << 20])?;
    let target = cluster.fill_log(30)?;
    pitrd.wait_state("held", &Deadline::seconds(60))?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    ensure!(pitrd.is_running(), "it ended");
    let log = pitrd.log();
    let told = log.matches("disk is full").count();
    ensure!(told == 1, "told {told} times:\n{log}");
    cluster.add_rows(10)?;
    std::fs::remove_file(&filler)?;
    pitrd.wait_durable(target)?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    pitrd.wait_caught_up(&cluster)?;
    assert_whole("a full disk", &cluster, &archive)
}

/// Somebody takes the last byte at once: a write fails in the middle of a frame.
#[test]
fn a_disk_that_is_full_from_one_moment_to_the_next_loses_nothing() -> Result<()> {
    let cluster = cluster()?;
    let archive = Archive::in_folder()?;
    let (mut pitrd, filler, _folder) = streaming_onto_a_small_disk(&cluster, &archive)?;
    // Writes until nothing is left, and fails for that reason.
    let full = std::fs::write(&filler, vec![1; 90 << 20]);
    ensure!(full.is_err(), "the disk took it all");
    let target = cluster.fill_log(10)?;
    pitrd.wait_for_log("full", &Deadline::seconds(60))?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    ensure!(pitrd.is_running(), "it ended");
    let ledger = archive.ledger()?;
    std::fs::remove_file(&filler)?;
    pitrd.wait_durable(target)?;
    pitrd.wait_caught_up(&cluster)?;
    ensure!(archive.ledger()?.len() <= ledger.len() + 1, "every try was written into the ledger");
    assert_whole("no byte left", &cluster, &archive)
}
