//! A disk that keeps only what was fsynced, and perhaps a part of the rest.
//!
//! What a crash leaves is the worst that POSIX allows: a name that its folder's fsync did not cover
//! may be gone or not, bytes behind the last fsync may be there, missing, zeros or rubbish. After a
//! failed fsync the lost pages count as clean (Rebello et al., ATC'20): a second one succeeds and
//! keeps nothing of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use proto::disk::{DirEntry, Disk, DiskFile};
use rand::Rng;
use rand::rngs::StdRng;

use super::fate::{Fate, Step};

type Id = u64;

#[derive(Debug, Default)]
struct Inode {
    /// What is read.
    now: Vec<u8>,
    /// What a crash leaves for certain.
    durable: Vec<u8>,
    /// The kernel takes everything before this for written.
    clean: usize,
}

#[derive(Debug, Clone)]
enum Change {
    Add(PathBuf, Id),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Debug, Default)]
struct State {
    inodes: BTreeMap<Id, Inode>,
    next: Id,
    names: BTreeMap<PathBuf, Id>,
    durable_names: BTreeMap<PathBuf, Id>,
    /// By folder: what its fsync has not covered, in order.
    changes: BTreeMap<PathBuf, Vec<Change>>,
    folders: BTreeSet<PathBuf>,
    capacity: u64,
    failing_syncs: u32,
    failed_syncs: u64,
    full_writes: u64,
}

/// Survives its machine; shared by handles.
#[derive(Debug, Clone, Default)]
pub(super) struct SimDisk {
    state: Arc<Mutex<State>>,
    /// Of the machine that this handle is of.
    fate: Option<Arc<Fate>>,
}

