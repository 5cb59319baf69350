//! A restore into a folder that is killed between its last steps.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::fetch;
use tests::programs::pitr;
use tests::scratch::Folder;
use tests::user;

use super::rights::an_archive;
use super::{moment, program};

/// Without its progress the server in the folder does not tell that all of it is there.
#[test]
fn a_restore_that_is_killed_in_its_last_steps_is_ended_by_the_same_command() -> Result<()> {
    let (archive, expected, _taken) = an_archive()?;
    let folder = Folder::new("mongodb-ended")?;
    let into = folder.path().join("data").display().to_string();
    let mongod = fetch::mongod::usual()?.display().to_string();
    let mut restore = vec!["restore", "--archive", &archive, "--latest", "--into", &into];
    restore.extend(["--mongod", &mongod, "--json"]);
    if let Some(user) = user::run_as() {
        restore.extend(["--run-as", user]);
    }
    let report = pitr(&restore)?.ok()?;
    // The folder as it is when the progress has gone, and nothing behind that is done.
    let work = Path::new(&into).join(".pitr");
    let told = report.json()?;
    let text = |key: &str| told[key].as_str().context("a report").map(str::to_owned);
    let what = format!("{archive} lineage 1 base {} up to {}", text("base")?, text("at")?);
    std::fs::write(work.join("restoring"), &what)?;
    let refused = pitr(&restore)?.code_is(4)?;
    ensure!(refused.stderr.contains("not empty"), "{}", refused.stderr);
    std::fs::write(work.join("whole"), serde_json::to_vec(&told)?)?;

    let again = pitr(&restore)?.ok()?.json()?;
    ensure!(again["operations"] == told["operations"] && again["at"] == told["at"], "{again}");
    ensure!(!work.join("restoring").exists() && !work.join("whole").exists(), "notes are left");
    let differences = moment::differences(&expected, &program::of_folder(&into)?);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
