//! Stores that refuse, prove nothing, or are away.

use anyhow::{Context, Result, ensure};
use tests::ports::Port;
use tests::postgres::Cluster;
use tests::programs::Pitrd;
use tests::scope;
use tests::scratch::Folder;
use tests::seaweed::{BUCKET, Identity, Seaweed};
use tests::wait::Deadline;

use super::refused::{Attempt, nothing_is_left, pitr};

const CONFIG: i32 = 3;
const UNREACHABLE: i32 = 8;

#[test]
fn a_bucket_that_is_not_ours_is_refused_and_left_alone() -> Result<()> {
    let seaweed = Seaweed::shared()?;
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("bucket")?;
    let spool = folder.path().join("spool");
    let once = |bucket: &str, who: Identity| {
        let url = seaweed.url(bucket, "refused");
        Attempt::once(&cluster.replication_url(), &url, &spool).envs(who.environment())
    };
    let wrong = once("no-such-bucket", Identity::Writer);
    wrong.is_refused("PITRD-C003", CONFIG, &["no-such-bucket", "--archive"])?;
    let says = ["AccessDenied", "credentials"];
    once(BUCKET, Identity::Reader).is_refused("PITRD-C003", CONFIG, &says)?;
    let stranger = once(BUCKET, Identity::Stranger);
    stranger.is_refused("PITRD-C003", CONFIG, &["InvalidAccessKeyId", "credentials"])?;
    let wrong_secret = once(BUCKET, Identity::Writer).env("AWS_SECRET_ACCESS_KEY", "hush");
    wrong_secret.is_refused("PITRD-C003", CONFIG, &["SignatureDoesNotMatch"])?;
    wrong_secret.never_says("hush")?;
    nothing_is_left(Some(&cluster), folder.path().join("archive").as_path())?;
    let keys = seaweed.keys(BUCKET, "refused")?;
    ensure!(keys.is_empty(), "objects are left: {keys:?}");

    let look = |bucket: &str, who: Identity| {
        let url = seaweed.url(bucket, "refused");
        pitr(&["status", "--archive", &url]).envs(who.environment())
    };
    look(BUCKET, Identity::Reader).is_refused("PITR-C004", CONFIG, &["no archive at"])?;
    look(BUCKET, Identity::Stranger).is_refused("PITR-C003", CONFIG, &["InvalidAccessKeyId"])?;
    look("no-such-bucket", Identity::Reader).is_refused("PITR-C003", CONFIG, &["no-such-bucket"])
}

#[test]
fn a_store_that_is_away_ends_once_and_is_waited_for_by_run() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("away")?;
    let port = Port::take()?;
    let endpoint = format!("http%3A%2F%2F127.0.0.1%3A{}", port.number());
    let archive = format!("s3://bucket/away?endpoint={endpoint}&region=us-east-1&path-style=true");
    let environment = Identity::Writer.environment();
    let once = Attempt::once(&cluster.replication_url(), &archive, &folder.path().join("spool"));
    let says = ["127.0.0.1", "can be reached"];
    once.envs(environment.clone()).is_refused("PITRD-S002", UNREACHABLE, &says)?;
    let look = pitr(&["status", "--archive", &archive]).envs(environment.clone());
    look.is_refused("PITR-S001", UNREACHABLE, &["nothing was changed"])?;

    let mut pitrd =
        Pitrd::builder(&cluster.replication_url(), &archive).envs(environment).start()?;
    pitrd.wait_for_log("PITRD-S002", &Deadline::seconds(60))?;
    let status = pitrd.sigterm(&Deadline::seconds(60))?;
    ensure!(status.code() == Some(0), "{status}: {}", pitrd.log());
    nothing_is_left(Some(&cluster), folder.path().join("archive").as_path())
}

#[test]
fn the_folder_of_an_archive_must_be_writable_by_who_writes_it() -> Result<()> {
    let Some(user) = tests::user::server_user() else { return Ok(()) };
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let folder = Folder::new("rights")?;
    let spool = folder.sub("spool")?;
    let archive = folder.path().join("archive");
    std::fs::create_dir(&archive)?;
    let program = tests::programs::program("pitrd")?;
    let mut command = tests::process::command(program, Some(user), tests::process::Death::Kill);
    command.args(["run", "--once", "--source", &cluster.replication_url(), "--archive"]);
    command.arg(&archive).arg("--spool").arg(&spool);
    let output = command.output().context("pitrd")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(CONFIG), "{}: {said}", output.status);
    ensure!(said.contains("error PITRD-C003: ") && said.contains("ermission denied"), "{said}");
    nothing_is_left(Some(&cluster), &archive)
}
