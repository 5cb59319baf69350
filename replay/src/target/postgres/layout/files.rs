//! Members of a tar stream become files: written at their offsets, so that parts may come in any
//! order and more than once.
//!
//! Enters: members and bytes. Leaves: files, folders, their modes, owners and times. A file that
//! must not be there before everything else is (`global/pg_control`) goes to the work folder.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::{Component, Path, PathBuf};

use super::tar::{Kind, Member, Sink, TarError};
use crate::fetch::WORK_FOLDER;
use crate::fetch::place::Owner;

/// What is kept back until the end, and under which name below the work folder.
pub(super) const HELD_BACK: [(&str, &str); 2] =
    [("global/pg_control", "pg_control"), ("tablespace_map", "tablespace_map")];

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("a member has the path {path:?}, which does not stay in the folder")]
    Path { path: String },
    #[error("{path:?} is a link, and only tablespaces are")]
    Link { path: String },
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Frame(#[from] proto::segment::SegmentError),
}

/// Where the members of one stream go.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) folder: PathBuf,
    /// The data folder itself, not a tablespace: some of its files are held back.
    pub(super) is_data: bool,
    pub(super) owner: Option<Owner>,
}

/// Writes the members of one part.
pub(super) struct Files {
    root: Root,
    made: HashSet<PathBuf>,
    open: Option<OpenFile>,
}

struct OpenFile {
    file: File,
    path: PathBuf,
    at: u64,
    mtime: u64,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::Io { action, path, source }
}

impl Files {
    pub(super) fn new(root: Root) -> Self {
        Self { root, made: HashSet::new(), open: None }
    }

    fn place(&self, name: &Path) -> PathBuf {
        let held = HELD_BACK.iter().find(|(held, _)| self.root.is_data && Path::new(held) == name);
        match held {
            Some((_, kept_as)) => self.root.folder.join(WORK_FOLDER).join(kept_as),
            None => self.root.folder.join(name),
        }
    }

    /// Makes the folder and those above it, up to the root.
    fn folder(&mut self, path: &Path) -> Result<(), UnpackError> {
        if path == self.root.folder || self.made.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("creating", path)(e));
            }
            // One that is there may be of a run that was killed before it gave it away.
            _ => self.give(path)?,
        }
        self.made.insert(path.to_owned());
        Ok(())
    }

    fn give(&self, path: &Path) -> Result<(), UnpackError> {
        let Some(owner) = self.root.owner else { return Ok(()) };
        lchown(path, Some(owner.uid), Some(owner.gid)).map_err(failed("giving away", path))
    }

    fn begin_file(&mut self, member: &Member, path: PathBuf, at: u64) -> Result<(), UnpackError> {
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(&path)
            .map_err(failed("creating", &path))?;
        // The full size first, from every part alike: none of them cuts off what another wrote.
        file.set_len(member.size).map_err(failed("sizing", &path))?;
        file.set_permissions(Permissions::from_mode(member.mode))
            .map_err(failed("setting the mode of", &path))?;
        if let Some(owner) = self.root.owner {
            fchown(&file, Some(owner.uid), Some(owner.gid))
                .map_err(failed("giving away", &path))?;
        }
        self.open = Some(OpenFile { file, path, at, mtime: member.mtime });
        Ok(())
    }
}

/// A member's path, if it stays below its root.
fn inside(path: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(clean)
}

impl Sink for Files {
    type Error = UnpackError;

    fn begin(&mut self, member: &Member, offset: u64) -> Result<(), UnpackError> {
        let told = || String::from_utf8_lossy(&member.path).into_owned();
        let name = inside(&member.path).ok_or_else(|| UnpackError::Path { path: told() })?;
        if name.as_os_str().is_empty() && member.kind == Kind::Folder {
            return Ok(());
        }
        if name.as_os_str().is_empty() || name.starts_with(WORK_FOLDER) {
            // A work folder of an earlier restore that the base carries is nothing of ours.
            return if name.starts_with(WORK_FOLDER) {
                Ok(())
            } else {
                Err(UnpackError::Path { path: told() })
            };
        }
        let path = self.place(&name);
        match member.kind {
            Kind::Folder => {
                self.folder(&path)?;
                std::fs::set_permissions(&path, Permissions::from_mode(member.mode))
                    .map_err(failed("setting the mode of", &path))
            }
            // Tablespace links are made at the end, to where the tablespaces now lie.
            Kind::Link if name.parent() == Some(Path::new("pg_tblspc")) => Ok(()),
            Kind::Link => Err(UnpackError::Link { path: told() }),
            Kind::File => self.begin_file(member, path, offset),
        }
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.file.write_all_at(bytes, open.at).map_err(failed("writing", &open.path))?;
        open.at += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), UnpackError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let time = rustix::fs::Timespec {
            tv_sec: i64::try_from(open.mtime).unwrap_or_default(),
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&open.file, &times)
            .map_err(|e| failed("setting the time of", &open.path)(e.into()))
    }
}
