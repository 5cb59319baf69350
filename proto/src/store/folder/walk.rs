//! Listing a tree of files as a store lists its keys: by whole key bytes, across depth.
//!
//! Only folders that can hold a key wanted are read: those below the prefix that do not lie wholly
//! before `after`, until the page is full.

use std::io;
use std::path::{Path, PathBuf};

use super::super::{Key, Object, Page};
use super::TEMP;
use crate::disk::{DirEntry, Disk};

struct Walk<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    prefix: &'a str,
    after: Option<&'a str>,
    objects: Vec<Object>,
    max: usize,
}

pub(super) fn page(
    disk: &dyn Disk,
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    max: usize,
) -> io::Result<Page> {
    let folder = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
    // One more than asked for tells whether more follow.
    let mut walk = Walk { disk, root, prefix, after, objects: Vec::new(), max: max + 1 };
    walk.folder(folder)?;
    let more = walk.objects.len() > max;
    walk.objects.truncate(max);
    Ok(Page { objects: walk.objects, more })
}

/// The folders directly below `folder` with at least one object below them.
pub(super) fn folders(disk: &dyn Disk, root: &Path, folder: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut entries = entries(disk, root, folder)?;
    entries.sort_by_cached_key(|entry| format!("{}/", entry.name));
    for entry in entries {
        if entry.is_dir {
            let below = format!("{folder}{}/", entry.name);
            if !page(disk, root, &below, None, 1)?.objects.is_empty() {
                found.push(entry.name);
            }
        }
    }
    Ok(found)
}

impl Walk<'_> {
    /// Takes what is wanted of the keys that begin with `folder` (empty, or ending in a slash).
    fn folder(&mut self, folder: &str) -> io::Result<()> {
        let mut names: Vec<(String, DirEntry)> = entries(self.disk, self.root, folder)?
            .into_iter()
            .map(|e| {
                (
                    if e.is_dir {
                        format!("{folder}{}/", e.name)
                    } else {
                        format!("{folder}{}", e.name)
                    },
                    e,
                )
            })
            .collect();
        // `a.b` sorts before `a/c`: a folder's place is that of its name with the slash.
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, entry) in names {
            if self.objects.len() >= self.max {
                return Ok(());
            }
            if !self.may_hold(&key, entry.is_dir) {
                continue;
            }
            if entry.is_dir {
                self.folder(&key)?;
            } else {
                self.objects.push(Object { key: Key::new(key), bytes: entry.len });
            }
        }
        Ok(())
    }

    fn may_hold(&self, key: &str, is_dir: bool) -> bool {
        let wanted = key.starts_with(self.prefix) || (is_dir && self.prefix.starts_with(key));
        let beyond = match self.after {
            None => true,
            Some(after) => key > after || (is_dir && after.starts_with(key)),
        };
        wanted && beyond
    }
}

fn entries(disk: &dyn Disk, root: &Path, folder: &str) -> io::Result<Vec<DirEntry>> {
    let Some(path) = path_of(root, folder) else { return Ok(Vec::new()) };
    match disk.list(&path) {
        Ok(mut entries) => {
            if folder.is_empty() {
                entries.retain(|entry| entry.name != TEMP);
            }
            Ok(entries)
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// `None` for what no key can begin with.
fn path_of(root: &Path, folder: &str) -> Option<PathBuf> {
    let Some(names) = folder.strip_suffix('/') else { return Some(root.to_path_buf()) };
    let ours = names.split('/').next() == Some(TEMP);
    let odd = names.split('/').any(|name| name.is_empty() || name == "." || name == "..");
    (!ours && !odd).then(|| root.join(names))
}
