//! The documents and the code say the same: packages, links, paths, names of tests, flags, metrics.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

fn workspace() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(package.parent().context("the package lies in the workspace")?.to_path_buf())
}

fn read(path: &str) -> Result<String> {
    let path = workspace()?.join(path);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// Every document: README.md and what lies in docs/, with its path from the workspace.
fn documents() -> Result<Vec<(PathBuf, String)>> {
    let root = workspace()?;
    let mut found = vec![(PathBuf::from("README.md"), read("README.md")?)];
    for folder in ["docs", "docs/decisions"] {
        for entry in std::fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push((path.strip_prefix(&root)?.to_owned(), std::fs::read_to_string(&path)?));
            }
        }
    }
    assert!(found.len() > 5, "the documents were not found under {}", root.display());
    Ok(found)
}

/// All Rust sources below these folders, as one text.
fn sources(folders: &[&str]) -> Result<String> {
    let root = workspace()?;
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut text = String::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(&path)?);
            }
        }
    }
    Ok(text)
}

/// What stands between backticks, fenced blocks aside.
fn quoted(text: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

fn is_name(word: &str) -> bool {
    !word.is_empty()
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[test]
fn readme_lists_the_packages_that_ci_installs() -> Result<()> {
    let script = read(".ci/run")?;
    let (_, list) = script.split_once("packages=(").context("no list in .ci/run")?;
    let (list, _) = list.split_once(')').context("the list in .ci/run has no end")?;
    let mut wanted: BTreeSet<&str> = list.split_whitespace().collect();
    for also in ["missing+=(python3 python3-pip)", "missing+=(gcc libc6-dev)", "missing+=(g++)"] {
        assert!(script.contains(also), ".ci/run has no {also:?} any more");
        let (_, names) = also.split_once('(').context("our own text")?;
        wanted.extend(names.trim_end_matches(')').split(' '));
    }
    let readme = read("README.md")?;
    let (_, list) = readme.split_once("apt-get install ").context("no list in README.md")?;
    let (list, _) = list.split_once("```").context("the list in README.md has no end")?;
    let listed: BTreeSet<&str> = list.split_whitespace().filter(|word| *word != "\\").collect();
    assert_eq!(listed, wanted);
    Ok(())
}

#[test]
fn the_two_commands_stand_at_the_top_of_readme() -> Result<()> {
    let readme = read("README.md")?;
    let top: Vec<&str> = readme.lines().take(12).collect();
    for command in ["cargo demo", "cargo test --workspace"] {
        assert!(top.iter().any(|line| line.starts_with(command)), "{command}: {top:?}");
    }
    assert!(read(".ci/run")?.contains("cargo test --workspace"));
    Ok(())
}

#[test]
fn every_link_between_documents_leads_somewhere() -> Result<()> {
    let root = workspace()?;
    let mut broken = Vec::new();
    for (path, text) in documents()? {
        let folder = root.join(&path).parent().context("a file lies in a folder")?.to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !target.contains("://") && !file.is_empty() && !folder.join(file).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    Ok(())
}

#[test]
fn every_source_path_that_a_document_names_exists() -> Result<()> {
    const ROOTS: [&str; 5] = ["", "proto/src", "archiver/src", "replay/src", "tests"];
    let root = workspace()?;
    let mut missing = Vec::new();
    for (path, text) in documents()? {
        for word in quoted(&text) {
            let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
            let of_source = word.ends_with(".rs")
                || ["proto/", "archiver/", "replay/", "tests/", "testdata/"]
                    .iter()
                    .any(|folder| word.starts_with(folder));
            if plain && of_source && !ROOTS.iter().any(|at| root.join(at).join(&word).exists()) {
                missing.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    Ok(())
}

/// A folder of ours that the map does not name is one that a newcomer does not find.
#[test]
fn the_map_names_every_folder() -> Result<()> {
    let root = workspace()?;
    let map = read("docs/ARCHITECTURE.md")?;
    let mut missing = Vec::new();
    for crate_name in ["proto", "archiver", "replay"] {
        let (_, section) =
            map.split_once(&format!("### {crate_name}: ")).context("a section for each crate")?;
        let section = section.split("\n#").next().unwrap_or_default();
        for entry in std::fs::read_dir(root.join(crate_name).join("src"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_room = path.is_dir() && name != "fixture";
            if is_room && !section.contains(&format!("| `{name}/")) {
                missing.push(format!("{crate_name}/src/{name}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md does not name {missing:?}");
    Ok(())
}

#[test]
fn every_test_and_trait_that_a_document_names_exists() -> Result<()> {
    let code = sources(&["proto", "archiver", "replay", "tests"])?;
    let text = read("docs/ARCHITECTURE.md")?;
    let testing = read("docs/TESTING.md")?;
    let names = quoted(&format!("{text}\n{testing}"));
    let tests = names.iter().filter(|word| is_name(word) && word.matches('_').count() >= 3);
    let missing: Vec<_> = tests.filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "no such test: {missing:?}");
    let (_, traits) = text.split_once("## The traits").context("a section on traits")?;
    let (traits, _) = traits.split_once("\n## ").context("a section behind it")?;
    for line in traits.lines().filter(|line| line.starts_with("| `")) {
        let first = line.split('|').nth(1).context("a table")?;
        for name in quoted(first) {
            let name = name.rsplit(':').next().unwrap_or_default();
            assert!(code.contains(&format!("pub trait {name}")), "no trait {name}");
        }
    }
    Ok(())
}

/// The long flags and the variables in the help of these commands.
fn of_help(program: &str, commands: &[&str]) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut flags, mut variables) = (BTreeSet::new(), BTreeSet::new());
    for command in commands {
        let help = tests::programs::run(program, &[*command, "--help"], &[])?.ok()?.stdout;
        let first = help.lines().filter_map(|line| line.split_whitespace().next());
        let long = first.filter(|word| word.starts_with("--"));
        flags.extend(long.map(str::to_owned));
        let parts = help.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        variables.extend(parts.filter(|word| word.starts_with("PITR_")).map(str::to_owned));
    }
    Ok((flags, variables))
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Result<&'a str> {
    let (_, rest) = text.split_once(from).with_context(|| format!("no {from:?}"))?;
    Ok(rest.split_once(to).with_context(|| format!("no {to:?} behind {from:?}"))?.0)
}

#[test]
fn operations_lists_every_flag_and_variable_and_no_other() -> Result<()> {
    let text = read("docs/OPERATIONS.md")?;
    let pitrd = of_help("pitrd", &["run", "base", "check", "point"])?;
    let commands = ["status", "list", "plan", "restore", "verify", "reindex"];
    let pitr = of_help("pitr", &commands)?;
    let sections = [("\n### pitrd\n", "\n### pitr\n", pitrd), ("\n### pitr\n", "\n## ", pitr)];
    for (from, to, (flags, variables)) in sections {
        let table: String =
            between(&text, from, to)?.lines().filter(|line| line.starts_with("| `--")).collect();
        let words = quoted(&table);
        let named = |start: &str| -> BTreeSet<String> {
            let first = words.iter().filter_map(|word| word.split(' ').next());
            first.filter(|word| word.starts_with(start)).map(str::to_owned).collect()
        };
        // Under "meaning" a flag of another line may be named; it is one all the same.
        assert_eq!(named("--"), flags, "flags under {from:?}");
        assert_eq!(named("PITR_"), variables, "variables under {from:?}");
    }
    Ok(())
}

#[test]
fn operations_lists_every_metric_and_state_and_no_other() -> Result<()> {
    let code = sources(&["archiver/src"])?;
    let literals = code.split('"');
    let is_metric = |word: &&str| word.starts_with("pitr_") && is_name(word);
    let known: BTreeSet<&str> = literals.filter(is_metric).collect();
    assert!(known.contains("pitr_rpo_lag_seconds"), "{known:?}");
    let text = read("docs/OPERATIONS.md")?;
    let words = quoted(between(&text, "\n## Metrics\n", "\n## ")?);
    let listed: BTreeSet<&str> = words.iter().map(String::as_str).filter(is_metric).collect();
    assert_eq!(listed, known);
    let states = read("archiver/src/watch/state.rs")?;
    let states = between(&states, "pub const fn name", "impl fmt::Display")?;
    let known: BTreeSet<&str> = states.split('"').skip(1).step_by(2).collect();
    let table = between(&text, "\n## States\n", "\n## ")?;
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<BTreeSet<_>>(), known);
    Ok(())
}

/// "Give --this": one that does not exist sends a person nowhere.
#[test]
fn no_program_names_a_flag_that_does_not_exist() -> Result<()> {
    const OF_OTHERS: [&str; 13] = [
        "--enable",
        "--pkglibdir",
        "--describe-config",
        "--bindir",
        "--version",
        "--help",
        "--replSet",
        "--bind",
        "--dbpath",
        "--logappend",
        "--logpath",
        "--nounixsocket",
        "--setParameter",
    ];
    const MISSPELT_IN_TESTS: [&str; 2] = ["--colour", "--jsno"];
    let (mut known, _) = of_help("pitrd", &["run", "base", "check", "point"])?;
    known.extend(of_help("pitr", &["status", "list", "plan", "restore", "verify", "reindex"])?.0);
    known.extend(OF_OTHERS.into_iter().chain(MISSPELT_IN_TESTS).map(str::to_owned));
    let code = sources(&["archiver/src", "replay/src", "proto/src"])?;
    let said = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let flags = said.flat_map(|line| line.split("--").skip(1)).filter_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphabetic() || c == '-')).unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches('-');
        (name.len() > 1).then(|| format!("--{name}"))
    });
    let flags: BTreeSet<String> = flags.collect();
    assert!(flags.contains("--take-over"), "{flags:?}");
    let unknown: Vec<&String> = flags.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}
