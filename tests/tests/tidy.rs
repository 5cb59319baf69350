//! Rules about the source itself that no compiler checks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const MOST_LINES: usize = 800;

/// Marks of work that is not done. Written in pieces, so as not to find themselves.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("#[ig", "nore"),
    concat!("unimpl", "emented!("),
];

/// Paths of one machine, and hosts that packages come from: they are the machine's affair.
const OF_ONE_MACHINE: [&str; 7] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("debian", ".org"),
];

fn workspace() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(package.parent().context("the package lies in the workspace")?.to_path_buf())
}

/// Every text file that is ours, with its path from the workspace.
fn sources() -> Result<Vec<(PathBuf, String)>> {
    let root = workspace()?;
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                let skipped = ["target", "testdata", ".git"].contains(&name.as_str());
                if !skipped {
                    open.push(path);
                }
            } else if name != ".git"
                && name != "Cargo.lock"
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                found.push((path.strip_prefix(&root)?.to_path_buf(), text));
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found under {}", root.display());
    Ok(found)
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Every line that holds one of these, as `path:line: word`.
fn lines_with(words: &[&str], only: fn(&Path) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, text) in sources()?.into_iter().filter(|(path, _)| only(path)) {
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    Ok(found)
}

#[test]
fn no_source_file_is_too_long_to_read() -> Result<()> {
    let long: Vec<String> = sources()?
        .iter()
        .filter(|(path, text)| is_rust(path) && text.lines().count() > MOST_LINES)
        .map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()))
        .collect();
    assert!(long.is_empty(), "more than {MOST_LINES} lines:\n{}", long.join("\n"));
    Ok(())
}

#[test]
fn nothing_is_left_unfinished_or_skipped() -> Result<()> {
    let found = lines_with(&UNFINISHED, is_rust)?;
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn nothing_names_one_machine_or_where_packages_come_from() -> Result<()> {
    let found = lines_with(&OF_ONE_MACHINE, |_| true)?;
    assert!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

/// A file that no `mod` line names is not compiled, and its tests never run.
#[test]
fn every_test_file_is_part_of_the_program() -> Result<()> {
    let folder = Path::new("tests/tests");
    let all = sources()?;
    let text_of = |path: &Path| all.iter().find(|(found, _)| found == path).map(|(_, text)| text);
    let mut missing = Vec::new();
    for (path, _) in all.iter().filter(|(path, _)| path.starts_with(folder) && is_rust(path)) {
        let parent = path.parent().context("a file lies in a folder")?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if parent == folder && stem == "main" {
            continue;
        }
        // `x/mod.rs` is the module x of the folder above; `x/y.rs` is y of x.
        let (name, above) = match stem.as_str() {
            "mod" => (
                parent.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                parent.parent().context("it lies under tests")?,
            ),
            _ => (stem, parent),
        };
        let owners = [above.join("mod.rs"), above.with_extension("rs"), folder.join("main.rs")];
        let owner = owners.iter().find(|owner| match above == folder {
            true => owner.ends_with("tests/main.rs"),
            false => text_of(owner).is_some(),
        });
        let line = format!("mod {name};");
        let named = owner
            .and_then(|owner| text_of(owner))
            .is_some_and(|text| text.lines().any(|l| l.trim_start_matches("pub(crate) ") == line));
        if !named {
            missing.push(format!("{}: no `{line}`", path.display()));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    Ok(())
}

#[test]
fn no_position_is_acknowledged_that_nobody_has_confirmed() -> Result<()> {
    let claims = concat!("Acknowledged::uncon", "firmed(");
    let found: Vec<String> = sources()?
        .into_iter()
        .filter(|(path, text)| path.starts_with("archiver/src") && text.contains(claims))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(found.is_empty(), "claimed without proof in {}", found.join(", "));
    Ok(())
}

/// Beside the ship stage, only what is sealed in the store counts as durable.
#[test]
fn what_is_found_durable_in_the_store_is_found_in_one_place() -> Result<()> {
    let found = concat!("Durable::fo", "und(");
    let places: Vec<String> = sources()?
        .into_iter()
        .filter(|(path, text)| path.starts_with("archiver/src") && text.contains(found))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert_eq!(places, ["archiver/src/source/postgres/end.rs"]);
    Ok(())
}
