//! A base becomes a data folder: unpacked in parallel, checked, `pg_control` last.
//!
//! Enters: a base's `complete.json` and an empty folder (or one that an earlier run of the same
//! restore left). Leaves: every file of the base with its bytes proved by hash, and the tablespaces
//! where they shall lie. After a crash at any line before [`Layout::seal`] the folder has no
//! `global/pg_control`, so no server starts in it, and the same command goes on.

mod files;
mod journal;
pub mod tar;
mod unpack;
#[cfg(test)]
mod tests;

pub use files::UnpackError;
pub(super) use journal::replace;
pub use journal::{Journal, REPORT_FILE, STATE_FILE, Stage, State};
pub use tar::TarError;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use proto::archive::base::{Complete, Tablespace, TarStream};
use proto::disk::{Disk, SystemDisk};

use super::RestoreError;
use crate::fetch::WORK_FOLDER;
use crate::fetch::place::Owner;
use crate::plan::Plan;
use files::Root;

/// A data folder that is being filled.
#[derive(Debug)]
pub struct Layout {
    pub folder: PathBuf,
    pub journal: Journal,
    owner: Option<Owner>,
    /// Where each tablespace shall lie.
    tablespaces: BTreeMap<u32, PathBuf>,
    /// An earlier run began it.
    pub resumed: bool,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { action, path, source }
}

impl Layout {
    /// Claims `folder` and the tablespaces' folders, moved as `moved` says.
    ///
    /// # Errors
    /// When one of them is not empty and not ours, has no room, or cannot be made.
    pub fn open(
        folder: &Path,
        plan: &Plan,
        base: &Complete,
        moved: &BTreeMap<String, PathBuf>,
        owner: Option<Owner>,
    ) -> Result<Self, RestoreError> {
        let earlier = Journal::find(folder)?;
        if let Some(earlier) = &earlier {
            check_same(folder, earlier, plan)?;
        }
        let ours = earlier.as_ref().map(|state| state.folders.clone()).unwrap_or_default();
        let tablespaces = places(folder, base, moved)?;
        if earlier.is_none() {
            if folder.join(WORK_FOLDER).join(REPORT_FILE).exists() {
                return Err(RestoreError::Finished { folder: folder.to_owned() });
            }
            check_empty(folder)?;
        }
        let outside: Vec<PathBuf> =
            tablespaces.values().filter(|path| !path.starts_with(folder)).cloned().collect();
        for (oid, path) in tablespaces.iter().filter(|(_, path)| !path.starts_with(folder)) {
            if !ours.contains(path) {
                check_place(*oid, path, base)?;
            }
            let same = tablespaces.iter().find(|(other, there)| *other < oid && *there == path);
            if let Some((other, _)) = same {
                return Err(unfit(*oid, path, base, format!("tablespace {other} goes there too")));
            }
        }
        if earlier.is_none() {
            check_room(folder, base, &tablespaces)?;
        }
        claim(folder, owner)?;
        let state = State {
            version: State::VERSION,
            stage: earlier.as_ref().map_or(Stage::Unpacking, |state| state.stage),
            archive: plan.head.archive.clone(),
            lineage: plan.head.lineage,
            base: plan.base.id.clone(),
            asked: plan.target.asked.clone(),
            folders: outside.clone(),
        };
        // The journal first: a tablespace folder that is ours is known to be before it is made.
        let journal = Journal::open(folder, state, plan)?;
        for path in &outside {
            claim(path, owner)?;
        }
        let work = folder.join(WORK_FOLDER);
        give(&work, owner)?;
        let (folder, resumed) = (folder.to_owned(), earlier.is_some());
        Ok(Self { folder, journal, owner, tablespaces, resumed })
    }

    fn root_of(&self, stream: &TarStream) -> Result<Root, RestoreError> {
        let folder = match stream.tablespace {
            None => self.folder.clone(),
            Some(oid) => self.tablespaces.get(&oid).cloned().ok_or_else(|| {
                let detail = format!("a tar stream of tablespace {oid}, which it does not list");
                RestoreError::Base { id: self.journal.state.base.clone(), detail }
            })?,
        };
        Ok(Root { folder, is_data: stream.tablespace.is_none(), owner: self.owner })
    }

