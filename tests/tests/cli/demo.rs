//! `cargo demo` on the programs that are built: the whole story, and an end in the middle of it.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use tests::process::{self, Signal};
use tests::wait::{Deadline, until};

/// Without cargo, which holds its lock while tests run, it takes the programs that are there.
fn demo(temp: &std::path::Path) -> Command {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.env_remove("CARGO").env("TMPDIR", temp).stdin(Stdio::null());
    demo
}

/// A temp folder of its own: what is left behind is seen.
fn temp() -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("demo-").tempdir_in(tests::scratch::temp())?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open)?;
    Ok(folder)
}

/// Folders of runs; what is kept for the next one (servers, locks of ports) is no such thing.
fn left_in(temp: &std::path::Path) -> Result<Vec<String>> {
    let names = std::fs::read_dir(temp)?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<std::io::Result<_>>()?;
    let names = names.iter().map(|name| name.to_string_lossy().into_owned());
    let kept = |name: &String| name.starts_with("pitr-ports-") || name.starts_with("pitr-servers-");
    Ok(names.filter(|name| !kept(name)).collect())
}

#[test]
fn the_demo_brings_every_row_back_and_leaves_nothing_behind() -> Result<()> {
    let temp = temp()?;
    let output = demo(temp.path()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    assert!(said.contains("every row is back"));
    assert!(!said.contains('\u{1b}'), "no colours where nobody watches");
    assert_eq!(left_in(temp.path())?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_demo_that_is_interrupted_takes_its_servers_and_folders_with_it() -> Result<()> {
    let temp = temp()?;
    let log = temp.path().join("log");
    let mut child = demo(temp.path()).stdout(std::fs::File::create(&log)?).spawn()?;
    let deadline = Deadline::seconds(300);
    until(&deadline, "the demo loads its server", || {
        let said = std::fs::read_to_string(&log)?;
        Ok(said.contains("Load it").then_some(()))
    })?;
    let servers = process::children_of(child.id());
    assert!(servers.len() >= 2, "a server and a sidecar run");
    process::signal(&child, Signal::INT)?;
    let status = process::wait_for(&mut child, "the demo", &deadline)?;
    assert_eq!(status.code(), Some(130));
    for pid in servers {
        assert!(!process::is_alive(pid.as_raw_nonzero().get()), "{pid:?} still runs");
    }
    std::fs::remove_file(&log).context("its own log")?;
    assert_eq!(left_in(temp.path())?, Vec::<String>::new());
    Ok(())
}
