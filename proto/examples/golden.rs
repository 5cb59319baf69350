//! Writes the golden files of the format into a folder that must not exist:
//! `cargo run -p proto --example golden -- testdata/segments/vN`. Files of a version that was
//! released are never made again: a new version gets a new folder, and both are read for ever.

#[path = "../tests/golden/files.rs"]
mod files;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).context("usage: golden FOLDER")?;
    let folder = std::path::PathBuf::from(folder);
    std::fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut sums = String::new();
    for (name, bytes) in files::all() {
        std::fs::write(folder.join(&name), &bytes)?;
        sums.push_str(&format!("{}  {name}\n", proto::segment::Hash::of(&bytes)));
    }
    std::fs::write(folder.join("B3SUMS"), sums)?;
    Ok(())
}
