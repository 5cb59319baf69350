//! Private folders for one test each, removed when the test ends.
//!
//! Each process holds a lock on its own root; the roots of processes that were killed are removed
//! by the next one. `PITR_KEEP=1` keeps everything, to look at after a failure.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;

use crate::user;

const PREFIX: &str = "pitr-test-";
const LOCK: &str = "lock";

#[derive(Debug)]
struct Root {
    path: PathBuf,
    _lock: File,
}

/// A folder that belongs to the user that servers run as, and goes when this value goes.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub fn new(label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root()?.join(format!("{number}-{label}"));
        make(&path)?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder inside, made if absent, owned like this one.
    pub fn sub(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        if !path.is_dir() {
            make(&path)?;
        }
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::env::var_os("PITR_KEEP").is_none() {
            // Nothing to do about a failure here: the next process sweeps.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn make(path: &Path) -> Result<()> {
    std::fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
    user::hand_over(path)
}

/// The temp folder that servers can enter: `TMPDIR` unless it lies under a closed folder.
pub fn temp() -> PathBuf {
    let wanted = std::env::temp_dir();
    match user::server_user() {
        Some(user) if !user.reaches(&wanted) => PathBuf::from("/tmp"),
        _ => wanted,
    }
}

static ROOT: OnceLock<Result<Root, String>> = OnceLock::new();

/// Removes all folders of this process at once: for a program that is about to end. A test process
/// leaves its empty root to the sweep of the next one.
pub fn remove_root() {
    if let Some(Ok(root)) = ROOT.get() {
        // What cannot be removed now is swept later.
        let _ = std::fs::remove_dir_all(&root.path);
    }
}

fn root() -> Result<&'static Path> {
    match ROOT.get_or_init(|| open_root().map_err(|error| format!("{error:#}"))) {
        Ok(root) => Ok(&root.path),
        Err(error) => anyhow::bail!("no folder for the tests: {error}"),
    }
}

fn open_root() -> Result<Root> {
    let temp = temp();
    sweep(&temp);
    root_in(&temp)
}

fn root_in(temp: &Path) -> Result<Root> {
    let folder = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(temp)
        .with_context(|| format!("cannot make a folder in {}", temp.display()))?;
    let lock = locked(folder.path())?;
    let path = folder.keep();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    user::hand_over(&path)?;
    Ok(Root { path, _lock: lock })
}

/// The lock of a root. It gets its name only when it is held: a sweep that found it free would take
/// the folder for a dead process's.
fn locked(root: &Path) -> Result<File> {
    let unnamed = root.join("lock.new");
    let lock = File::create(&unnamed)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    std::fs::hard_link(&unnamed, root.join(LOCK))?;
    std::fs::remove_file(&unnamed)?;
    Ok(lock)
}

/// Removes what killed processes left. A folder without a lock file is being made right now.
fn sweep(temp: &Path) {
    let Ok(entries) = std::fs::read_dir(temp) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = OpenOptions::new().read(true).open(entry.path().join(LOCK)) else {
            continue;
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && std::env::var_os("PITR_KEEP").is_none()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_being_made_is_never_swept_and_one_of_a_dead_process_is() {
        let temp = tempfile::tempdir().expect("a folder");
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Acquire) {
                    sweep(temp.path());
                }
            });
            let roots: Vec<_> = (0..500).map(|_| root_in(temp.path())).collect();
            ended.store(true, Ordering::Release);
            for root in roots {
                let root = root.expect("nobody removes it while it is made");
                assert!(root.path.join(LOCK).is_file());
                let Root { path, _lock } = root;
                drop(_lock);
                sweep(temp.path());
                assert!(!path.exists());
            }
        });
    }
}