    /// Every file system that is written to.
    fn roots(&self) -> Vec<PathBuf> {
        std::iter::once(self.folder.clone()).chain(self.tablespaces.values().cloned()).collect()
    }

    /// Makes the folder one that a server starts in: links, `tablespace_map`, everything durable,
    /// `pg_control` at last. Called again, it does nothing.
    ///
    /// # Errors
    /// When something cannot be written, or the base has no `pg_control`.
    pub fn seal(&mut self, base: &Complete) -> Result<(), RestoreError> {
        if self.journal.state.stage >= Stage::LaidOut {
            return Ok(());
        }
        self.link_tablespaces(base)?;
        let mode = std::fs::metadata(self.folder.join("global"))
            .map_err(io("reading", &self.folder))?
            .mode();
        // Group access (initdb -g) goes for the whole folder: its subfolders show it.
        let mode = if mode & 0o050 == 0o050 { 0o750 } else { 0o700 };
        std::fs::set_permissions(&self.folder, Permissions::from_mode(mode))
            .map_err(io("setting the mode of", &self.folder))?;
        sync_all(&self.roots())?;
        let held = self.folder.join(WORK_FOLDER).join("pg_control");
        let control = self.folder.join("global/pg_control");
        match SystemDisk.rename_exclusive(&held, &control) {
            Ok(()) => {}
            Err(_) if control.exists() && !held.exists() => {}
            Err(e) => return Err(io("placing", &control)(e)),
        }
        SystemDisk.sync_dir(&self.folder.join("global")).map_err(io("syncing", &self.folder))?;
        self.journal.reach(Stage::LaidOut)
    }

    /// Links of the tablespaces, and the map by which recovery makes them again.
    fn link_tablespaces(&self, base: &Complete) -> Result<(), RestoreError> {
        let mut map = String::new();
        for tablespace in base.postgres().tablespaces.iter().filter(|t| is_outside(t)) {
            let Some(place) = self.tablespaces.get(&tablespace.oid) else { continue };
            let link = self.folder.join("pg_tblspc").join(tablespace.oid.to_string());
            match std::fs::remove_file(&link) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("removing", &link)(e));
                }
                _ => {}
            }
            symlink(place, &link).map_err(io("linking", &link))?;
            if let Some(owner) = self.owner {
                lchown(&link, Some(owner.uid), Some(owner.gid))
                    .map_err(io("giving away", &link))?;
            }
            map.push_str(&format!("{} {}\n", tablespace.oid, escaped(place)));
        }
        let path = self.folder.join("tablespace_map");
        if !map.is_empty() {
            replace(&path, map.as_bytes())?;
            give(&path, self.owner)?;
        }
        Ok(())
    }
}

/// xlog.c, `read_tablespace_map`: a backslash before a newline, a return and a backslash.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for letter in path.to_string_lossy().chars() {
        if matches!(letter, '\n' | '\r' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

/// In-place tablespaces (`allow_in_place_tablespaces`) have a path relative to the data folder.
fn is_outside(tablespace: &Tablespace) -> bool {
    Path::new(&tablespace.location).is_absolute()
}

fn check_same(folder: &Path, earlier: &State, plan: &Plan) -> Result<(), RestoreError> {
    let same_base = earlier.archive == plan.head.archive
        && earlier.lineage == plan.head.lineage
        && earlier.base == plan.base.id;
    // Unpacked files serve any target; once recovery may have begun, only the same one.
    if same_base && (earlier.stage == Stage::Unpacking || earlier.asked == plan.target.asked) {
        return Ok(());
    }
    let asked = format!("{} from base {} of {}", earlier.asked, earlier.base, earlier.archive);
    Err(RestoreError::OtherRestore { folder: folder.to_owned(), asked })
}

/// Nothing may be there but a work folder that was only just begun: it has no state yet.
fn check_empty(folder: &Path) -> Result<(), RestoreError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io("reading", folder)(e)),
    };
    for entry in entries {
        let found = entry.map_err(io("reading", folder))?.file_name();
        if found != WORK_FOLDER {
            let found = found.to_string_lossy().into_owned();
            return Err(RestoreError::NotEmpty { folder: folder.to_owned(), found });
        }
    }
    Ok(())
}

