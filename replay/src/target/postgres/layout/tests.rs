//! Layouts of small bases in a folder, looked at file by file.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::archive::base::{Complete, Tablespace};
use proto::store::Store;
use proto::store::fault::{Fault, FaultStore, Op, Rule};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::Layout;
use crate::fetch::place::Owner;
use crate::fetch::testing::{Archive, noise};
use crate::target::postgres::RestoreError;
use crate::target::postgres::testing::{BASE, complete, put_stream};
use crate::target::progress::Silent;

struct Case {
    scratch: TempDir,
    archive: Archive,
    base: Complete,
}

fn member(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).expect("a short path");
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    tar.append(&header, content).expect("in memory");
}

fn folder(tar: &mut tar::Builder<Vec<u8>>, path: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).expect("a short path");
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o700);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    tar.append(&header, &[][..]).expect("in memory");
}

fn data_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    member(&mut tar, "backup_label", 0o600, b"START WAL LOCATION: 0/1\n");
    member(&mut tar, "tablespace_map", 0o600, b"16400 /old/place\n");
    for path in ["global", "base", "base/1", "pg_wal", "pg_wal/archive_status", "pg_tblspc"] {
        folder(&mut tar, path);
    }
    member(&mut tar, "base/1/1259", 0o600, &noise(1, 200_000));
    member(&mut tar, "base/1/empty", 0o600, b"");
    member(&mut tar, "base/1/odd", 0o600, &noise(2, 777));
    member(&mut tar, "base/1/large", 0o600, &noise(3, 1_234_567));
    member(&mut tar, "global/pg_control", 0o600, &noise(4, 8192));
    tar.into_inner().expect("in memory")
}

async fn case(part: u64) -> Case {
    let scratch = TempDir::new().expect("a folder");
    let archive = Archive::new(&scratch.path().join("archive"), 1 << 20).await;
    let mut space = tar::Builder::new(Vec::new());
    folder(&mut space, "PG_15_202209061");
    member(&mut space, "PG_15_202209061/1/99", 0o600, &noise(9, 50_000));
    let space = space.into_inner().expect("in memory");
    let streams = vec![
        put_stream(&archive, "16400", Some(16400), &space, part, 4096).await,
        put_stream(&archive, "base", None, &data_tar(), part, 10_000).await,
    ];
    let location = scratch.path().join("old").display().to_string();
    let base = complete(streams, vec![Tablespace { oid: 16400, location, bytes: None }]);
    let mut case = Case { scratch, archive, base };
    case.archive.plan.base.id = BASE.to_owned();
    case
}

impl Case {
    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn moved(&self) -> BTreeMap<String, PathBuf> {
        BTreeMap::from([("16400".to_owned(), self.scratch.path().join("new\\place"))])
    }

    fn open(&self) -> Result<Layout, RestoreError> {
        let plan = &self.archive.plan;
        Layout::open(&self.data(), plan, &self.base, &self.moved(), None)
    }

    async fn unpack(&self, store: Arc<dyn Store>) -> Result<Layout, RestoreError> {
        let mut layout = self.open()?;
        let stop = CancellationToken::new();
        layout.unpack(store, &self.base, 3, &Silent, &stop).await?;
        Ok(layout)
    }

    async fn restore(&self) -> Result<(), RestoreError> {
        self.unpack(self.archive.store.clone()).await?.seal(&self.base)
    }

