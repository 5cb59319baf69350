//! A disk in memory, for parsers of files.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use proto::disk::{DirEntry, Disk, DiskFile};

type Files = Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>;

/// Files by their paths; folders are wherever a file is.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Files);

#[derive(Debug)]
struct MemoryFile {
    files: Files,
    path: PathBuf,
}

impl MemoryDisk {
    /// Puts a file there.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        self.0.lock().expect("one thread").insert(path.to_owned(), bytes);
    }

    fn with<T>(&self, path: &Path, see: impl FnOnce(&Vec<u8>) -> T) -> io::Result<T> {
        let files = self.0.lock().expect("one thread");
        files.get(path).map(see).ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl DiskFile for MemoryFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.files.lock().expect("one thread");
        files.entry(self.path.clone()).or_default().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut files = self.files.lock().expect("one thread");
        let file = files.entry(self.path.clone()).or_default();
        file.resize(usize::try_from(len).expect("it fits memory"), 0);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if self.len(path).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.put(path, Vec::new());
        self.append(path)
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.len(path)?;
        Ok(Box::new(MemoryFile { files: self.0.clone(), path: path.to_owned() }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.with(path, Clone::clone)
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.with(path, |bytes| {
            let from = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
            bytes[from..].iter().take(len).copied().collect()
        })
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.with(path, |bytes| bytes.len() as u64)
    }

    fn rename_exclusive(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.link(from, to)?;
        self.remove(from)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.len(to).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.put(to, self.read(from)?);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.0.lock().expect("one thread").remove(path);
        removed.map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn create_dirs(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let files = self.0.lock().expect("one thread");
        let here = files.iter().filter(|(file, _)| file.parent() == Some(path));
        let entry = |(file, bytes): (&PathBuf, &Vec<u8>)| {
            let name = file.file_name()?.to_str()?.to_owned();
            Some(DirEntry { name, is_dir: false, len: bytes.len() as u64 })
        };
        Ok(here.filter_map(entry).collect())
    }

    fn free(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
