//! The only place that touches the file system on the capture side, so that a simulation and
//! fault tests can supply another one. Calls block: the caller stands on a blocking thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    /// Bytes; 0 for a folder.
    pub len: u64,
}

/// A file being written. After a failed [`DiskFile::sync`] the file must be abandoned, never synced
/// again: the kernel marks the lost pages clean (Rebello et al., ATC'20).
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// fdatasync.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `len` bytes and continues writing there.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// The file operations that the sidecar and the folder store need.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// A new, empty file; `AlreadyExists` when there is one.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// An existing file, continued at its end.
    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Up to `len` bytes from `offset`; fewer only at the end of the file.
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// The size of a file; `IsADirectory` for a folder.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Renames without ever replacing: `AlreadyExists` when `to` is there.
    fn rename_exclusive(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A second name for a file on the same file system; never replaces.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates the folder and its parents, each made durable in its parent.
    fn create_dirs(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Sorted by name; empty when the folder does not exist.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Bytes that an unprivileged writer may still use on that file system.
    fn free(&self, path: &Path) -> io::Result<u64>;
}

/// The machine's own file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

#[derive(Debug)]
struct SystemFile(File);

impl DiskFile for SystemFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        self.0.set_len(len)?;
        self.0.seek(SeekFrom::Start(len)).map(drop)
    }
}

#[allow(clippy::disallowed_methods, reason = "the one implementation of Disk")]
impl Disk for SystemDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Box::new(SystemFile(file)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        use std::io::{Seek, SeekFrom};
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Box::new(SystemFile(file)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let len = usize::try_from(size.saturating_sub(offset)).map_or(len, |rest| rest.min(len));
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let meta = fs::metadata(path)?;
        if meta.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(meta.len()) }
    }

    fn rename_exclusive(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // File systems without RENAME_NOREPLACE (NFS, some FUSE): link + unlink never replaces.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<PathBuf> = Vec::new();
        let mut at = path;
        while !at.as_os_str().is_empty() && !at.is_dir() {
            missing.push(at.to_path_buf());
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        for dir in missing.iter().rev() {
            match fs::create_dir(dir) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                Err(e) => return Err(e),
            }
            if let Some(parent) = dir.parent() {
                self.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
            }
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(meta) => found.push(DirEntry {
                    name,
                    is_dir: meta.is_dir(),
                    len: if meta.is_dir() { 0 } else { meta.len() },
                }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}
