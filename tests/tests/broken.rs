//! The deliberately broken variants still apply, and what must catch them is there.

use std::path::Path;

use anyhow::{Context, Result};
use tests::broken;

#[test]
fn every_broken_variant_applies_and_names_a_test_that_is_there() -> Result<()> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().context("the package lies in the workspace")?;
    let variants = broken::all(root)?;
    assert!(variants.len() >= 5, "{} variants", variants.len());
    let told = std::fs::read_to_string(root.join("docs/TESTING.md"))?;
    for variant in &variants {
        let changes = variant.changes(root)?;
        assert!(changes.iter().all(|change| change.before != change.after), "{}", variant.name);
        let name = variant.test.rsplit("::").next().unwrap_or(&variant.test);
        let there = finds(&root.join(&variant.package).join("src"), &format!("fn {name}("))?;
        assert!(there, "{}: no test {}", variant.name, variant.test);
        let row = format!("| {} | ", variant.name);
        assert!(told.contains(&row), "docs/TESTING.md does not tell of {}", variant.name);
    }
    Ok(())
}

fn finds(folder: &Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let found = if path.is_dir() {
            finds(&path, text)?
        } else {
            std::fs::read_to_string(&path).is_ok_and(|source| source.contains(text))
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
