//! The two commands: `pitrd run` protects a replica set, `pitr restore` brings a moment of it back.

use anyhow::{Context, Result, ensure};
use tests::fetch;
use tests::mongod::{Load, blocking};
use tests::programs::{Pitrd, pitr, pitrd};
use tests::scratch::Folder;
use tests::wait::{self, Deadline};

use super::workload::{self, Workload};
use super::{archived, moment, program};

#[test]
fn a_protected_replica_set_is_restored_to_a_moment_while_it_is_written() -> Result<()> {
    let source = workload::source(1)?;
    let work = Workload { client: source.client()? };
    blocking(work.begin())?;
    let load = Load::start(&source, 1)?;
    let folder = Folder::new("mongodb-protected")?;
    let archive = folder.path().join("archive").display().to_string();
    let mut sidecar = Pitrd::builder(&source.url(), &archive).start()?;
    let status = wait::until(&Deadline::seconds(300), "a base", || {
        ensure!(sidecar.is_running(), "{}", sidecar.log());
        // A base does not wait for a moment in which nobody writes.
        ensure!(load.written().failed == 0, "the load has ended");
        let status = pitr(&["status", "--archive", &archive, "--json"])?;
        let status = status.json().ok();
        Ok(status.filter(|status| status["bases"].as_array().is_some_and(|all| !all.is_empty())))
    })?;
    ensure!(status["engine"] == "mongodb" && status["protected"] == true, "{status}");
    blocking(async {
        work.documents().await?;
        work.catalog().await?;
        work.transactions().await
    })?;
    pitrd(&["point", "before the release", "--source", &source.url()])?.ok()?;
    let (named, last) = blocking(async {
        let named = moment::last_write(&work.client).await?;
        work.names().await?;
        work.users().await?;
        Ok::<_, anyhow::Error>((named, moment::last_write(&work.client).await?))
    })?;
    let expected = blocking(moment::contents(&work.client, Some(last)))?;
    drop(load);
    let at = archived::text(last);
    let plan = wait::until(&Deadline::seconds(120), "the moment in the archive", || {
        let plan = pitr(&["plan", "--archive", &archive, "--at", &at, "--json"])?;
        Ok((plan.code == Some(0)).then_some(plan))
    })?;
    ensure!(plan.json()?["target"]["until"] == at.as_str(), "{}", plan.stdout);
    let by_name = ["plan", "--archive", &archive, "--at-name", "before the release", "--json"];
    let by_name = pitr(&by_name)?.ok()?.json()?;
    let until = by_name["target"]["until"].as_str().context("a timestamp")?;
    ensure!(until.parse::<proto::mongodb::OplogTs>()? < named.into(), "{by_name}");
    pitr(&["verify", "--archive", &archive, "--read-data"])?.ok()?;

    let mongod = fetch::mongod::usual()?.display().to_string();
    let into = folder.path().join("restored").display().to_string();
    let restore = ["restore", "--archive", &archive, "--at", &at, "--into", &into];
    pitr(&[&restore[..], &["--mongod", &mongod]].concat())?.ok()?;
    let found = program::of_folder(&into)?;
    let differences = moment::differences(&expected, &found);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
