//! Archives that are another's, newer than the program, or none.

use std::path::Path;

use anyhow::{Context, Result};
use proto::archive::identity::{FORMAT_VERSION, Identity};
use proto::segment::Engine;
use proto::timestamp::Timestamp;
use tests::postgres::Cluster;
use tests::scope;
use tests::scratch::Folder;

use super::refused::{Attempt, nothing_is_left, pitr};

const CONFIG: i32 = 3;
const WRONG_CLUSTER: i32 = 6;

fn identity(archive: &Path, change: impl FnOnce(&mut serde_json::Value)) -> Result<()> {
    let identity = Identity {
        format: FORMAT_VERSION,
        engine: Engine::Postgresql,
        cluster: "42".to_owned(),
        created: Timestamp(0),
        postgres: None,
        mongodb: None,
    };
    let mut json: serde_json::Value = serde_json::from_slice(&identity.encode())?;
    change(&mut json);
    let folder = archive.join("lineage/1");
    std::fs::create_dir_all(&folder)?;
    Ok(std::fs::write(folder.join("identity.json"), serde_json::to_vec(&json)?)?)
}

#[test]
fn an_archive_that_is_not_there_is_not_made_by_looking() -> Result<()> {
    let folder = Folder::new("absent")?;
    let path = folder.path().join("archive");
    let archive = path.display().to_string();
    for command in ["status", "list", "verify"] {
        let attempt = pitr(&[command, "--archive", &archive]);
        attempt.is_refused("PITR-C004", CONFIG, &["no archive at", &archive, "pitrd run"])?;
    }
    anyhow::ensure!(!path.exists(), "{archive} was made");
    std::fs::write(&path, "no folder")?;
    let attempt = pitr(&["status", "--archive", &archive]);
    attempt.is_refused("PITR-C003", CONFIG, &[&archive, "not a folder"])
}

#[test]
fn an_archive_of_another_cluster_or_engine_is_left_alone() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("other")?;
    let (path, spool) = (folder.path().join("archive"), folder.path().join("spool"));
    let archive = path.display().to_string();
    let once = Attempt::once(&cluster.replication_url(), &archive, &spool);

    std::fs::write(&path, "no folder")?;
    once.is_refused("PITRD-C003", CONFIG, &[&archive, "not a folder"])?;
    std::fs::remove_file(&path)?;

    identity(&path, |json| json["engine"] = "mongodb".into())?;
    let file = path.join("lineage/1/identity.json");
    let before = std::fs::read(&file)?;
    once.is_refused("PITRD-W001", WRONG_CLUSTER, &["42 (mongodb)", "--archive of its own"])?;
    let status = pitr(&["status", "--archive", &archive]);
    status.is_refused("PITR-W001", WRONG_CLUSTER, &["mongodb"])?;

    identity(&path, |json| {
        json["postgres"] = serde_json::json!({
            "segment_bytes": 16 << 20, "version_num": 180_000, "first": "0/1000000",
            "first_timeline": 1,
        });
    })?;
    let own = cluster.system_identifier()?.to_string();
    once.is_refused("PITRD-W001", WRONG_CLUSTER, &["cluster 42", &own, "--new-lineage"])?;

    identity(&path, |json| {
        json["format"] = (FORMAT_VERSION + 1).into();
        json["engine"] = "redis".into();
    })?;
    once.is_refused("PITRD-C011", CONFIG, &["format 2", "up to 1", "at least as new"])?;
    let status = pitr(&["status", "--archive", &archive]);
    status.is_refused("PITR-C005", CONFIG, &["format 2", "at least as new"])?;

    let after = std::fs::read(&file).context("the identity is still there")?;
    anyhow::ensure!(before != after, "the test itself writes it");
    std::fs::remove_file(&file)?;
    nothing_is_left(Some(&cluster), &path)
}