fn apply(names: &mut BTreeMap<PathBuf, Id>, change: Change) {
    match change {
        Change::Add(path, id) => {
            names.insert(path, id);
        }
        Change::Remove(path) => {
            names.remove(&path);
        }
        Change::Rename(from, to) => {
            if let Some(id) = names.remove(&from) {
                names.insert(to, id);
            }
        }
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

impl State {
    fn used(&self) -> u64 {
        let named: BTreeSet<Id> = self.names.values().copied().collect();
        named.iter().map(|id| self.inodes[id].now.len() as u64).sum()
    }

    fn change(&mut self, change: Change) {
        let (Change::Add(path, _) | Change::Remove(path) | Change::Rename(path, _)) = &change;
        let folder = folder_of(path);
        apply(&mut self.names, change.clone());
        self.changes.entry(folder).or_default().push(change);
    }

    fn id(&self, path: &Path) -> io::Result<Id> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// A machine with this fate takes the disk over: its handle.
    pub(super) fn boot(&self, fate: Arc<Fate>, capacity: u64) -> Self {
        let mut state = self.state();
        state.capacity = capacity;
        state.failing_syncs = 0;
        Self { state: self.state.clone(), fate: Some(fate) }
    }

    pub(super) fn set_capacity(&self, capacity: u64) {
        self.state().capacity = capacity;
    }

    pub(super) fn fail_syncs(&self, count: u32) {
        self.state().failing_syncs = count;
    }

    /// How many fsyncs failed, and how many writes found no room.
    pub(super) fn faults(&self) -> (u64, u64) {
        let state = self.state();
        (state.failed_syncs, state.full_writes)
    }

    /// The machine died: what was not fsynced is left to chance.
    pub(super) fn crash(&self, rng: &mut StdRng) {
        let mut guard = self.state();
        let state = &mut *guard;
        for (_, changes) in std::mem::take(&mut state.changes) {
            let kept = rng.random_range(0..=changes.len());
            for change in changes.into_iter().take(kept) {
                apply(&mut state.durable_names, change);
            }
        }
        state.names = state.durable_names.clone();
        let named: BTreeSet<Id> = state.names.values().copied().collect();
        state.inodes.retain(|id, _| named.contains(id));
        for inode in state.inodes.values_mut() {
            let mut left = std::mem::take(&mut inode.durable);
            if inode.now.len() > left.len() {
                let kept = rng.random_range(left.len()..=inode.now.len());
                match rng.random_range(0..4) {
                    0 => {}
                    1 => left = inode.now[..kept].to_vec(),
                    2 => left.resize(kept, 0),
                    _ => {
                        let from = left.len();
                        left = inode.now[..kept].to_vec();
                        if kept > from {
                            left[rng.random_range(from..kept)] ^= 1 << rng.random_range(0..8);
                        }
                    }
                }
            }
            inode.clean = left.len();
            inode.durable.clone_from(&left);
            inode.now = left;
        }
    }

    /// One bit of one file is not what was written to it. `false`: nothing is there.
    pub(super) fn rot(&self, rng: &mut StdRng) -> bool {
        let mut state = self.state();
        let full = state.inodes.values_mut().filter(|inode| !inode.now.is_empty());
        let mut full: Vec<_> = full.collect();
        let Some(inode) = rng.random_range(0..=full.len()).checked_sub(1).map(|n| &mut full[n])
        else {
            return false;
        };
        let at = rng.random_range(0..inode.now.len());
        inode.now[at] ^= 1 << rng.random_range(0..8);
        inode.durable.clone_from(&inode.now);
        true
    }

    /// `Ok(true)` when this is the machine's last operation.
    fn step(&self, doing: &str, path: &Path) -> io::Result<bool> {
        let fate = self.fate.as_ref().expect("booted");
        match fate.step(doing, &path.to_string_lossy()) {
            Step::Done => Ok(false),
            Step::DoneAndDead => Ok(true),
            Step::Dead => Err(dead()),
        }
    }

    /// Does `work`, unless the machine is dead; tells of it, unless it died of it.
    fn doing<T>(
        &self,
        doing: &str,
        path: &Path,
        work: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let last = self.step(doing, path)?;
        let done = work(&mut self.state());
        if last { Err(dead()) } else { done }
    }
}

fn dead() -> io::Error {
    io::Error::other("the machine is dead")
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: Id,
    path: PathBuf,
}

impl DiskFile for SimFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.doing("write", &self.path, |state| {
            let room = state.capacity.saturating_sub(state.used());
            let inode = state.inodes.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
            if bytes.len() as u64 > room {
                let fits = usize::try_from(room).expect("small");
                inode.now.extend_from_slice(&bytes[..fits]);
                state.full_writes += 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            inode.now.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.doing("sync", &self.path, |state| {
            let fails = state.failing_syncs > 0;
            let inode = state.inodes.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
            let clean = std::mem::replace(&mut inode.clean, inode.now.len());
            if fails {
                state.failing_syncs -= 1;
                state.failed_syncs += 1;
                return Err(io::Error::other("injected: an fsync failed"));
            }
            // Lost pages read as zeros later.
            inode.durable.resize(clean.min(inode.now.len()), 0);
            inode.durable.extend_from_slice(&inode.now[inode.durable.len()..]);
            Ok(())
        })
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.disk.doing("truncate", &self.path, |state| {
            let inode = state.inodes.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
            inode.now.resize(usize::try_from(len).expect("small"), 0);
            inode.clean = inode.clean.min(inode.now.len());
            Ok(())
        })
    }
}

impl Disk for SimDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let id = self.doing("create", path, |state| {
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let id = state.next;
            state.next += 1;
            state.inodes.insert(id, Inode::default());
            state.change(Change::Add(path.to_owned(), id));
            Ok(id)
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let id = self.doing("open", path, |state| state.id(path))?;
        Ok(Box::new(SimFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.doing("read", path, |state| Ok(state.inodes[&state.id(path)?].now.clone()))
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.doing("read", path, |state| {
            let now = &state.inodes[&state.id(path)?].now;
            let from = usize::try_from(offset).expect("small").min(now.len());
            Ok(now[from..now.len().min(from.saturating_add(len))].to_vec())
        })
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.doing("stat", path, |state| {
            if state.folders.contains(path) {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            Ok(state.inodes[&state.id(path)?].now.len() as u64)
        })
    }

    fn rename_exclusive(&self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(folder_of(from), folder_of(to), "nothing moves between folders");
        self.doing("rename", to, |state| {
            state.id(from)?;
            if state.names.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.change(Change::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.doing("link", to, |state| {
            let id = state.id(from)?;
            if state.names.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.change(Change::Add(to.to_owned(), id));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.doing("remove", path, |state| {
            state.id(path)?;
            state.change(Change::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        self.doing("mkdir", path, |state| {
            state.folders.extend(path.ancestors().map(Path::to_owned));
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.doing("sync folder", path, |state| {
            for change in state.changes.remove(path).unwrap_or_default() {
                apply(&mut state.durable_names, change);
            }
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.doing("list", path, |state| {
            let below = state.names.iter().filter(|(name, _)| folder_of(name) == path);
            let entry = |(name, id): (&PathBuf, &Id)| DirEntry {
                name: name.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                is_dir: false,
                len: state.inodes[id].now.len() as u64,
            };
            Ok(below.map(entry).collect())
        })
    }

    fn free(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
