//! Putting a fetched file where it is looked for: whole under its name, or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use proto::disk::{Disk, SystemDisk};

use super::FetchError;

/// Whose a file shall be, when we may decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

/// Writes `bytes` to `path`, which must not exist.
///
/// # Errors
/// When a file cannot be written; then there is none at `path`.
pub fn write_whole(path: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<(), FetchError> {
    let part = temporary(path);
    let written = write_part(&part, bytes, owner).and_then(|()| rename(&part, path));
    written.map_err(|source| {
        let _ = std::fs::remove_file(&part);
        FetchError::Io { action: "writing", path: path.to_owned(), source }
    })
}

fn write_part(part: &Path, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    file.write_all(bytes)
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    SystemDisk.rename_exclusive(from, to)
}

/// Moves a whole file to `to`, which must not exist; across file systems by way of a copy.
/// `Ok(false)` when there is no `from`.
///
/// # Errors
/// When it cannot be moved; then there is none at `to`.
pub fn take(from: &Path, to: &Path) -> Result<bool, FetchError> {
    match rename(from, to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !from.exists() => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            let part = temporary(to);
            let copied = copy(from, &part).and_then(|()| rename(&part, to));
            if let Err(source) = copied {
                let _ = std::fs::remove_file(&part);
                return Err(FetchError::Io { action: "writing", path: to.to_owned(), source });
            }
            let _ = std::fs::remove_file(from);
            Ok(true)
        }
        Err(source) => Err(FetchError::Io { action: "writing", path: to.to_owned(), source }),
    }
}

fn copy(from: &Path, part: &Path) -> io::Result<()> {
    let mut to =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part)?;
    io::copy(&mut File::open(from)?, &mut to).map(drop)
}