/// A tablespace's place must be an empty folder, or one that can be made.
fn check_place(oid: u32, place: &Path, base: &Complete) -> Result<(), RestoreError> {
    let detail = match check_empty(place) {
        Ok(()) => match place.ancestors().skip(1).find(|above| above.exists()) {
            Some(above) if !above.is_dir() => format!("{} is no folder", above.display()),
            _ => return Ok(()),
        },
        Err(RestoreError::NotEmpty { found, .. }) => format!("it holds {found:?}"),
        Err(RestoreError::Io { source, .. }) => source.to_string(),
        Err(other) => return Err(other),
    };
    Err(unfit(oid, place, base, detail))
}

fn unfit(oid: u32, place: &Path, base: &Complete, detail: String) -> RestoreError {
    let of = base.postgres().tablespaces.iter().find(|t| t.oid == oid);
    let location = of.map(|t| t.location.clone()).unwrap_or_default();
    RestoreError::TablespacePlace { oid, location, place: place.to_owned(), detail }
}

fn check_room(
    folder: &Path,
    base: &Complete,
    tablespaces: &BTreeMap<u32, PathBuf>,
) -> Result<(), RestoreError> {
    let mut needed: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    for stream in &base.archives {
        let place = stream.tablespace.and_then(|oid| tablespaces.get(&oid)).map_or(folder, |p| p);
        let Some(there) = place.ancestors().find(|path| path.exists()) else { continue };
        let device = std::fs::metadata(there).map_err(io("reading", there))?.dev();
        let entry = needed.entry(device).or_insert_with(|| (there.to_owned(), 0));
        entry.1 += stream.raw_bytes;
    }
    for (place, bytes) in needed.into_values() {
        let free = SystemDisk.free(&place).map_err(io("reading", &place))?;
        if free < bytes {
            return Err(RestoreError::NoRoom { folder: place, needed: bytes, free });
        }
    }
    Ok(())
}

fn places(
    folder: &Path,
    base: &Complete,
    moved: &BTreeMap<String, PathBuf>,
) -> Result<BTreeMap<u32, PathBuf>, RestoreError> {
    let mut places = BTreeMap::new();
    for tablespace in &base.postgres().tablespaces {
        let (oid, location) = (tablespace.oid, tablespace.location.as_str());
        let moved_to = moved.get(location).or_else(|| moved.get(&oid.to_string()));
        let place = match moved_to {
            Some(to) if !to.is_absolute() => {
                return Err(RestoreError::Tablespace { name: to.display().to_string() });
            }
            Some(to) => to.clone(),
            None if is_outside(tablespace) => PathBuf::from(location),
            None => folder.join(location),
        };
        places.insert(oid, place);
    }
    let known = |name: &&String| {
        base.postgres()
            .tablespaces
            .iter()
            .any(|t| t.location == **name || t.oid.to_string() == **name)
    };
    match moved.keys().find(|name| !known(name)) {
        Some(name) => Err(RestoreError::Tablespace { name: name.clone() }),
        None => Ok(places),
    }
}

/// Makes the folder if it is not there, closed to others, and gives it to the server's user.
fn claim(folder: &Path, owner: Option<Owner>) -> Result<(), RestoreError> {
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).map_err(io("creating", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::set_permissions(folder, Permissions::from_mode(0o700))
                .map_err(io("setting the mode of", folder))?;
        }
        Err(e) => return Err(io("creating", folder)(e)),
    }
    give(folder, owner)
}

pub(super) fn give(path: &Path, owner: Option<Owner>) -> Result<(), RestoreError> {
    let Some(owner) = owner else { return Ok(()) };
    chown(path, Some(owner.uid), Some(owner.gid)).map_err(io("giving away", path))
}

/// Everything written so far on these file systems is durable when this returns.
fn sync_all(roots: &[PathBuf]) -> Result<(), RestoreError> {
    for root in roots {
        let folder = File::open(root).map_err(io("opening", root))?;
        rustix::fs::syncfs(&folder).map_err(|e| io("syncing", root)(e.into()))?;
    }
    Ok(())
}
