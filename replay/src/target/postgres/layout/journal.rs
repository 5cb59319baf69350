//! What a restore has done so far, beside the data: the same command goes on where it stopped.
//!
//! Enters: stages and finished parts. Leaves: `restore.json` (replaced whole) and `parts` (one line
//! a part, only ever appended). A part is noted once its bytes are on the disk, so that a killed
//! process and a lost machine resume alike; a torn last line is a part that is unpacked again.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use proto::archive::base::TarPart;
use proto::segment::Hash;
use serde::{Deserialize, Serialize};

use crate::fetch::{PLAN_FILE, WORK_FOLDER};
use crate::plan::Plan;
use crate::target::postgres::RestoreError;

/// The journal's state: without it nobody began a restore here.
pub const STATE_FILE: &str = "restore.json";
/// The report of a restore that has come to its end.
pub const REPORT_FILE: &str = "restored.json";
const PARTS_FILE: &str = "parts";
const LOCK_FILE: &str = "lock";

/// How far a restore has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Files come in; the folder cannot be started.
    Unpacking,
    /// Everything is in place; recovery may have begun.
    LaidOut,
}

/// `restore.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    pub stage: Stage,
    pub archive: String,
    pub lineage: u32,
    pub base: String,
    /// As the target was asked for.
    pub asked: String,
    /// Folders outside the data folder that are ours: tablespaces.
    pub folders: Vec<PathBuf>,
}

impl State {
    pub const VERSION: u32 = 1;
}

/// The journal of one data folder.
#[derive(Debug)]
pub struct Journal {
    work: PathBuf,
    pub state: State,
    done: HashSet<(String, Hash)>,
    parts: File,
    /// Held as long as this restore works here.
    _lock: File,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { action, path, source }
}

impl Journal {
    /// The state that an earlier restore left in `folder`, if one did.
    ///
    /// # Errors
    /// When it is there and not readable.
    pub fn find(folder: &Path) -> Result<Option<State>, RestoreError> {
        let path = folder.join(WORK_FOLDER).join(STATE_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(RestoreError::NotAFolder { folder: folder.to_owned() });
            }
            Err(e) => return Err(io("reading", &path)(e)),
        };
        let state: State = serde_json::from_slice(&bytes)
            .map_err(|e| RestoreError::Journal { path: path.clone(), detail: e.to_string() })?;
        if state.version != State::VERSION {
            let detail = format!("version {} is not known here", state.version);
            return Err(RestoreError::Journal { path, detail });
        }
        Ok(Some(state))
    }

    /// The plan that an earlier restore saved in `folder`.
    ///
    /// # Errors
    /// When there is none that can be read.
    pub fn saved_plan(folder: &Path) -> Result<Plan, RestoreError> {
        let path = folder.join(WORK_FOLDER).join(PLAN_FILE);
        let bytes = std::fs::read(&path).map_err(io("reading", &path))?;
        Plan::decode(&bytes).map_err(|e| RestoreError::Journal { path, detail: e.to_string() })
    }

    /// Begins a journal, or goes on with the one that is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(folder: &Path, state: State, plan: &Plan) -> Result<Self, RestoreError> {
        let work = folder.join(WORK_FOLDER);
        std::fs::create_dir_all(&work).map_err(io("creating", &work))?;
        let lock = lock(folder, &work.join(LOCK_FILE))?;
        replace(&work.join(PLAN_FILE), &plan.encode())?;
        let path = work.join(PARTS_FILE);
        let done = std::fs::read_to_string(&path).unwrap_or_default();
        let done = done.split_inclusive('\n').filter_map(parse_line).collect();
        let parts = OpenOptions::new().append(true).create(true).open(&path);
        let mut parts = parts.map_err(io("opening", &path))?;
        // Ends a line that was torn: what follows must not be glued to it.
        parts.write_all(b"\n").map_err(io("writing", &path))?;
        let journal = Self { work, state, done, parts, _lock: lock };
        journal.save()?;
        Ok(journal)
    }

    fn save(&self) -> Result<(), RestoreError> {
        replace(&self.work.join(STATE_FILE), &proto::archive::to_json(&self.state))
    }

    /// Moves on to a later stage, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reach(&mut self, stage: Stage) -> Result<(), RestoreError> {
        self.state.stage = stage;
        self.save()
    }

    /// Whether the part is on the disk already, with just these bytes.
    pub fn has(&self, part: &TarPart) -> bool {
        self.done.contains(&(part.object.clone(), part.hash))
    }

    /// Notes parts whose bytes are durable.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, parts: &[(String, Hash)]) -> Result<(), RestoreError> {
        let lines: String =
            parts.iter().map(|(object, hash)| format!("{hash} {object}\n")).collect();
        let path = self.work.join(PARTS_FILE);
        self.parts.write_all(lines.as_bytes()).map_err(io("writing", &path))?;
        self.parts.sync_data().map_err(io("syncing", &path))?;
        self.done.extend(parts.iter().cloned());
        Ok(())
    }
}

fn lock(folder: &Path, path: &Path) -> Result<File, RestoreError> {
    use rustix::fs::{FlockOperation, flock};
    let opened = OpenOptions::new().create(true).append(true).open(path);
    let file = opened.map_err(io("opening", path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RestoreError::Busy { folder: folder.to_owned() }),
        Err(e) => Err(io("locking", path)(e.into())),
    }
}

fn parse_line(line: &str) -> Option<(String, Hash)> {
    let (hash, object) = line.strip_suffix('\n')?.split_once(' ')?;
    Some((object.to_owned(), hash.parse().ok()?))
}

/// Writes a file of ours whole, in place of the one before it.
pub(in crate::target::postgres) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RestoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(io("writing", &temporary))?;
    rustix::fs::rename(&temporary, path).map_err(|e| io("renaming", path)(e.into()))?;
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(io("syncing", parent))
}
