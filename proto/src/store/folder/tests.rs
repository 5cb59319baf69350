use super::super::{Class, conformance, list_all};
use super::write::COPY_BYTES;
use super::*;
use crate::disk::{DirEntry, DiskFile};
use crate::timestamp::Timestamp;

fn key(text: &str) -> Key {
    Key::new(text)
}

async fn at(root: &Path) -> FolderStore {
    FolderStore::open(root, Access::ReadWrite).await.unwrap()
}

#[tokio::test]
async fn a_folder_does_what_every_store_must() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(at(&dir.path().join("new/archive")).await);
    conformance::all(&store, dir.path()).await;
    assert_eq!(std::fs::read_dir(dir.path().join("new/archive/.tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_on_the_same_file_system_is_linked() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment");
    std::fs::write(&path, b"sealed").unwrap();
    let store = at(&dir.path().join("archive")).await;
    store.put(&key("log/1"), &Body::File { path: path.clone(), len: 6 }).await.unwrap();
    let object = std::fs::metadata(dir.path().join("archive/log/1")).unwrap();
    assert_eq!(object.ino(), std::fs::metadata(&path).unwrap().ino());
}

#[tokio::test]
async fn a_file_of_another_file_system_is_copied() {
    let Ok(shm) = tempfile::tempdir_in("/dev/shm") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = shm.path().join("segment");
    let bytes = conformance::noise(3 * COPY_BYTES + 5, 1);
    std::fs::write(&path, &bytes).unwrap();
    let store = at(dir.path()).await;
    let body = Body::File { path, len: bytes.len() as u64 };
    assert_eq!(store.put(&key("a"), &body).await.unwrap(), Put::Created);
    assert!(store.get(&key("a"), Range::All).await.unwrap() == bytes);
}

#[tokio::test]
async fn opening_for_reading_changes_nothing_and_refuses_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("archive");
    let missing = FolderStore::open(&root, Access::ReadOnly).await.unwrap_err();
    assert_eq!(missing.class(), Class::Config);
    at(&root).await.put(&key("a/b"), &Body::Bytes("x".into())).await.unwrap();
    std::fs::write(root.join(".tmp/0000000000000001-0-left"), b"half").unwrap();

    let store = FolderStore::open(&root, Access::ReadOnly).await.unwrap();
    assert_eq!(store.get(&key("a/b"), Range::All).await.unwrap(), "x");
    assert_eq!(list_all(&store, "").await.unwrap().len(), 1);
    assert!(store.get(&key("a"), Range::All).await.unwrap_err().is_absent());
    let refused = store.put(&key("c"), &Body::Bytes("x".into())).await.unwrap_err();
    assert_eq!(refused.class(), Class::Config);
    assert_eq!(store.delete(&key("a/b")).await.unwrap_err().class(), Class::Config);
    assert!(root.join(".tmp/0000000000000001-0-left").exists());
}

#[tokio::test]
async fn leftovers_of_a_crash_are_hidden_and_old_ones_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let temp = dir.path().join(".tmp");
    std::fs::create_dir(&temp).unwrap();
    let young = format!("{:016x}-0-young", SystemClock::new().wall().0);
    for name in ["0000000000000001-0-old", &young, "stranger"] {
        std::fs::write(temp.join(name), b"half").unwrap();
    }
    let store = at(dir.path()).await;
    assert_eq!(list_all(&store, "").await.unwrap(), []);
    assert_eq!(list_all(&store, ".tmp/").await.unwrap(), []);
    assert_eq!(store.folders("").await.unwrap(), Vec::<String>::new());
    let mut left: Vec<_> = SystemDisk.list(&temp).unwrap();
    left.retain(|e| e.name != "stranger");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].name, young);
    let refused = store.put(&key(".tmp/x"), &Body::Bytes("x".into())).await.unwrap_err();
    assert_eq!(refused.class(), Class::Config);
}

#[tokio::test]
async fn a_folder_of_nothing_but_folders_is_not_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = at(dir.path()).await;
    store.put(&key("a/b/c"), &Body::Bytes("x".into())).await.unwrap();
    store.put(&key("d/e"), &Body::Bytes("x".into())).await.unwrap();
    store.delete(&key("a/b/c")).await.unwrap();
    assert_eq!(store.folders("").await.unwrap(), ["d"]);
}

#[tokio::test]
async fn a_folder_that_somebody_removed_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = at(dir.path()).await;
    store.put(&key("keep"), &Body::Bytes("x".into())).await.unwrap();
    store.put(&key("a/b/1"), &Body::Bytes("x".into())).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("a")).unwrap();
    let error = store.put(&key("a/b/2"), &Body::Bytes("x".into())).await.unwrap_err();
    assert_eq!(error.class(), Class::Retry);
    let put = store.put(&key("a/b/2"), &Body::Bytes("x".into())).await.unwrap();
    assert_eq!(put, Put::Created);
}

#[tokio::test]
async fn a_root_that_vanishes_is_not_an_archive_that_ends() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mounted");
    let store = at(&root).await;
    store.put(&key("a"), &Body::Bytes("x".into())).await.unwrap();
    SystemDisk.rename_exclusive(&root, &dir.path().join("elsewhere")).unwrap();
    std::fs::create_dir(&root).unwrap();
    for class in [
        store.get(&key("a"), Range::All).await.unwrap_err().class(),
        store.head(&key("b")).await.unwrap_err().class(),
        store.list("", None).await.unwrap_err().class(),
        store.folders("").await.unwrap_err().class(),
    ] {
        assert_eq!(class, Class::Retry);
    }
}

