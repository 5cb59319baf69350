//! `pitr` on an archive of MongoDB: into a folder, and into a replica set that runs.

use anyhow::{Context, Result, ensure};
use bson::doc;
use tests::fetch;
use tests::mongod::{Node, ReplicaSet, blocking};
use tests::programs::pitr;
use tests::scratch::Folder;

use super::workload::{self, Workload};
use super::{archived, moment, restored};

#[test]
fn a_folder_and_a_set_that_runs_are_restored_to_a_name_a_timestamp_and_a_time() -> Result<()> {
    let source = workload::source(1)?;
    let work = Workload { client: source.client()? };
    blocking(work.begin())?;
    let taken = blocking(restored::base(&work.client))?;
    blocking(work.documents())?;
    let note = doc! { "appendOplogNote": 1, "data": { "msg": "before the release" } };
    source.run("admin", note)?;
    let named = blocking(moment::last_write(&work.client))?;
    let at_name = blocking(moment::contents(&work.client, Some(named)))?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    blocking(async {
        work.transactions().await?;
        work.users().await
    })?;
    let last = blocking(moment::last_write(&work.client))?;
    let at_last = blocking(moment::contents(&work.client, Some(last)))?;
    let log = restored::log(source.primary()?, &taken.base)?;
    let archive = blocking(archived::archive(&taken, &log))?;
    let mongod = fetch::mongod::usual()?.display().to_string();

    let listed = pitr(&["list", "--archive", &archive, "--json"])?.ok()?.json()?;
    ensure!(listed["engine"] == "mongodb" && listed["bases"][0]["id"] == "one", "{listed}");
    let status = pitr(&["status", "--archive", &archive, "--json"])?.ok()?.json()?;
    let stop = taken.base.stop.to_string();
    ensure!(status["windows"][0]["from_ts"] == stop.as_str(), "{status}");
    ensure!(
        status["bases"][0]["stop"] == stop.as_str() && status["engine"] == "mongodb",
        "{status}"
    );
    ensure!(status["gaps"].as_array().is_some_and(Vec::is_empty), "{status}");
    let told = pitr(&["status", "--archive", &archive])?.ok()?.stdout;
    ensure!(told.contains("PROTECTED") && told.contains("restorable until"), "{told}");
    pitr(&["status", "--archive", &archive, "--fail-if-lag", "1ms"])?.code_is(11)?;
    let at = archived::text(last);
    let plan = pitr(&["plan", "--archive", &archive, "--at", &at, "--json"])?.ok()?.json()?;
    ensure!(plan["target"]["until"] == at.as_str(), "{plan}");
    ensure!(plan["segments"].as_array().is_some_and(|all| all.len() > 2), "{plan}");

    // By the name, into a folder.
    let folder = Folder::new("mongodb-restored")?;
    let into = folder.path().join("data").display().to_string();
    let restore = |target: &[&str]| {
        let mut words = vec!["restore", "--archive", &archive];
        words.extend_from_slice(target);
        pitr(&words)
    };
    let by_name = ["--at-name", "before the release", "--into", &into, "--mongod", &mongod];
    restore(&by_name)?.ok()?;
    let found = of_folder(&into)?;
    let differences = moment::differences(&at_name, &found);
    ensure!(differences.is_empty(), "{differences}");
    restore(&by_name)?.code_is(4)?;

    // By the timestamp, into a set that runs.
    let target = ReplicaSet::builder(1).start()?;
    let url = target.primary()?.url();
    restore(&["--at", &format!("Timestamp({at})"), "--into", &url])?.ok()?;
    let found = blocking(moment::contents(&target.client()?, None))?;
    let differences = moment::differences(&at_last, &found);
    ensure!(differences.is_empty(), "{differences}");
    let refused = restore(&["--latest", "--into", &url])?.code_is(4)?;
    ensure!(refused.stderr.contains("not empty"), "{}", refused.stderr);

    // Times, and what is refused.
    let plan = |text: &str| pitr(&["plan", "--archive", &archive, "--at", text, "--json"]);
    let between = proto::timestamp::Timestamp((i64::from(named.time) * 1000 + 1900) * 1000);
    let by_time = plan(&format!("ISODate(\"{between}\")"))?.ok()?.json()?;
    let until = by_time["target"]["until"].as_str().context("a timestamp")?;
    let until: proto::mongodb::OplogTs = until.parse()?;
    ensure!(until >= named.into() && until < last.into(), "{by_time}");
    plan("2001-01-01T00:00:00Z")?.code_is(10)?;
    plan("2097-01-01T00:00:00Z")?.code_is(10)?;
    plan("2026-01-01 00:00")?.code_is(2)?;
    pitr(&["plan", "--archive", &archive, "--at-name", "nobody wrote this"])?.code_is(10)?;
    pitr(&["plan", "--archive", &archive, "--at-lsn", "0/1"])?.code_is(2)?;
    damaged(&archive, &at)
}

/// What is damaged or missing is found, and nothing is restored across it.
fn damaged(archive: &str, at: &str) -> Result<()> {
    let verify = |more: &[&str]| {
        let output = pitr(&[&["verify", "--archive", archive, "--json"][..], more].concat())?;
        let findings = output.json()?["findings"].as_array().map_or(0, Vec::len);
        Ok::<_, anyhow::Error>((output.code, findings))
    };
    ensure!(verify(&["--read-data"])? == (Some(0), 0), "a whole archive has findings");
    let files = |below: &str| -> Result<Vec<std::path::PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![std::path::Path::new(archive).join("lineage/1").join(below)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        Ok(found)
    };
    let object = files("base")?.into_iter().find(|path| !path.ends_with("complete.json"));
    let object = object.context("a base has objects")?;
    let mut bytes = std::fs::read(&object)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    std::fs::remove_file(&object)?;
    std::fs::write(&object, bytes)?;
    ensure!(verify(&["--read-data"])? == (Some(9), 1), "a flipped bit was not found");
    let segments = files("log")?;
    std::fs::remove_file(&segments[segments.len() / 2])?;
    ensure!(verify(&[])? == (Some(9), 1), "a missing segment was not found");
    pitr(&["plan", "--archive", archive, "--at", at])?.code_is(10)?;
    Ok(())
}

/// What a server shows that is started in a restored folder, of no set.
pub(crate) fn of_folder(folder: &str) -> Result<moment::Contents> {
    let server = Node::open(std::path::Path::new(folder))?;
    server.start()?;
    blocking(moment::contents(&server.client()?, None))
}
