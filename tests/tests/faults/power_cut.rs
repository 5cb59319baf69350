//! The power is cut: a disk keeps what was synced, and forgets the rest, names included.
//!
//! Spool and archive lie on a file system of their own that is shut down without a flush of its log
//! (see `tests::loop_disk`), at random moments under load.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rustix::process::Signal;
use tests::archive::Archive;
use tests::loop_disk::{FileSystem, LoopDisk};
use tests::mongod::ReplicaSet;
use tests::postgres::Cluster;
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::Deadline;

use super::guarded::{Engine, Guarded};
use super::kills::await_flow;

const MEBIBYTES: u64 = 320;

/// Cuts the power at a random moment, and shows that something was forgotten.
fn cut<E: Engine>(guarded: &mut Guarded<E>, disk: &LoopDisk) -> Result<()> {
    await_flow(&mut guarded.pitrd)?;
    let wait = |most: u64| Duration::from_millis(rand::rng().random_range(0..most));
    std::thread::sleep(wait(400));
    let forgotten = disk.path().join("never-synced");
    std::fs::write(&forgotten, "written, and not synced")?;
    // The machine goes with its disk. An ext4 that is shut down may still confirm an fdatasync that was
    // under way and of which it keeps nothing: about one in a hundred, seen with a program of ten lines.
    guarded.pitrd.signal(Signal::STOP)?;
    disk.cut_power()?;
    guarded.pitrd.kill9()?;
    disk.come_back()?;
    let lost = std::fs::read(&forgotten).map_or(true, |bytes| bytes.is_empty());
    ensure!(lost, "the disk kept what was not synced: this was no power cut");
    Ok(())
}

/// Fails if anything that the database was told to forget is not there any more.
type Keeps<E> = fn(&Guarded<E>, &Path) -> Result<()>;

fn through_power_cuts<E: Engine>(system: FileSystem, keeps: Keeps<E>) -> Result<()> {
    let disk = LoopDisk::new(system, MEBIBYTES)?;
    let archive = Archive::at(&disk.path().join("archive"));
    let mut guarded = Guarded::<E>::with_spool(archive, &disk.path().join("spool"))?;
    let load = guarded.server.load()?;
    let cuts = scope::scale(3, 40);
    for _ in 0..cuts {
        guarded.note()?;
        cut(&mut guarded, &disk)?;
        keeps(&guarded, disk.path())?;
        guarded.pitrd.start()?;
    }
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    guarded.pass(&format!("{cuts} power cuts, {system:?}"))
}

/// The slot was told nothing that the archive does not hold.
fn archive_keeps(guarded: &Guarded<Cluster>, _disk: &Path) -> Result<()> {
    let slot = guarded.server.slot_restart("pitr")?.context("a slot that holds something")?;
    let (_, end) = guarded.archive.end()?;
    println!("power cut: the slot is at {slot}, the archive ends at {end}");
    ensure!(slot <= end, "the slot is at {slot}, and the archive ends at {end}");
    Ok(())
}

#[test]
fn a_power_cut_takes_nothing_acknowledged_from_an_archive_on_ext4() -> Result<()> {
    through_power_cuts::<Cluster>(FileSystem::Ext4, archive_keeps)
}

#[test]
fn a_power_cut_takes_nothing_acknowledged_from_an_archive_on_xfs() -> Result<()> {
    through_power_cuts::<Cluster>(FileSystem::Xfs, archive_keeps)
}

#[test]
fn a_power_cut_leaves_no_hole_in_an_archived_oplog() -> Result<()> {
    through_power_cuts::<ReplicaSet>(FileSystem::Ext4, |_, _| Ok(()))
}

/// Acknowledged from the spool while the store is away: the spool is the only copy there is.
#[test]
fn a_power_cut_takes_nothing_acknowledged_from_a_spool() -> Result<()> {
    for system in scope::scale(&[FileSystem::Ext4][..], &[FileSystem::Ext4, FileSystem::Xfs]) {
        let disk = LoopDisk::new(*system, MEBIBYTES)?;
        let seaweed = Seaweed::start_new()?;
        let archive = Archive::on_s3(&seaweed, "power");
        let spool = disk.path().join("spool");
        let mut guarded = Guarded::<Cluster>::with_spool(archive, &spool)?;
        guarded.again_with(|builder| builder.args(["--ack", "spool"]))?;
        let load = guarded.server.load()?;
        for _ in 0..scope::scale(2, 20) {
            guarded.note()?;
            await_flow(&mut guarded.pitrd)?;
            let before = guarded.server.slot_restart("pitr")?;
            seaweed.kill9()?;
            tests::wait::until(&Deadline::seconds(60), "the spool to be acknowledged", || {
                Ok((guarded.server.slot_restart("pitr")? > before).then_some(()))
            })?;
            cut(&mut guarded, &disk)?;
            let slot = guarded.server.slot_restart("pitr")?.context("a slot")?;
            let spooled = super::spooled_in(&spool, 1)?;
            println!("power cut: the slot is at {slot}, the spool ends at {spooled}");
            ensure!(slot <= spooled, "the slot is at {slot}, and the spool ends at {spooled}");
            seaweed.start()?;
            guarded.pitrd.start()?;
            await_flow(&mut guarded.pitrd)?;
        }
        drop(load);
        guarded.pass(&format!("power cuts of a spool, {system:?}"))?;
    }
    Ok(())
}

/// The control: where fsync does nothing, the same cuts take what was acknowledged.
#[test]
fn without_fsync_a_power_cut_takes_what_was_acknowledged() -> Result<()> {
    let disk = LoopDisk::new(FileSystem::Ext4, MEBIBYTES)?;
    let archive = Archive::at(&disk.path().join("archive"));
    let mut guarded = Guarded::<Cluster>::with_spool(archive, &disk.path().join("spool"))?;
    let calls = "fdatasync,fsync";
    let options = ["strace", "-f", "-o", "strace.log", "-e"];
    guarded.again_with(|builder| {
        let inject = [format!("trace={calls}"), "-e".into(), format!("inject={calls}:retval=0")];
        builder.under(options).under_more(inject)
    })?;
    let load = guarded.server.load()?;
    for _ in 0..10 {
        cut(&mut guarded, &disk)?;
        if archive_keeps(&guarded, disk.path()).is_err() {
            drop(load);
            return Ok(());
        }
        guarded.pitrd.start()?;
    }
    anyhow::bail!("nothing acknowledged was lost: these cuts prove nothing")
}