    fn check(&self) {
        let read = |name: &str| std::fs::read(self.data().join(name)).expect(name);
        assert!(read("base/1/1259") == noise(1, 200_000));
        assert_eq!(read("base/1/empty"), b"");
        assert!(read("base/1/odd") == noise(2, 777));
        assert!(read("base/1/large") == noise(3, 1_234_567));
        assert!(read("global/pg_control") == noise(4, 8192));
        assert!(self.data().join("pg_wal/archive_status").is_dir());
        let place = self.scratch.path().join("new\\place");
        let link = std::fs::read_link(self.data().join("pg_tblspc/16400")).expect("a link");
        assert_eq!(link, place);
        let map = String::from_utf8(read("tablespace_map")).expect("text");
        assert_eq!(map, format!("16400 {}\n", place.display().to_string().replace('\\', "\\\\")));
        let moved = std::fs::read(place.join("PG_15_202209061/1/99")).expect("there");
        assert!(moved == noise(9, 50_000));
        let meta = std::fs::metadata(self.data().join("base/1/large")).expect("there");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
        let modified = meta.modified().expect("a time");
        let modified = modified.duration_since(std::time::UNIX_EPOCH).expect("later");
        assert_eq!(modified.as_secs(), 1_700_000_000);
        let mode = std::fs::metadata(self.data()).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        assert!(!self.scratch.path().join("old").exists());
    }
}

#[tokio::test]
async fn parts_that_are_cut_anywhere_give_the_same_files() {
    for part in [20_480, 33_280, 500_000, 1 << 30] {
        let case = case(part).await;
        case.restore().await.expect("laid out");
        case.check();
    }
}

#[tokio::test]
async fn a_folder_that_is_not_empty_is_refused_and_left_alone() {
    let case = case(100_000).await;
    std::fs::create_dir(case.data()).expect("made");
    std::fs::write(case.data().join("mine"), b"x").expect("written");
    let error = case.restore().await.expect_err("refused");
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
    assert_eq!(error.exit(), 4);
    assert_eq!(std::fs::read_dir(case.data()).expect("there").count(), 1);

    std::fs::remove_file(case.data().join("mine")).expect("removed");
    let place = case.scratch.path().join("new\\place");
    std::fs::create_dir(&place).expect("made");
    std::fs::write(place.join("theirs"), b"x").expect("written");
    let error = case.restore().await.expect_err("refused");
    assert!(error.to_string().contains("theirs"), "{error}");
    assert_eq!(error.exit(), 4);
    assert_eq!(std::fs::read_dir(case.data()).expect("there").count(), 0, "nothing was begun");
}

#[tokio::test]
async fn a_restore_that_broke_off_goes_on_and_cannot_be_started_meanwhile() {
    let case = case(60_000).await;
    let (store, faults) = FaultStore::new(case.archive.store.clone(), 1);
    let config = proto::store::Class::Config;
    faults.script(Rule::once(Op::Get, Fault::FailBefore(config)).after(12).times(9999));
    case.unpack(store.clone()).await.expect_err("the store went away");
    assert!(!case.data().join("global/pg_control").exists());
    let before = faults.calls(Op::Get);
    faults.heal();
    let mut layout = case.unpack(store).await.expect("goes on");
    assert!(layout.resumed);
    let parts: usize = case.base.archives.iter().map(|stream| stream.parts.len()).sum();
    let asked_again = faults.calls(Op::Get) - before;
    assert!(asked_again <= parts as u64 - 12, "{asked_again} of {parts} parts were fetched again");
    assert!(!case.data().join("global/pg_control").exists(), "not before it is sealed");
    layout.seal(&case.base).expect("sealed");
    case.check();
    let busy = case.open().expect_err("the first one works here still");
    assert!(matches!(busy, RestoreError::Busy { .. }), "{busy}");
    drop(layout);
    case.open().expect("the same command again").seal(&case.base).expect("nothing to do");
    case.check();
}

#[tokio::test]
async fn another_restore_does_not_go_on_in_the_folder_of_a_finished_one() {
    let mut case = case(200_000).await;
    case.restore().await.expect("laid out");
    case.archive.plan.target.asked = "--at-lsn 0/5".to_owned();
    let error = case.open().expect_err("another target");
    assert!(matches!(error, RestoreError::OtherRestore { .. }), "{error}");
    case.archive.plan.target.asked = "--latest".to_owned();
    case.archive.plan.base.id = "another".to_owned();
    assert!(case.open().is_err(), "another base");
}

