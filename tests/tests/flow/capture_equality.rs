//! The archive holds the server's own bytes: compared with what pg_receivewal wrote beside us.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use proto::postgres::lsn::SegmentId;
use tests::archive::Archive;
use tests::postgres::Cluster;
use tests::process;
use tests::programs::Pitrd;
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::{self, Deadline};

/// pg_receivewal in the background, with a slot of its own.
struct Receiver {
    child: std::process::Child,
    folder: PathBuf,
}

impl Receiver {
    fn start(cluster: &Cluster) -> Result<Self> {
        let folder = cluster.scratch("received")?;
        let command = |more: &str| {
            let mut command = cluster.tool("pg_receivewal");
            command.arg("-D").arg(&folder).args(["--slot", "receiver", more]);
            command.args(["-d", &cluster.replication_url()]);
            command
        };
        process::run(command("--create-slot"))?;
        let mut receive = command("--no-loop");
        receive.stdin(Stdio::null());
        Ok(Self { child: process::spawn(receive)?, folder })
    }

    /// The finished segments, by name.
    fn finished(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.len() == 24 {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn stop(mut self) -> Result<PathBuf> {
        process::signal(&self.child, process::Signal::INT)?;
        process::wait_for(&mut self.child, "pg_receivewal", &Deadline::seconds(60))?;
        Ok(self.folder)
    }
}

/// `zstd -d` of every sealed object into a folder, and pg_waldump over all of it.
fn decode_with_tools(cluster: &Cluster, archive: &Archive, names: &[String]) -> Result<PathBuf> {
    let folder = cluster.scratch("decoded")?;
    let keys = archive.keys("lineage/1/log/")?;
    for name in names {
        let key = keys.iter().find(|key| key.ends_with(&format!("/{name}.zst")));
        let key = key.with_context(|| format!("{name} is not in the archive"))?;
        let object = folder.join(format!("{name}.zst"));
        std::fs::write(&object, archive.get(key)?)?;
        let mut zstd = std::process::Command::new("zstd");
        process::run({
            zstd.args(["-q", "-d", "--rm"]).arg(&object);
            zstd
        })?;
    }
    waldump(cluster, &folder, names)?;
    Ok(folder)
}

/// Reads from the first segment to the end of the last: nothing but the end may stop it.
fn waldump(cluster: &Cluster, folder: &Path, names: &[String]) -> Result<()> {
    let (first, last) = (names.first().context("none")?, names.last().context("none")?);
    let mut dump = cluster.tool("pg_waldump");
    dump.arg("-p").arg(folder).args([first, last]);
    dump.stdout(Stdio::null()).stderr(Stdio::piped());
    let output = dump.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Behind the last segment a record that spans into the next one cannot be read.
    let size = std::fs::metadata(folder.join(last))?.len();
    let size = proto::postgres::lsn::SegmentSize::try_from(size)?;
    let end = SegmentId::parse(last, size)?.end(size);
    let next = SegmentId::parse(last, size)?.next().name(size);
    let at_the_end = said.contains(&next)
        || said.contains("could not find a valid record")
        || said.contains("could not find file")
        || said.contains(&format!("{:X}/", end.0 >> 32));
    ensure!(output.status.success() || at_the_end, "pg_waldump: {said}");
    ensure!(!said.contains("incorrect"), "pg_waldump: {said}");
    Ok(())
}

fn sealed_segments_equal_what_pg_receivewal_wrote(
    version: u32,
    segment_mb: u32,
    archive: &Archive,
    codec: &str,
) -> Result<()> {
    let cluster = Cluster::builder(version).segment_mb(segment_mb).start()?;
    let receiver = Receiver::start(&cluster)?;
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--no-base", "--compression", codec])
        .envs(archive.environment())
        .start()?;
    pitrd.wait_state("streaming", &Deadline::seconds(60))?;
    cluster.pgbench_init("postgres", scope::scale(1, 10))?;
    cluster
        .pgbench("postgres", &["-n", "-c", "4", "-t", &scope::scale(500, 20_000).to_string()])?;
    cluster.fill_log(2 * segment_mb)?;
    let target = pitrd.wait_caught_up(&cluster)?;
    wait::until(&Deadline::seconds(60), "pg_receivewal to have it", || {
        let end = proto::postgres::lsn::SegmentSize::try_from(u64::from(segment_mb) << 20)?;
        let last = SegmentId::containing(proto::postgres::lsn::Timeline(1), end.floor(target), end);
        let before = SegmentId { number: last.number - 1, ..last }.name(end);
        Ok(receiver.finished()?.contains(&before).then_some(()))
    })?;
    ensure!(pitrd.sigterm(&Deadline::seconds(60))?.success(), "{}", pitrd.log());
    let log = archive.log()?;
    let found = log.assert_unbroken()?;
    let names: Vec<String> = receiver.finished()?;
    let names: Vec<String> = names
        .into_iter()
        .filter(|name| {
            let id = SegmentId::parse(name, log.size).ok();
            id.is_some_and(|id| {
                id.start(log.size) >= log.identity.first && id.start(log.size) < target
            })
        })
        .collect();
    let last = names.last().context("pg_receivewal finished nothing")?.clone();
    let held: Vec<String> = names
        .iter()
        .filter(|name| {
            SegmentId::parse(name, log.size).is_ok_and(|id| log.sealed.contains_key(&id))
        })
        .cloned()
        .collect();
    // The one that was just full may still be on its way into pg_receivewal's folder.
    ensure!(held.len() + 1 >= names.len() && !held.is_empty(), "{held:?} of {names:?}");
    let received = receiver.stop()?;
    let compared = log.assert_equals_files(&received)?;
    ensure!(compared >= held.len(), "{compared} of {}", held.len());
    let decoded = decode_with_tools(&cluster, archive, &held)?;
    for name in &held {
        let same = std::fs::read(decoded.join(name))? == std::fs::read(received.join(name))?;
        ensure!(same, "zstd -d of {name} is not what pg_receivewal wrote");
    }
    println!(
        "PostgreSQL {version} {segment_mb} MB {codec} {}: {found}; {} files up to {last} equal",
        archive.url(),
        held.len()
    );
    Ok(())
}

#[test]
fn sealed_segments_are_what_pg_receivewal_wrote_in_a_folder() -> Result<()> {
    for version in scope::postgres_versions() {
        let archive = Archive::in_folder()?;
        sealed_segments_equal_what_pg_receivewal_wrote(version, 16, &archive, "zstd:3")?;
    }
    Ok(())
}

#[test]
fn sealed_segments_are_what_pg_receivewal_wrote_on_s3() -> Result<()> {
    let seaweed = Seaweed::shared()?;
    for version in scope::postgres_versions() {
        let archive = Archive::on_s3(seaweed, &format!("equality/{version}"));
        sealed_segments_equal_what_pg_receivewal_wrote(version, 16, &archive, "zstd:3")?;
    }
    Ok(())
}

#[test]
fn every_codec_and_segment_size_gives_the_same_files() -> Result<()> {
    let version = scope::newest_postgres();
    for (codec, segment_mb) in [("lz4", 1), ("none", 1), ("zstd:1", scope::scale(4, 64))] {
        let archive = Archive::in_folder()?;
        sealed_segments_equal_what_pg_receivewal_wrote(version, segment_mb, &archive, codec)?;
    }
    Ok(())
}
