//! `kill -9` of the sidecar, at random moments and at chosen system calls.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use tests::archive::Archive;
use tests::gate::Gate;
use tests::postgres::Cluster;
use tests::programs::{Pitrd, PitrdBuilder};
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::{self, Deadline};

use crate::flow::protected::{Place, Protected};

/// Segments of 1 MB, so that a kill meets seals and uploads and not only tails.
fn cluster(version: u32) -> Result<Cluster> {
    let cluster = Cluster::builder(version).segment_mb(1).conf("wal_keep_size", "4GB").start()?;
    cluster.pgbench_init("postgres", 1)?;
    Ok(cluster)
}

/// Waits until bytes flow: the sidecar has received more than a moment ago.
pub(crate) fn await_flow(pitrd: &mut Pitrd) -> Result<()> {
    let mut last = None;
    pitrd.wait_for_metrics("bytes to flow", &Deadline::seconds(120), |metrics| {
        let now = metrics.sum("pitr_received_position");
        let flows = last.is_some() && now.is_some() && now > last;
        last = now.or(last);
        flows
    })
}

/// `kill -9` at random moments while bytes flow, and a start behind each; they flow again in the end.
pub(crate) fn kill_at_random(pitrd: &mut Pitrd, kills: u32) -> Result<()> {
    for _ in 0..kills {
        await_flow(pitrd)?;
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..400)));
        pitrd.kill9()?;
        pitrd.start()?;
    }
    await_flow(pitrd)
}

/// What may lie in a spool once everything is in the store: the open segment, and our own marks.
fn assert_spool_is_clean(pitrd: &Pitrd) -> Result<()> {
    let spool = pitrd.spool()?;
    let mut left = Vec::new();
    wait::until(&Deadline::seconds(30), "the spool to be empty", || {
        left = std::fs::read_dir(&spool)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        left.retain(|name| name != "lock" && name != "writer");
        let open = left.iter().filter(|name| name.ends_with(".open")).count();
        Ok((open == left.len() && open <= 1).then_some(()))
    })
    .with_context(|| format!("the spool holds {left:?}"))
}

/// Everything in the archive is the server's, without a hole.
fn assert_whole(what: &str, cluster: &Cluster, archive: &Archive) -> Result<()> {
    let log = archive.log()?;
    let found = log.assert_unbroken().context(what.to_owned())?;
    let files = log.assert_equals_files(&cluster.wal_dir())?;
    ensure!(files + 2 >= log.sealed.len(), "{files} files of {} compared", log.sealed.len());
    println!("{what}: {found}; {files} files equal the server's");
    Ok(())
}

fn random_kills(version: u32, place: Place, kills: u32) -> Result<()> {
    let mut protected = Protected::around(cluster(version)?, place, &["--flush", "100ms"])?;
    protected.await_base()?;
    let load = protected.cluster.pgbench_start("postgres", 2)?;
    kill_at_random(&mut protected.pitrd, kills)?;
    load.stop()?;
    let moment = protected.cluster.record("postgres")?;
    protected.await_everything()?;
    assert_spool_is_clean(&protected.pitrd)?;
    let archive = match place {
        Place::Folder => Archive::at(protected.archive.as_ref()),
        Place::S3 => {
            let name = protected.folder.path().file_name().context("a name")?;
            Archive::on_s3(Seaweed::shared()?, &name.to_string_lossy())
        }
    };
    let what = format!("PostgreSQL {version} {place:?}, {kills} kills");
    assert_whole(&what, &protected.cluster, &archive)?;
    ensure!(archive.log()?.gaps().is_empty(), "a gap was recorded");
    ensure!(protected.pitrd.sigterm(&Deadline::seconds(60))?.success(), "the end");
    let restored = protected.restore("latest", &["--latest"])?;
    protected.assert_restored(&restored, &moment)
}

#[test]
fn nothing_is_lost_by_kills_at_random_moments_into_a_folder() -> Result<()> {
    for version in scope::postgres_versions() {
        random_kills(version, Place::Folder, scope::scale(5, 50))?;
    }
    Ok(())
}

#[test]
fn nothing_is_lost_by_kills_at_random_moments_on_s3() -> Result<()> {
    random_kills(scope::newest_postgres(), Place::S3, scope::scale(5, 50))
}

fn under_strace(builder: PitrdBuilder, injection: &str) -> PitrdBuilder {
    let syscall = injection.split(':').next().unwrap_or_default().to_owned();
    let trace = format!("trace={syscall}");
    let inject = format!("inject={injection}");
    builder.under(["strace", "-f", "-o", "strace.log", "-e", &trace, "-e", &inject])
}

/// The kill happens at the entry of the nth call: before what it would have done.
#[test]
fn nothing_is_lost_by_a_kill_at_any_system_call_that_keeps_bytes() -> Result<()> {
    let cluster = cluster(scope::newest_postgres())?;
    let archive = Archive::in_folder()?;
    let plain = Pitrd::builder(&cluster.replication_url(), archive.url())
        .args(["--flush", "50ms"])
        .envs(archive.environment());
    let mut pitrd = plain.clone().start()?;
    pitrd.wait_for_log("base complete", &Deadline::seconds(300))?;
    let mut gate = Gate::new();
    gate.note(&cluster)?;
    pitrd.kill9()?;
    let spool = pitrd.spool()?;
    let spool = spool.display().to_string();
    let mut kills = 0;
    // strace counts for each thread by itself, so that small numbers meet every place.
    let last = scope::scale(3, 10);
    let load = cluster.pgbench_start_with("postgres", &["-c", "1", "-R", "300", "-T", "3600"])?;
    // What keeps bytes on a disk, and what sends them to the server.
    for syscall in
        ["fdatasync", "fsync", "renameat2", "linkat", "unlink", "ftruncate", "write", "sendto"]
    {
        gate.note(&cluster)?;
        for nth in 1..=last {
            let builder = plain.clone().args(["--spool", &spool]);
            let nth = if ["write", "sendto"].contains(&syscall) { nth * 10 } else { nth * nth };
            let injection = format!("{syscall}:signal=KILL:when={nth}");
            let mut victim = under_strace(builder, &injection).start()?;
            let died = wait::until(&Deadline::seconds(8), "the kill", || {
                Ok((!victim.is_running()).then_some(()))
            });
            kills += u32::from(died.is_ok());
            println!("{injection}: {}", if died.is_ok() { "killed" } else { "never met" });
            drop(victim);
        }
    }
    ensure!(kills >= 10, "only {kills} kills happened");
    load.stop()?;
    pitrd.start()?;
    pitrd.wait_caught_up(&cluster)?;
    assert_spool_is_clean(&pitrd)?;
    assert_whole(&format!("{kills} kills at system calls"), &cluster, &archive)?;
    gate.pass(&cluster, &archive).map(drop)
}
