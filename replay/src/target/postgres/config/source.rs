//! The configuration that came with the base: read, and what must not follow it into a copy taken
//! out, each time with a note.
//!
//! Enters: the data folder's own files. Leaves: the same files with lines turned into comments, and
//! what is in force. Files that lie outside the folder are never read: they are another server's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::lines::{self, Setting};
use crate::target::postgres::RestoreError;
use crate::target::postgres::layout::replace;

/// Files that include each other deeper than this are refused by the server too (guc-file.l).
const DEPTH_MAX: u32 = 10;

/// What is in force, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct InForce(pub(super) BTreeMap<String, String>);

impl InForce {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        let on = |value: &str| {
            let value = value.to_lowercase();
            ["on", "true", "yes", "1", "t", "y", "tr", "tru", "ye"].contains(&value.as_str())
        };
        self.get(name).is_some_and(on)
    }
}

/// Reads and cleans every configuration file inside the data folder.
pub(super) struct Cleaner<'a> {
    pub(super) folder: &'a Path,
    pub(super) notes: Vec<String>,
    in_force: InForce,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { action, path, source }
}

impl<'a> Cleaner<'a> {
    pub(super) fn new(folder: &'a Path) -> Self {
        Self { folder, notes: Vec::new(), in_force: InForce::default() }
    }

    /// Cleans `postgresql.conf`, what it includes, and `postgresql.auto.conf`.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(super) fn clean(mut self) -> Result<(InForce, Vec<String>), RestoreError> {
        self.file(&self.folder.join("postgresql.conf"), 0)?;
        self.file(&self.folder.join("postgresql.auto.conf"), 0)?;
        Ok((self.in_force, self.notes))
    }

    fn file(&mut self, path: &Path, depth: u32) -> Result<(), RestoreError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io("reading", path)(e)),
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut included = Vec::new();
        let cleaned = lines::without(&text, |setting| {
            let why = self.taken_out(setting, path, depth);
            if why.is_none() {
                match setting.name.as_str() {
                    "include" | "include_if_exists" | "include_dir" => {
                        included.push(setting.clone());
                    }
                    // In the order in which the server reads: an included file's line and ours.
                    _ => {
                        self.in_force.0.insert(setting.name.clone(), setting.value.clone());
                    }
                }
            }
            why
        });
        if cleaned != text {
            let meta = std::fs::metadata(path).map_err(io("reading", path))?;
            replace(path, cleaned.as_bytes())?;
            let owner = crate::fetch::place::Owner {
                uid: std::os::unix::fs::MetadataExt::uid(&meta),
                gid: std::os::unix::fs::MetadataExt::gid(&meta),
            };
            super::super::layout::give(path, Some(owner))?;
            std::fs::set_permissions(path, meta.permissions())
                .map_err(io("setting the mode of", path))?;
        }
        for setting in included {
            self.include(&setting, path, depth)?;
        }
        Ok(())
    }

    fn include(&mut self, setting: &Setting, from: &Path, depth: u32) -> Result<(), RestoreError> {
        let target = resolve(from, &setting.value);
        if setting.name != "include_dir" {
            return self.file(&target, depth + 1);
        }
        let mut files: Vec<PathBuf> = std::fs::read_dir(&target)
            .map_err(io("reading", &target))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.ends_with(".conf") && !name.starts_with('.')
            })
            .collect();
        files.sort();
        files.iter().try_for_each(|file| self.file(file, depth + 1))
    }

    /// Why a line must not follow into a copy.
    fn taken_out(&mut self, setting: &Setting, from: &Path, depth: u32) -> Option<&'static str> {
        let Setting { name, value } = setting;
        match name.as_str() {
            "include" | "include_dir" | "include_if_exists" => {
                let target = resolve(from, value);
                let inside = target.canonicalize().is_ok_and(|real| {
                    self.folder.canonicalize().is_ok_and(|folder| real.starts_with(folder))
                });
                if inside && depth < DEPTH_MAX {
                    return None;
                }
                self.notes.push(format!("{name} {value:?} is dropped: it is not in the folder"));
                Some("not in the folder")
            }
            "data_directory" | "external_pid_file" => Some("the source's own"),
            "hba_file" | "ident_file" => {
                let inside = resolve(&self.folder.join("x"), value).starts_with(self.folder);
                (!inside).then_some("outside the folder")
            }
            "log_directory" | "stats_temp_directory" => {
                let outside = Path::new(value).is_absolute() && !Path::new(value).is_dir();
                if outside {
                    self.notes.push(format!("{name} {value:?} is dropped: it is not here"));
                }
                outside.then_some("not here")
            }
            "unix_socket_directories" => {
                let gone = value.split(',').map(|path| path.trim().trim_matches('"')).any(|path| {
                    !path.is_empty() && !path.starts_with('@') && !Path::new(path).is_dir()
                });
                if gone {
                    self.notes.push(format!("{name} {value:?} is dropped: it is not here"));
                }
                gone.then_some("not here")
            }
            name if name.starts_with("recovery_target") => Some("an earlier recovery's"),
            "restore_command"
            | "archive_cleanup_command"
            | "recovery_end_command"
            | "promote_trigger_file"
            | "primary_conninfo"
            | "primary_slot_name"
            | "recovery_min_apply_delay" => Some("an earlier recovery's"),
            _ => None,
        }
    }
}

/// Relative names start from the file that includes them.
fn resolve(from: &Path, value: &str) -> PathBuf {
    from.parent().unwrap_or(Path::new("/")).join(value)
}
