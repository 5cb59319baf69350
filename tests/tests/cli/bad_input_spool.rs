//! Spool folders that cannot be used, and a port that is taken.

use std::net::TcpListener;

use anyhow::{Context, Result, ensure};
use tests::postgres::Cluster;
use tests::programs::{Pitrd, wait_for_status};
use tests::scope;
use tests::scratch::Folder;
use tests::wait::Deadline;

use super::refused::{Attempt, nothing_is_left};

const CONFIG: i32 = 3;
const REFUSED: i32 = 4;

#[test]
fn a_spool_that_cannot_be_written_is_refused() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("spool")?;
    let path = folder.path().join("archive");
    let archive = path.display().to_string();
    let once = |spool: &std::path::Path| Attempt::once(&cluster.replication_url(), &archive, spool);
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder")?;
    let says = ["spool folder", "--spool"];
    once(&file).is_refused("PITRD-C009", CONFIG, &says)?;
    once(&file.join("below")).is_refused("PITRD-C009", CONFIG, &says)?;
    // Nobody can make a folder there, not even root.
    once("/proc/self/spool".as_ref()).is_refused("PITRD-C009", CONFIG, &says)?;
    nothing_is_left(Some(&cluster), &path)
}

/// A file system of a few kilobytes, mounted where only the program sees it.
#[test]
fn a_disk_that_is_full_at_the_start_is_refused() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("full")?;
    let spool = folder.sub("spool")?;
    let path = folder.path().join("archive");
    let script = "mount -t tmpfs -o size=64k tmpfs \"$1\" && shift && exec \"$@\"";
    let mut command = tests::process::command("unshare", None, tests::process::Death::Kill);
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&spool);
    command.arg(tests::programs::program("pitrd")?);
    command.args(["run", "--once", "--source", &cluster.replication_url(), "--archive"]);
    command.arg(&path).arg("--spool").arg(&spool);
    let output = command.output().context("unshare")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(CONFIG), "{}: {said}", output.status);
    ensure!(said.contains("error PITRD-C009: ") && said.contains("No space left"), "{said}");
    ensure!(said.contains("make room"), "{said}");
    nothing_is_left(Some(&cluster), &path)
}

#[test]
fn a_spool_and_a_port_belong_to_one_sidecar() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("taken")?;
    let archive = folder.path().join("archive").display().to_string();
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), &archive)
        .arg("--no-base")
        .arg(format!("--listen=127.0.0.1:{port}"))
        .listens_itself()
        .start()?;
    pitrd.wait_for_log("the address of --listen cannot be used", &Deadline::seconds(60))?;
    // Capture goes on all the same.
    cluster.sql("CREATE TABLE kept (n int)")?;
    let deadline = Deadline::seconds(120);
    wait_for_status(&archive, &[], "log in the archive", &deadline, |status| {
        status["durable"]["position"].is_object()
    })?;
    ensure!(pitrd.is_running() && pitrd.log().contains("WARN"), "{}", pitrd.log());

    let second = folder.path().join("second");
    let second = second.display().to_string();
    let once = Attempt::once(&cluster.replication_url(), &second, &pitrd.spool()?);
    once.is_refused("PITRD-R003", REFUSED, &["another pitrd", "--spool"])?;
    nothing_is_left(None, second.as_ref())?;
    let status = pitrd.sigterm(&Deadline::seconds(60))?;
    ensure!(status.code() == Some(0), "{status}: {}", pitrd.log());
    Ok(())
}
