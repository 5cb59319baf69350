//! Seeds of a corpus, made by the code that writes such bytes: `fuzz/run seeds` writes them anew.

use std::path::{Path, PathBuf};

/// A file of the corpus: its name and its bytes.
pub type Seed = (String, Vec<u8>);

/// A seed.
pub fn seed(name: &str, bytes: impl Into<Vec<u8>>) -> Seed {
    (name.to_owned(), bytes.into())
}

/// Writes the seeds into the folder that `FUZZ_SEEDS` names, and ends the program.
pub(crate) fn write_if_asked(target: &str, seeds: fn() -> Vec<Seed>) {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS") else { return };
    let folder = Path::new(&folder).join(target);
    std::fs::create_dir_all(&folder).expect("the corpus can be written");
    for (name, bytes) in seeds() {
        std::fs::write(folder.join(format!("seed-{name}")), bytes).expect("a seed can be written");
    }
    std::process::exit(0);
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")
}

/// A golden file of the archive's format.
pub fn golden(name: &str) -> Vec<u8> {
    let path = testdata().join("segments/v1").join(name);
    std::fs::read(path).expect("the golden files are part of the source")
}

/// The first bytes of what a server of this version wrote.
pub fn wal(version: u8, bytes: usize) -> Vec<u8> {
    let folder = testdata().join(format!("wal/{version}"));
    let files = std::fs::read_dir(folder).expect("the captures are part of the source");
    let path = files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().ends_with(".wal.zst"))
        .expect("a capture");
    let packed = std::fs::read(path).expect("it can be read");
    let mut raw = proto::segment::read_frames(&packed, u64::MAX).expect("whole frames");
    raw.truncate(bytes);
    raw
}
