//! `cargo demo` and `cargo demo mongodb` on the programs that are built: the whole story, and an end
//! in the middle of it.

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

/// The whole story; `said` is its last word on what is back.
fn told_to_its_end(arguments: &[&str], back: &str) -> Result<()> {
    let temp = temp()?;
    let output = demo(temp.path()).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    assert!(said.contains(back));
    assert!(!said.contains('\u{1b}'), "no colours where nobody watches");
    assert_eq!(left_in(temp.path())?, Vec::<String>::new());
    Ok(())
}

/// A Ctrl-C once it has said this, and a process with this name has started one of its own.
fn interrupted_at(arguments: &[&str], step: &str, busy: &str) -> Result<()> {
    let temp = temp()?;
    let log = temp.path().join("log");
    let mut child =
        demo(temp.path()).args(arguments).stdout(std::fs::File::create(&log)?).spawn()?;
    let deadline = Deadline::seconds(300);
    let servers = until(&deadline, step, || {
        let mut running = process::children_of(child.id());
        let mut found = false;
        for pid in running.clone() {
            let pid = u32::try_from(pid.as_raw_nonzero().get())?;
            let own = process::children_of(pid);
            found |= !own.is_empty() && name_of(pid) == busy;
            running.extend(own);
        }
        let said = std::fs::read_to_string(&log)?;
        Ok((said.contains(step) && found).then_some(running))
    })?;
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

fn name_of(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

#[test]
fn the_demo_brings_every_row_back_and_leaves_nothing_behind() -> Result<()> {
    told_to_its_end(&[], "every row is back")
}

#[test]
fn the_demo_of_mongodb_brings_every_document_back_and_leaves_nothing_behind() -> Result<()> {
    told_to_its_end(&["mongodb"], "every document is back")
}

#[test]
fn a_demo_that_is_interrupted_takes_its_servers_and_folders_with_it() -> Result<()> {
    interrupted_at(&[], "Load it", "postgres")
}

#[test]
fn a_demo_of_mongodb_that_is_interrupted_takes_its_servers_and_folders_with_it() -> Result<()> {
    // The restore has a server of its own.
    interrupted_at(&["mongodb"], "$ pitr restore", "pitr")
}

#[test]
fn a_demo_of_something_else_says_what_there_is() -> Result<()> {
    let temp = temp()?;
    for arguments in [&["foo"][..], &["mongodb", "mongodb"], &["--kept"]] {
        let output = demo(temp.path()).args(arguments).output()?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("postgresql and mongodb"), "{said}");
    }
    Ok(())
}
