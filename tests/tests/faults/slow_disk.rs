//! A spool's disk whose fsync takes its time, or tells of lost pages once and then never again.

use anyhow::{Result, ensure};
use tests::archive::Archive;
use tests::loop_disk::{FileSystem, LoopDisk};
use tests::postgres::Cluster;
use tests::process::Signal;
use tests::programs::PitrdBuilder;
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::{self, Deadline};

use super::guarded::{Engine, Guarded};
use super::kills::await_flow;

const DROPPED: &str = "terminating walsender process due to replication timeout";

fn slow_syncs(builder: PitrdBuilder) -> PitrdBuilder {
    let options = ["strace", "-f", "-o", "strace.log", "-e", "trace=fdatasync", "-e"];
    builder.under(options).under_more(["inject=fdatasync:delay_enter=5000000"])
}

/// The task that owns the socket answers while another one waits for the disk.
#[test]
fn an_fsync_that_takes_longer_than_wal_sender_timeout_keeps_the_stream() -> Result<()> {
    // S3: the spool alone is slow.
    let archive = Archive::on_s3(Seaweed::shared()?, "slow-fsync");
    let mut guarded = Guarded::<Cluster>::start(archive, |builder| builder)?;
    guarded.server.sql("ALTER SYSTEM SET wal_sender_timeout = '3s'")?;
    guarded.server.reload()?;
    guarded.again_with(slow_syncs)?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    let trace = guarded.pitrd.folder().join("strace.log");
    let slow =
        || -> Result<usize> { Ok(std::fs::read_to_string(&trace)?.matches("(DELAYED)").count()) };
    let before = slow()?;
    let syncs = scope::scale(2, 20);
    let mut highest: f64 = 0.0;
    wait::until(&Deadline::seconds(300), "slow fsyncs", || {
        ensure!(guarded.pitrd.is_running(), "{}", guarded.pitrd.log());
        highest = highest.max(guarded.pitrd.lag().unwrap_or_default());
        Ok((slow()? >= before + syncs).then_some(()))
    })?;
    // It tells the truth meanwhile: commits wait for the disk.
    ensure!(highest > 2.0, "the lag was never more than {highest} s");
    ensure!(!guarded.server.log().contains(DROPPED), "the server dropped us");
    ensure!(!guarded.pitrd.log().contains("source away"), "{}", guarded.pitrd.log());
    // The control: a sidecar whose every task stands still is dropped by the same server.
    guarded.again_with(|builder| builder)?;
    await_flow(&mut guarded.pitrd)?;
    guarded.pitrd.signal(Signal::STOP)?;
    let log = || guarded.server.log().contains(DROPPED).then_some(());
    let dropped = wait::until(&Deadline::seconds(60), "the server to drop it", || Ok(log()));
    guarded.pitrd.signal(Signal::CONT)?;
    dropped?;
    drop(load);
    guarded.pass(&format!("{syncs} slow fsyncs, lag up to {highest:.1} s"))
}

/// A real one: ext4 on a device that has less room than it says. The first fsync fails, and what was
/// written is gone, whatever the next one says (fsyncgate).
#[test]
fn a_disk_that_loses_pages_and_says_so_once_is_not_believed_the_second_time() -> Result<()> {
    let disk = LoopDisk::over_promised(FileSystem::Ext4, 320, 60)?;
    let spool = disk.path().join("spool");
    let archive = Archive::on_s3(Seaweed::shared()?, "over-promised");
    let mut guarded = Guarded::<Cluster>::with_spool(archive, &spool)?;
    guarded.again_with(|builder| builder.args(["--ack", "spool", "--compression", "none"]))?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    // Takes what room there is below, for good.
    let filler = disk.path().join("filler");
    let noise: Vec<u8> = (0..64_u32 << 18).flat_map(|n| (n ^ 0x5A5A_5A5A).to_le_bytes()).collect();
    std::fs::write(&filler, noise)?;
    let full = std::fs::File::open(&filler)?.sync_all();
    ensure!(full.is_err(), "there was room for everything");
    guarded.server.fill_log(4)?;
    guarded.pitrd.wait_for_log("Input/output error", &Deadline::seconds(120))?;
    ensure!(guarded.pitrd.is_running(), "{}", guarded.pitrd.log());
    guarded.note()?;
    let slot = guarded.server.slot_restart("pitr")?;
    guarded.pitrd.kill9()?;
    disk.make_room(400)?;
    disk.come_back()?;
    // Its name may be among what the disk lost.
    match std::fs::remove_file(&filler) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // Who wrote last stood in the spool, and may be among what is lost.
    guarded.again_with(|builder| builder.args(["--take-over"]))?;
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    guarded.pass(&format!("the slot was at {slot:?} when it came back"))
}