fn part_path(case: &Case, object: &str) -> PathBuf {
    case.scratch.path().join("archive/lineage/1/base").join(BASE).join(object)
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("readable");
    let at = bytes.len() / 3;
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn a_damaged_part_fails_closed() {
    for damage in ["flip", "swap", "short", "lost"] {
        let case = case(60_000).await;
        let path = part_path(&case, "base.tar.zst.000004");
        match damage {
            "flip" => flip(&path),
            "swap" => {
                std::fs::copy(part_path(&case, "base.tar.zst.000005"), &path).expect("copied");
            }
            "short" => {
                let bytes = std::fs::read(&path).expect("readable");
                std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
            }
            _ => std::fs::remove_file(&path).expect("removed"),
        }
        let error = case.restore().await.expect_err(damage);
        assert_eq!(error.exit(), 1, "{damage}: {error}");
        assert!(!case.data().join("global/pg_control").exists(), "{damage}");
    }
}

#[tokio::test]
async fn a_list_of_parts_with_a_hole_is_refused_before_anything_is_fetched() {
    let mut case = case(60_000).await;
    case.base.archives[1].parts.remove(3);
    let error = case.restore().await.expect_err("a hole");
    assert!(matches!(error, RestoreError::Base { .. }), "{error}");
}

#[tokio::test]
async fn members_that_leave_the_folder_are_refused() {
    for path in ["../escape", "base/../../escape", "/tmp/escape"] {
        let scratch = TempDir::new().expect("a folder");
        let archive = Archive::new(&scratch.path().join("archive"), 1 << 20).await;
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(1);
        header.set_mode(0o600);
        header.set_mtime(0);
        header.set_cksum();
        tar.append(&header, &b"x"[..]).expect("in memory");
        let tar = tar.into_inner().expect("in memory");
        let stream = put_stream(&archive, "base", None, &tar, 1 << 20, 1 << 20).await;
        let mut case = Case { scratch, archive, base: complete(vec![stream], Vec::new()) };
        case.archive.plan.base.id = BASE.to_owned();
        let layout =
            Layout::open(&case.data(), &case.archive.plan, &case.base, &BTreeMap::new(), None);
        let mut layout = layout.expect("claimed");
        let stop = CancellationToken::new();
        let store = case.archive.store.clone();
        let error = layout.unpack(store, &case.base, 1, &Silent, &stop).await;
        assert!(matches!(error, Err(RestoreError::Part { .. })), "{path}: {error:?}");
        assert!(!case.scratch.path().join("escape").exists());
    }
}

/// Another user where we may give files away, else ourselves.
fn owner() -> Owner {
    const NOBODY: u32 = 65_534;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 { Owner { uid: NOBODY, gid: NOBODY } } else { Owner { uid, gid } }
}

fn assert_owned(path: &Path, owner: Owner) {
    let meta = std::fs::symlink_metadata(path).expect("there");
    assert_eq!(meta.uid(), owner.uid, "{}", path.display());
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder") {
            assert_owned(&entry.expect("an entry").path(), owner);
        }
    }
}

#[tokio::test]
async fn a_folder_that_a_killed_run_made_and_had_not_given_away_belongs_to_the_server_s_user() {
    let (case, owner) = (case(100_000).await, owner());
    drop(case.open().expect("begun"));
    std::fs::create_dir_all(case.data().join("base/1")).expect("made, and killed");
    let plan = &case.archive.plan;
    let mut layout =
        Layout::open(&case.data(), plan, &case.base, &case.moved(), Some(owner)).expect("resumed");
    let stop = CancellationToken::new();
    let store = case.archive.store.clone();
    layout.unpack(store, &case.base, 3, &Silent, &stop).await.expect("unpacked");
    layout.seal(&case.base).expect("sealed");
    for path in ["base", "global", "pg_wal", "pg_tblspc"] {
        assert_owned(&case.data().join(path), owner);
    }
}
