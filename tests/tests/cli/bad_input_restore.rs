//! Restores that cannot be: refused before anything is written.

use anyhow::{Result, ensure};
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::scope;
use tests::scratch::Folder;
use tests::wait::Deadline;

use super::refused::pitr;

const USAGE: i32 = 2;
const REFUSED: i32 = 4;
const NOT_RESTORABLE: i32 = 10;

#[test]
fn a_restore_that_cannot_be_is_refused_before_anything_is_written() -> Result<()> {
    let major = scope::newest_postgres();
    let cluster = Cluster::start_new(major)?;
    let folder = Folder::new("restores")?;
    let archive = folder.path().join("archive").display().to_string();
    let mut pitrd = Pitrd::builder(&cluster.replication_url(), &archive).start()?;
    pitrd.wait_for_log("base complete", &Deadline::seconds(300))?;
    pitrd.sigterm(&Deadline::seconds(60))?;

    let into = folder.path().join("into");
    let new = into.display().to_string();
    let bin = cluster.bin_dir().display().to_string();
    // On a machine without a user `postgres` that would be what is missing first.
    let user: Vec<&str> =
        tests::user::run_as().into_iter().flat_map(|user| ["--run-as", user]).collect();
    let restore =
        |words: &[&str]| pitr(&[&["restore", "--archive", &archive], &user[..], words].concat());
    let here = |words: &[&str]| restore(&[&["--into", &new, "--pg-bin", &bin], words].concat());
    restore(&["--latest"]).is_refused("PITR-U005", USAGE, &["--into DIR"])?;
    here(&[]).is_refused("PITR-U005", USAGE, &["--latest"])?;
    here(&["--at", "2026-11-20 14:20"]).is_refused("PITR-U004", USAGE, &["zone"])?;
    here(&["--at", "yesterday"]).is_refused("PITR-U004", USAGE, &["yesterday"])?;
    here(&["--at-lsn", "here"]).is_refused("PITR-U004", USAGE, &["here"])?;
    here(&["--at-xid", "many"]).is_refused("PITR-U001", USAGE, &["many", "--at-xid"])?;
    here(&["--latest", "--at-xid", "7"]).is_refused("PITR-U001", USAGE, &["--at-xid"])?;
    here(&["--latest", "--pause", "--start"]).is_refused("PITR-U001", USAGE, &["--pause"])?;
    here(&["--latest", "--tablespace", "x"]).is_refused("PITR-U001", USAGE, &["/old=/new"])?;
    let past = here(&["--at", "2001-01-01T00:00:00Z"]);
    past.is_refused("PITR-N001", NOT_RESTORABLE, &["2001-01-01"])?;
    let unknown = here(&["--at-name", "nowhere"]);
    unknown.is_refused("PITR-N001", NOT_RESTORABLE, &["nowhere"])?;
    let base = here(&["--latest", "--base", "20010101T000000Z"]);
    base.is_refused("PITR-N004", NOT_RESTORABLE, &["20010101T000000Z"])?;
    let lineage = here(&["--latest", "--lineage", "9"]);
    lineage.is_refused("PITR-W001", 6, &["no lineage 9"])?;
    let url = restore(&["--latest", "--into", "mongodb://host/"]);
    url.is_refused("PITR-U001", USAGE, &["a folder"])?;
    let programs = restore(&["--latest", "--into", &new, "--pg-bin", "/no/such"]);
    programs.is_refused("PITR-R001", REFUSED, &["/no/such", "--pg-bin"])?;
    ensure!(!into.exists(), "{new} was made");

    let full = folder.sub("full")?;
    std::fs::write(full.join("mine"), "kept")?;
    let full_name = full.display().to_string();
    let occupied = restore(&["--latest", "--pg-bin", &bin, "--into", &full_name]);
    occupied.is_refused("PITR-R001", REFUSED, &["not empty", &full_name])?;
    let file = full.join("mine").display().to_string();
    let occupied = restore(&["--latest", "--pg-bin", &bin, "--into", &file]);
    occupied.is_refused("PITR-R001", REFUSED, &[&file])?;
    ensure!(std::fs::read_dir(&full)?.count() == 1, "something was written there");
    Ok(())
}
