//! A spool that cannot be written to for a while: no byte left, no inode, no right, no descriptor.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::archive::Archive;
use tests::loop_disk::{FileSystem, LoopDisk};
use tests::mongod::ReplicaSet;
use tests::postgres::Cluster;
use tests::process;
use tests::programs::Pitrd;
use tests::scratch::Folder;
use tests::seaweed::Seaweed;
use tests::user;
use tests::wait::{self, Deadline};

use super::guarded::{Engine, Guarded};
use super::kills::await_flow;
use super::spool::on_small_disk;

/// What the log says once, and not all the time: how often it said it in some seconds.
fn told(pitrd: &mut Pitrd, text: &str) -> Result<usize> {
    pitrd.wait_for_log(text, &Deadline::seconds(60))?;
    std::thread::sleep(Duration::from_secs(5));
    ensure!(pitrd.is_running(), "it ended: {}", pitrd.log());
    ensure!(!pitrd.log().contains("panicked"), "{}", pitrd.log());
    Ok(pitrd.log().matches(text).count())
}

/// Takes all that a small disk has of something, and gives it back.
fn exhausted<E: Engine>(options: &str, exhaust: fn(&Path) -> Result<()>) -> Result<()> {
    let mut guarded = Guarded::<E>::start(Archive::in_folder()?, |builder| builder)?;
    let spool = Folder::new("small")?;
    let spool = spool.sub("spool")?;
    // The old spool is lost, and with it what tells that the last writer was we.
    guarded.pitrd.kill9()?;
    guarded.again_elsewhere(&spool, |builder| {
        on_small_disk(builder.args(["--take-over", "--compression", "none"]), &spool, options)
    })?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    // Its own view of the folder is reached through its process.
    let inside = PathBuf::from(format!("/proc/{}/root{}", guarded.pitrd.pid()?, spool.display()));
    let taken = inside.join("taken");
    std::fs::create_dir(&taken)?;
    exhaust(&taken)?;
    let told = told(&mut guarded.pitrd, "No space left")?;
    ensure!(told <= 8, "told {told} times:\n{}", guarded.pitrd.log());
    guarded.note()?;
    std::fs::remove_dir_all(&taken)?;
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    guarded.pass(&format!("{options}, told {told} times"))
}

/// Until not one more byte fits.
fn bytes(taken: &Path) -> Result<()> {
    let full = std::fs::write(taken.join("filler"), vec![1; 90 << 20]);
    ensure!(full.is_err(), "the disk took it all");
    Ok(())
}

/// Until not one more file can be made.
fn inodes(taken: &Path) -> Result<()> {
    for number in 0..10_000 {
        if std::fs::write(taken.join(number.to_string()), "").is_err() {
            return Ok(());
        }
    }
    anyhow::bail!("the disk made every file")
}

#[test]
fn a_disk_without_a_byte_left_loses_nothing_of_an_oplog() -> Result<()> {
    exhausted::<ReplicaSet>("size=80m", bytes)
}

#[test]
fn a_disk_without_an_inode_left_is_waited_for_and_loses_nothing() -> Result<()> {
    exhausted::<Cluster>("size=80m,nr_inodes=200", inodes)
}

#[test]
fn a_spool_that_may_not_be_written_to_any_more_is_waited_for_and_loses_nothing() -> Result<()> {
    let archive = Archive::on_s3(Seaweed::shared()?, "denied");
    let mut guarded = Guarded::<Cluster>::start(archive, |builder| builder)?;
    guarded.pitrd.kill9()?;
    for entry in std::fs::read_dir(&guarded.spool)? {
        user::hand_over(&entry?.path())?;
    }
    // Root is denied nothing.
    guarded.again_with(|builder| match user::server_user() {
        Some(who) => {
            let (uid, gid) = (who.uid, who.gid);
            let script =
                format!("setpriv --reuid={uid} --regid={gid} --clear-groups -- \"$@\"; exit $?");
            builder.under(["sh", "-c", &script, "sh"])
        }
        None => builder,
    })?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    let mode = |bits| std::fs::set_permissions(&guarded.spool, PermissionsExt::from_mode(bits));
    mode(0o500)?;
    let told = told(&mut guarded.pitrd, "Permission denied")?;
    ensure!(told <= 8, "told {told} times:\n{}", guarded.pitrd.log());
    let mode = |bits| std::fs::set_permissions(&guarded.spool, PermissionsExt::from_mode(bits));
    mode(0o755)?;
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    guarded.pass(&format!("denied, told {told} times"))
}

#[test]
fn a_disk_that_turns_read_only_is_waited_for_and_loses_nothing() -> Result<()> {
    let disk = LoopDisk::new(FileSystem::Ext4, 128)?;
    let archive = Archive::on_s3(Seaweed::shared()?, "read-only");
    let mut guarded = Guarded::<Cluster>::with_spool(archive, &disk.path().join("spool"))?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    disk.break_down()?;
    let told = told(&mut guarded.pitrd, "Read-only file system")?;
    ensure!(told <= 8, "told {told} times:\n{}", guarded.pitrd.log());
    guarded.note()?;
    guarded.pitrd.kill9()?;
    disk.come_back()?;
    // Who wrote last stood in the spool, and may be among what is lost.
    guarded.again_with(|builder| builder.args(["--take-over"]))?;
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    guarded.pass(&format!("read-only, told {told} times"))
}

/// How many files a process may have open, and has.
fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn allow(pid: u32, descriptors: usize) -> Result<()> {
    let mut limit = std::process::Command::new("prlimit");
    limit.args(["--pid", &pid.to_string(), &format!("--nofile={descriptors}:4096")]);
    process::run(limit).map(drop)
}

fn without_descriptors<E: Engine>(prefix: &str) -> Result<()> {
    let archive = Archive::on_s3(Seaweed::shared()?, prefix);
    let mut guarded = Guarded::<E>::start(archive, |builder| builder)?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    let pid = guarded.pitrd.pid()?;
    let most = descriptors(pid)?;
    // Whatever it closes it may open again: half of them are too many already.
    allow(pid, most / 2)?;
    let told = told(&mut guarded.pitrd, "Too many open files").context("nothing was refused")?;
    ensure!(told <= 12, "told {told} times:\n{}", guarded.pitrd.log());
    allow(pid, 4096)?;
    wait::until(&Deadline::seconds(60), "metrics again", || {
        Ok(guarded.pitrd.metrics().is_ok().then_some(()))
    })?;
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    guarded.pass(&format!("{most} descriptors, then half of them, told {told} times"))
}

#[test]
fn a_process_without_descriptors_waits_and_loses_nothing() -> Result<()> {
    without_descriptors::<Cluster>("descriptors")
}

#[test]
fn a_process_without_descriptors_loses_nothing_of_an_oplog() -> Result<()> {
    without_descriptors::<ReplicaSet>("descriptors-oplog")
}
