//! `wal-fetch` from the outside: an archive in a folder, a work folder, exit codes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::store::fault::{Fault, FaultStore, Kind, Op, Rule};
use proto::store::{Class, Store};
use tempfile::TempDir;

use super::command::{DOUBT, run};
use super::prefetch::Prefetcher;
use super::testing::{Archive, noise};
use super::{PLAN_FILE, assemble};
use crate::catalog::PatientStore;

const SIZE: usize = 1 << 20;

struct Case {
    _scratch: TempDir,
    archive: Archive,
    root: PathBuf,
    work: PathBuf,
    /// Raw bytes of the segments 3, 4 and the open 5.
    raw: Vec<Vec<u8>>,
}

async fn case() -> Case {
    let scratch = TempDir::new().expect("a folder");
    let root = scratch.path().join("archive");
    let work = scratch.path().join("data/.pitr");
    std::fs::create_dir_all(&work).expect("a folder");
    let mut archive = Archive::new(&root, SIZE as u64).await;
    let raw = vec![noise(3, SIZE), noise(4, SIZE), noise(5, 300_000)];
    archive.seal(3, &raw[0]).await;
    archive.seal(4, &raw[1]).await;
    archive.tails(5, &raw[2], 70_000).await;
    let case = Case { _scratch: scratch, archive, root, work, raw };
    case.save();
    case
}

impl Case {
    fn save(&self) {
        std::fs::write(self.work.join(PLAN_FILE), self.archive.plan.encode()).expect("written");
    }

    fn path(&self) -> PathBuf {
        self.work.join("../RECOVERYXLOG")
    }

    /// The exit code; the file is there exactly when it is 0.
    async fn fetch(&self, name: &str) -> u8 {
        let (work, path) = (self.work.clone(), self.path());
        let arguments = vec![OsString::from(name), path.clone().into()];
        let code = tokio::task::spawn_blocking(move || run(arguments, &work)).await.expect("code");
        assert_eq!(path.exists(), code == 0, "{name}: {code}");
        let around = std::fs::read_dir(path.parent().expect("a folder")).expect("readable");
        let left = around.filter_map(Result::ok).filter(|entry| entry.path() != path);
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left, [".pitr"], "nothing half written is left");
        code
    }

    fn taken(&self) -> Vec<u8> {
        let bytes = std::fs::read(self.path()).expect("fetched");
        std::fs::remove_file(self.path()).expect("removable");
        bytes
    }

    fn padded(&self, at: usize) -> Vec<u8> {
        let mut raw = self.raw[at].clone();
        raw.resize(SIZE, 0);
        raw
    }
}

#[tokio::test]
async fn sealed_segments_and_tails_become_whole_files() {
    let case = case().await;
    for (at, number) in [3, 4, 5].into_iter().enumerate() {
        assert_eq!(case.fetch(&case.archive.name(number)).await, 0);
        assert!(case.taken() == case.padded(at), "segment {number}");
    }
}

#[tokio::test]
async fn one_is_returned_only_for_what_the_plan_proves_absent() {
    let case = case().await;
    for name in [case.archive.name(6), "00000002.history".to_owned(), case.archive.name(900)] {
        assert_eq!(case.fetch(&name).await, 1, "{name}");
    }
    let before = case.archive.name(2);
    for name in ["", "x", "../../etc/passwd", "00000002.histor", before.as_str()] {
        assert_eq!(case.fetch(name).await, DOUBT, "{name}");
    }
    let run = |words: &[&str]| run(words.iter().map(OsString::from).collect(), &case.work);
    assert_eq!(run(&[]), DOUBT);
    assert_eq!(run(&["000000010000000000000003"]), DOUBT);
    assert_eq!(run(&["000000010000000000000003", "a", "b"]), DOUBT);
    assert_eq!(run(&["000000010000000000000003", ""]), DOUBT);
    assert_eq!(run(&["000000010000000000000003", "no/such/folder/file"]), DOUBT);
}

