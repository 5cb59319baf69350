//! Deliberately broken variants of pitr: each is an edit of the sources that must make one test fail.
//!
//! Enters: `tests/broken/*.txt`. Leaves: edits of a copy of the sources, never of the sources
//! themselves. An edit names the text that it replaces, not its place: it applies as long as that text
//! stands there once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

const CAUGHT: &str = "Caught by: ";
const IN: &str = "In: ";
const OLD: &str = "<<<<";
const NEW: &str = "====";
const END: &str = ">>>>";

/// One variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    pub name: String,
    /// What it breaks, in a sentence.
    pub why: String,
    /// The package and the test in it that must fail.
    pub package: String,
    pub test: String,
    pub edits: Vec<Edit>,
}

/// In one file, one text in the place of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub path: PathBuf,
    pub old: String,
    pub new: String,
}

impl Variant {
    /// # Errors
    /// When the text does not have the form that `tests/broken/README.md` shows.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut why = Vec::new();
        let mut caught = None;
        let (mut path, mut edits) = (None, Vec::new());
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix(CAUGHT) {
                caught = rest.split_once(' ');
            } else if let Some(rest) = line.strip_prefix(IN) {
                path = Some(PathBuf::from(rest));
            } else if line == OLD {
                let old = until(&mut lines, NEW)?;
                let new = until(&mut lines, END)?;
                let path = path.clone().context("an edit names its file before")?;
                edits.push(Edit { path, old, new });
            } else if !line.is_empty() {
                why.push(line);
            }
        }
        let (package, test) = caught.with_context(|| format!("no line {CAUGHT:?}"))?;
        ensure!(!why.is_empty() && !edits.is_empty(), "it says what it breaks, and how");
        let (package, test) = (package.to_owned(), test.to_owned());
        Ok(Self { name: name.to_owned(), why: why.join(" "), package, test, edits })
    }

    /// The files below `root` that it changes, as they are and as they become.
    ///
    /// # Errors
    /// When a text to be replaced does not stand in its file once.
    pub fn changes(&self, root: &Path) -> Result<Vec<Change>> {
        let mut changes: Vec<Change> = Vec::new();
        for edit in &self.edits {
            let at = changes.iter().position(|change| change.path == edit.path);
            let at = match at {
                Some(at) => at,
                None => {
                    let before = std::fs::read_to_string(root.join(&edit.path))
                        .with_context(|| edit.path.display().to_string())?;
                    let (path, after) = (edit.path.clone(), before.clone());
                    changes.push(Change { path, before, after });
                    changes.len() - 1
                }
            };
            let after = &mut changes[at].after;
            let times = after.matches(&edit.old).count();
            if times != 1 {
                let file = edit.path.display();
                bail!("{}: what it replaces stands in {file} {times} times", self.name);
            }
            *after = after.replacen(&edit.old, &edit.new, 1);
        }
        Ok(changes)
    }
}

/// One file of a variant.
#[derive(Debug, Clone)]
pub struct Change {
    pub path: PathBuf,
    pub before: String,
    pub after: String,
}

fn until(lines: &mut std::str::Lines<'_>, mark: &str) -> Result<String> {
    let mut text = String::new();
    for line in lines {
        if line == mark {
            return Ok(text);
        }
        text.push_str(line);
        text.push('\n');
    }
    bail!("no line {mark}")
}

/// All variants, by name.
///
/// # Errors
/// When one cannot be read.
pub fn all(root: &Path) -> Result<Vec<Variant>> {
    let folder = root.join("tests/broken");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path)?;
            found.push(Variant::parse(&name, &text).with_context(|| name.clone())?);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Brings the sources below `root` to `copy`: a file that is the same there is not written again, so
/// that cargo builds only what differs.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_sources(root: &Path, copy: &Path) -> Result<()> {
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        std::fs::create_dir_all(copy.join(&folder))?;
        for entry in std::fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                let skipped = ["target", ".git"].iter().any(|name| path.ends_with(name));
                if !skipped {
                    open.push(path);
                }
            } else if entry.file_name() != ".git" {
                write_if_other(&copy.join(&path), &std::fs::read(root.join(&path))?)?;
            }
        }
    }
    Ok(())
}

/// # Errors
/// When it cannot be written.
pub fn write_if_other(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_says_what_it_breaks_and_replaces_a_text_that_stands_once() -> Result<()> {
        let text =
            "It lies.\nCaught by: p a::b\nIn: x.rs\n<<<<\nfn a() {}\n====\nfn b() {}\n>>>>\n";
        let variant = Variant::parse("lie", text)?;
        assert_eq!((&*variant.why, &*variant.package, &*variant.test), ("It lies.", "p", "a::b"));
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("x.rs"), "fn a() {}\nfn c() {}\n")?;
        let [change] = &variant.changes(folder.path())?[..] else { bail!("one file") };
        assert_eq!(change.after, "fn b() {}\nfn c() {}\n");
        std::fs::write(folder.path().join("x.rs"), "fn a() {}\nfn a() {}\n")?;
        assert!(variant.changes(folder.path()).is_err());
        for cut in ["Caught by: p a::b\n", "====\n", ">>>>\n", "It lies.\n"] {
            assert!(Variant::parse("lie", &text.replace(cut, "")).is_err(), "{cut}");
        }
        Ok(())
    }
}
