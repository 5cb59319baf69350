//! What the demo needs: tools, libraries of the server, our own programs. What is missing is named
//! all at once, with the line that installs it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::screen::Screen;

/// The start of a library's file name, and Debian 12's package with it.
const LIBRARIES: [(&str, &str); 9] = [
    ("libicu", "libicu72"),
    ("libxml2", "libxml2"),
    ("libgssapi_krb5", "libgssapi-krb5-2"),
    ("liblz4", "liblz4-1"),
    ("libssl", "libssl3"),
    ("libcrypto", "libssl3"),
    ("libreadline", "libreadline8"),
    ("libzstd", "libzstd1"),
    ("libcurl", "libcurl4"),
];

/// Tools without which nothing can be fetched or started; `more` are packages and programs of the
/// same name.
pub(crate) fn tools(more: &[&'static str]) -> Result<()> {
    let works = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut missing = Vec::new();
    if !works("python3", &["--version"]) {
        missing.push("python3");
    }
    if !works("python3", &["-m", "pip", "--version"]) {
        missing.push("python3-pip");
    }
    if !works("setpriv", &["--version"]) {
        missing.push("util-linux");
    }
    missing.extend(more.iter().filter(|program| !works(program, &["--version"])));
    install(&missing)
}

/// Libraries that the server's programs do not find; `own` are those that come with them.
pub(crate) fn libraries(server: &str, programs: &[PathBuf], own: Option<&Path>) -> Result<()> {
    let mut missing = BTreeSet::new();
    let mut unknown = BTreeSet::new();
    for program in programs {
        let mut ldd = Command::new("ldd");
        ldd.arg(program).envs(own.map(|folder| ("LD_LIBRARY_PATH", folder)));
        let output = ldd.output().context("cannot run ldd (package libc-bin)")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let absent = text.lines().filter(|line| line.contains("not found"));
        for name in absent.filter_map(|line| line.split_whitespace().next()) {
            match LIBRARIES.iter().find(|(start, _)| name.starts_with(start)) {
                Some((_, package)) => missing.insert((*package).to_owned()),
                None => unknown.insert(name.to_owned()),
            };
        }
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.into_iter().collect();
        bail!("{server} does not find the libraries {}", names.join(" "));
    }
    install(&missing.iter().map(String::as_str).collect::<Vec<_>>())
}

fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    bail!("packages are missing; as root: apt-get install {}", missing.join(" "))
}

/// `pitrd` and `pitr`, up to date. Run by hand, without cargo, the demo takes what is there.
pub(crate) fn programs(screen: &Screen) -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else {
        return check_programs();
    };
    let profile = tests::fetch::profile()?;
    let mut build = Command::new(cargo);
    build.args(["build", "--workspace", "--bins"]).arg("--target-dir").arg(tests::fetch::target()?);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let there = check_programs().is_ok();
    if there {
        build.arg("--quiet");
    } else {
        screen.line("building pitrd and pitr: some minutes, once");
    }
    let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
    let status = status.context("cannot run cargo")?;
    if !status.success() {
        bail!("pitrd and pitr cannot be built: see above");
    }
    check_programs()
}

fn check_programs() -> Result<()> {
    for name in ["pitrd", "pitr"] {
        tests::programs::program(name)?;
    }
    Ok(())
}