#[tokio::test]
async fn nothing_that_grew_since_the_plan_is_served() {
    let mut case = case().await;
    case.archive.plan.end.lsn = proto::postgres::lsn::Lsn(5 * SIZE as u64 + 1000);
    case.save();
    assert_eq!(case.fetch(&case.archive.name(5)).await, 0);
    let taken = case.taken();
    assert!(taken[..1000] == case.raw[2][..1000] && taken[1000..].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn an_existing_file_is_never_written_over() {
    let case = case().await;
    std::fs::write(case.path(), b"mine").expect("written");
    let arguments = vec![case.archive.name(3).into(), case.path().into()];
    assert_eq!(run(arguments, &case.work), DOUBT);
    assert_eq!(std::fs::read(case.path()).expect("there"), b"mine");
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("readable");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn a_damaged_or_missing_object_is_doubt_and_never_the_end() {
    let case = case().await;
    let folder = case.root.join("lineage/1/log/00000001/00000000");
    let name = case.archive.name(3);
    flip(&folder.join(format!("{name}.zst")));
    assert_eq!(case.fetch(&name).await, DOUBT);
    std::fs::remove_file(folder.join(format!("{name}.zst"))).expect("removable");
    assert_eq!(case.fetch(&name).await, DOUBT);
    // Another segment's object under this one's name.
    let other = folder.join(format!("{}.zst", case.archive.name(4)));
    std::fs::copy(&other, folder.join(format!("{name}.zst"))).expect("copied");
    assert_eq!(case.fetch(&name).await, DOUBT);

    let tails = case.root.join(format!("lineage/1/tail/{}", case.archive.name(5)));
    flip(&tails.join("00000002.zst"));
    assert_eq!(case.fetch(&case.archive.name(5)).await, DOUBT);
    std::fs::remove_file(tails.join("00000002.zst")).expect("removable");
    assert_eq!(case.fetch(&case.archive.name(5)).await, DOUBT, "a hole in the chain");
    std::fs::remove_dir_all(&tails).expect("removable");
    assert_eq!(case.fetch(&case.archive.name(5)).await, DOUBT, "no tails at all");
}

#[tokio::test]
async fn an_unreadable_plan_or_archive_is_doubt() {
    let case = case().await;
    let name = case.archive.name(3);
    std::fs::remove_dir_all(&case.root).expect("removable");
    assert_eq!(case.fetch(&name).await, DOUBT, "no archive");
    assert_eq!(case.fetch(&case.archive.name(6)).await, 1, "the plan alone proves this");
    let plan = case.work.join(PLAN_FILE);
    let mut newer = case.archive.plan.clone();
    newer.head.format += 1;
    let mut empty = case.archive.plan.clone();
    empty.segments.clear();
    for bytes in [newer.encode(), empty.encode(), b"{}".to_vec(), Vec::new()] {
        std::fs::write(&plan, bytes).expect("written");
        assert_eq!(case.fetch(&case.archive.name(6)).await, DOUBT);
    }
    std::fs::remove_file(&plan).expect("removable");
    assert_eq!(case.fetch(&case.archive.name(6)).await, DOUBT, "no plan");
}

#[tokio::test]
async fn a_store_that_fails_lies_or_damages_never_gives_a_wrong_file() {
    let case = case().await;
    let faults = [
        (Fault::FailBefore(Class::Config), Kind::FailBefore),
        (Fault::Short, Kind::Short),
        (Fault::Flip, Kind::Flip),
        (Fault::Omit, Kind::Omit),
    ];
    for (fault, kind) in faults {
        for number in [3, 5] {
            let (store, handle) = FaultStore::new(case.archive.store.clone(), 1);
            handle.script(Rule::once(Op::Get, fault).times(1000));
            let store = PatientStore::new(store, 2);
            let file = assemble::file(&store, &case.archive.plan, &case.archive.name(number)).await;
            assert!(file.is_err(), "{fault:?} on {number}");
            assert!(handle.fired(kind) > 0, "{fault:?}");
        }
    }
}

async fn ahead(case: &Case, store: Arc<dyn Store>) -> Prefetcher {
    let plan = Arc::new(case.archive.plan.clone());
    Prefetcher::start(store, plan, &case.work, None, 2).expect("started")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_prefetcher_serves_in_any_order_without_the_archive_being_readable() {
    let case = case().await;
    let prefetcher = ahead(&case, case.archive.store.clone()).await;
    // The server's user may not be able to read plan or archive: the prefetcher can.
    std::fs::remove_file(case.work.join(PLAN_FILE)).expect("removable");
    // Recovery reads the checkpoint's segment first, then goes back to the redo position's.
    for (at, number) in [(1, 4), (0, 3), (1, 4), (2, 5), (2, 5)] {
        assert_eq!(case.fetch(&case.archive.name(number)).await, 0, "{number}");
        assert!(case.taken() == case.padded(at), "segment {number}");
    }
    assert_eq!(case.fetch(&case.archive.name(6)).await, 1);
    assert_eq!(case.fetch("00000002.history").await, 1);
    assert_eq!(case.fetch("rubbish").await, DOUBT);
    prefetcher.stop().await;
    assert_eq!(case.fetch(&case.archive.name(3)).await, DOUBT, "nobody left who has a plan");
    case.save();
    assert_eq!(case.fetch(&case.archive.name(3)).await, 0, "it fetches by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetcher_whose_store_fails_answers_with_doubt_and_recovers() {
    let case = case().await;
    let (store, handle) = FaultStore::new(case.archive.store.clone(), 1);
    handle.script(Rule::once(Op::Get, Fault::FailBefore(Class::Config)).times(1000));
    let prefetcher = ahead(&case, store).await;
    assert_eq!(case.fetch(&case.archive.name(3)).await, DOUBT);
    assert!(prefetcher.trouble().is_some());
    handle.heal();
    assert_eq!(case.fetch(&case.archive.name(3)).await, 0, "asked again, it is fetched again");
    prefetcher.stop().await;
}
