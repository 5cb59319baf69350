//! How a body gets its name: by a link, or through a temporary file.
//!
//! After a crash at any line there is the whole object, or none and perhaps a temporary file.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::super::{Body, Put};
use super::{Inner, TEMP};

/// How many folders are remembered as durable before the memory starts over.
const DURABLE_FOLDERS_MAX: usize = 4096;
/// A copied body passes through memory in pieces of this size.
pub(super) const COPY_BYTES: usize = 1 << 20;

impl Inner {
    /// Creates a folder and fsyncs every folder above it, once in the life of this process.
    pub(super) fn make_durable(&self, folder: &Path) -> io::Result<()> {
        if self.durable.lock().expect("no panic while held").contains(folder) {
            return Ok(());
        }
        self.disk.create_dirs(folder)?;
        let mut at = folder;
        while let Some(parent) = at.parent() {
            let named = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            match self.disk.sync_dir(named) {
                Ok(()) => {}
                // Above the root a folder may be traversable and yet not readable.
                Err(e)
                    if e.kind() == io::ErrorKind::PermissionDenied
                        && !parent.starts_with(&self.root) => {}
                Err(e) => return Err(e),
            }
            if at == self.root {
                break;
            }
            at = parent;
        }
        let mut durable = self.durable.lock().expect("no panic while held");
        if durable.len() >= DURABLE_FOLDERS_MAX {
            durable.clear();
        }
        durable.insert(folder.to_path_buf());
        Ok(())
    }

    pub(super) fn place(&self, to: &Path, body: &Body) -> io::Result<Put> {
        if self.disk.len(to).is_ok() {
            return Ok(Put::Exists);
        }
        if let Body::File { path, len } = body {
            let found = self.disk.len(path)?;
            if found != *len {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} has {found} bytes, not {len}", path.display()),
                ));
            }
            match self.disk.link(path, to) {
                Ok(()) => return Ok(Put::Created),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Put::Exists),
                Err(e) if cannot_link(&e) => {}
                Err(e) => return Err(e),
            }
        }
        self.place_through_temp(to, body)
    }

    fn place_through_temp(&self, to: &Path, body: &Body) -> io::Result<Put> {
        let folder = self.root.join(TEMP);
        self.make_durable(&folder)?;
        let temp = folder.join(format!(
            "{:016x}-{:x}-{:016x}",
            self.clock.wall().0,
            self.temps.fetch_add(1, Ordering::Relaxed),
            rand::random::<u64>()
        ));
        let placed =
            self.write_temp(&temp, body).and_then(|()| self.disk.rename_exclusive(&temp, to));
        match placed {
            Ok(()) => Ok(Put::Created),
            Err(e) => {
                // After a failed fsync the file is abandoned: the next attempt writes a new one.
                let _ = self.disk.remove(&temp);
                if e.kind() == io::ErrorKind::AlreadyExists { Ok(Put::Exists) } else { Err(e) }
            }
        }
    }

    fn write_temp(&self, temp: &Path, body: &Body) -> io::Result<()> {
        let mut file = self.disk.create_new(temp).map_err(|e| match e.kind() {
            // Not the object's name that is taken: a clash of temporary names is a plain failure.
            io::ErrorKind::AlreadyExists => io::Error::other(e),
            _ => e,
        })?;
        match body {
            Body::Bytes(bytes) => file.write_all(bytes)?,
            Body::File { path, len } => {
                let mut done = 0;
                while done < *len {
                    let piece = self.disk.read_at(path, done, COPY_BYTES)?;
                    if piece.is_empty() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    file.write_all(&piece)?;
                    done += piece.len() as u64;
                }
            }
        }
        file.sync()
    }
}

/// Another file system, one without links, too many links, or a file of another owner
/// (fs.protected_hardlinks): then the body is copied.
fn cannot_link(e: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        e.kind(),
        Kind::CrossesDevices | Kind::TooManyLinks | Kind::Unsupported | Kind::PermissionDenied
    )
}