/// The real disk with an order of business: which fsync fails, and what was asked for.
#[derive(Debug, Default)]
struct Told {
    fail_sync: AtomicBool,
    fail_sync_dir: AtomicBool,
    asked: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct ToldDisk(Arc<Told>);

#[derive(Debug)]
struct ToldFile(Box<dyn DiskFile>, Arc<Told>);

impl DiskFile for ToldFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.1.asked.lock().unwrap().push("sync".to_owned());
        if self.1.fail_sync.swap(false, Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.0.sync()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }
}

impl Disk for ToldDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(ToldFile(SystemDisk.create_new(path)?, self.0.clone())))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        SystemDisk.append(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        SystemDisk.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        SystemDisk.read_at(path, offset, len)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        SystemDisk.len(path)
    }

    fn rename_exclusive(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.asked.lock().unwrap().push("rename".to_owned());
        SystemDisk.rename_exclusive(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        SystemDisk.create_dirs(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        self.0.asked.lock().unwrap().push(format!("sync {name}/"));
        if self.0.fail_sync_dir.swap(false, Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        SystemDisk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.asked.lock().unwrap().push(format!("list {}", path.display()));
        SystemDisk.list(path)
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        SystemDisk.free(path)
    }
}

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn wall(&self) -> Timestamp {
        Timestamp(1_000_000_000_000)
    }

    fn monotonic(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

async fn told(root: &Path) -> (FolderStore, Arc<Told>) {
    let told = Arc::<Told>::default();
    let disk = Arc::new(ToldDisk(told.clone()));
    let store = FolderStore::open_on(root, Access::ReadWrite, disk, Arc::new(Noon)).await.unwrap();
    (store, told)
}

fn asked(told: &Told) -> Vec<String> {
    std::mem::take(&mut *told.asked.lock().unwrap())
}

#[tokio::test]
async fn a_file_is_fsynced_before_it_is_named_and_its_folder_after() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("archive");
    let (store, told) = told(&root).await;
    store.put(&key("a/b/1"), &Body::Bytes("x".into())).await.unwrap();
    let first = asked(&told);
    assert!(first.contains(&"sync a/".to_owned()) && first.contains(&"sync archive/".to_owned()));
    assert_eq!(first[first.len() - 3..], ["sync", "rename", "sync b/"]);
    store.put(&key("a/b/2"), &Body::Bytes("x".into())).await.unwrap();
    assert_eq!(asked(&told), ["sync", "rename", "sync b/"]);
    // Taken: perhaps by a writer that died before its fsync of the folder.
    assert_eq!(store.put(&key("a/b/2"), &Body::Bytes("x".into())).await.unwrap(), Put::Exists);
    assert_eq!(asked(&told), ["sync b/"]);
}

#[tokio::test]
async fn after_a_failed_fsync_the_file_is_abandoned_and_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, told) = told(dir.path()).await;
    told.fail_sync.store(true, Ordering::Relaxed);
    let error = store.put(&key("a"), &Body::Bytes("x".into())).await.unwrap_err();
    assert_eq!(error.class(), Class::Retry);
    let tried = asked(&told);
    assert_eq!(tried.iter().filter(|call| *call == "sync").count(), 1);
    assert!(!tried.contains(&"rename".to_owned()));
    assert_eq!(store.head(&key("a")).await.unwrap(), None);
    assert_eq!(std::fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
    assert_eq!(store.put(&key("a"), &Body::Bytes("x".into())).await.unwrap(), Put::Created);
}

#[tokio::test]
async fn an_object_whose_folder_was_not_fsynced_is_not_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (store, told) = told(dir.path()).await;
    store.put(&key("a/1"), &Body::Bytes("x".into())).await.unwrap();
    told.fail_sync_dir.store(true, Ordering::Relaxed);
    let error = store.put(&key("a/2"), &Body::Bytes("x".into())).await.unwrap_err();
    assert_eq!(error.class(), Class::Retry);
    asked(&told);
    assert_eq!(store.put(&key("a/2"), &Body::Bytes("x".into())).await.unwrap(), Put::Exists);
    assert_eq!(asked(&told), ["sync a/"]);
}

#[tokio::test]
async fn a_listing_reads_no_folder_that_cannot_hold_what_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (store, told) = told(dir.path()).await;
    for name in ["log/1/a/1", "log/1/b/1", "log/1/c/1", "log/2/a/1", "tail/1/1"] {
        store.put(&key(name), &Body::Bytes("x".into())).await.unwrap();
    }
    asked(&told);
    let lists = |of: Vec<String>| -> Vec<String> {
        let root = format!("list {}/", dir.path().display());
        of.iter().map(|call| call.strip_prefix(&root).unwrap().to_owned()).collect()
    };
    store.list("log/1/", Some("log/1/b/1")).await.unwrap();
    assert_eq!(lists(asked(&told)), ["log/1", "log/1/b", "log/1/c"]);
    store.list("log/1/b", None).await.unwrap();
    assert_eq!(lists(asked(&told)), ["log/1", "log/1/b"]);
    store.list("log/", Some("log/1~")).await.unwrap();
    assert_eq!(lists(asked(&told)), ["log", "log/2", "log/2/a"]);
}

#[tokio::test]
async fn a_folder_without_permission_is_a_matter_of_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let store = at(dir.path()).await;
    for (errno, class) in [
        (libc::EACCES, Class::Config),
        (libc::EROFS, Class::Config),
        (libc::ENOSPC, Class::Retry),
        (libc::EDQUOT, Class::Retry),
        (libc::EIO, Class::Retry),
    ] {
        let error = store.inner.failed("put", "a", io::Error::from_raw_os_error(errno));
        assert_eq!(error.class(), class, "{error}");
    }
}
