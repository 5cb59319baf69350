//! Bases of what is large, of what changes while it is read, and with no more rights than are needed.

use std::sync::atomic::{AtomicBool, Ordering};

use ::mongodb::Client;
use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use proto::mongodb::base::Collection;
use tests::fetch;
use tests::mongod::{Load, ReplicaSet, blocking};
use tests::programs::{PitrdBuilder, pitr, wait_for_status};
use tests::scratch::Folder;
use tests::wait::Deadline;

use super::restored::{self, Taken};
use super::workload::Workload;
use super::{archived, moment, program};

pub(super) const KIB: usize = 1 << 10;

/// Documents of this many bytes, about.
pub(super) async fn fill(
    client: &Client,
    name: &str,
    ids: std::ops::Range<i32>,
    bytes: usize,
) -> Result<()> {
    let into = client.database("shop").collection::<Document>(name);
    let text = "z".repeat(bytes);
    let ids: Vec<i32> = ids.collect();
    for some in ids.chunks((8 << 20) / bytes) {
        let documents = some.iter().map(|id| doc! { "_id": id, "n": 0, "text": &text });
        into.insert_many(documents).await?;
    }
    Ok(())
}

/// Inserts, updates and deletes all over a collection, until what is done beside it ends. The last
/// write is waited for: one that was only dropped takes effect at any time.
async fn while_written<T>(
    client: &Client,
    name: &str,
    ids: i32,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let done = AtomicBool::new(false);
    let writes = async {
        let into = client.database("shop").collection::<Document>(name);
        for n in 0.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let id = n * 7919 % ids;
            into.update_one(doc! { "_id": id }, doc! { "$inc": { "n": 1 } }).await?;
            into.delete_one(doc! { "_id": id + 1 }).await?;
            into.insert_one(doc! { "_id": ids + n, "n": 0 }).await?;
        }
        anyhow::Ok(())
    };
    let work = async {
        let ended = work.await;
        done.store(true, Ordering::Relaxed);
        ended
    };
    let (ended, ()) = tokio::try_join!(work, writes)?;
    Ok(ended)
}

/// The role `root` may read no `system.views`, which a comparison does.
pub(super) fn may_compare(source: &ReplicaSet) -> Result<()> {
    let all = doc! { "resource": { "anyResource": true }, "actions": ["anyAction"] };
    source.run("admin", doc! { "createRole": "all", "privileges": [all], "roles": [] })?;
    source.run("admin", doc! { "grantRolesToUser": tests::mongod::ROOT, "roles": ["all"] })?;
    Ok(())
}

pub(super) fn of<'a>(taken: &'a Taken, name: &str) -> Result<&'a Collection> {
    taken.base.collections.iter().find(|found| found.name == name).context("the collection")
}

/// What the source has now, and the same restored.
pub(super) fn assert_restored(source: &ReplicaSet, taken: &Taken) -> Result<()> {
    let client = source.client()?;
    let until = blocking(moment::last_write(&client))?;
    let expected = blocking(moment::contents(&client, None))?;
    let log = restored::log(source.primary()?, &taken.base)?;
    let target = ReplicaSet::single()?;
    blocking(restored::restore(&target.client()?, taken, &log, until))?;
    let differences =
        moment::differences(&expected, &blocking(moment::contents(&target.client()?, None))?);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}

#[test]
fn a_large_collection_is_read_in_ranges_of_their_own_moments_and_restored_byte_equal() -> Result<()>
{
    let source = ReplicaSet::builder(1).oplog_mb(990).start()?;
    let client = source.client()?;
    const DOCUMENTS: i32 = 2_200;
    // More than 256 MiB.
    blocking(fill(&client, "large", 0..DOCUMENTS, 128 * KIB))?;
    let base = while_written(&client, "large", DOCUMENTS, restored::base(&client));
    let taken = blocking(base)?;
    let pieces = &of(&taken, "large")?.pieces;
    let bounds = pieces.windows(2).all(|pair| pair[0].max.is_some() && pair[0].max == pair[1].min);
    ensure!(pieces.len() > 1 && bounds, "{} pieces", pieces.len());
    let mut moments: Vec<_> = pieces.iter().map(|piece| piece.at).collect();
    moments.dedup();
    println!("{} pieces, of {} moments", pieces.len(), moments.len());
    assert_restored(&source, &taken)
}

#[test]
fn a_base_never_asks_for_more_than_a_few_megabytes_at_once() -> Result<()> {
    let source = ReplicaSet::single()?;
    let client = source.client()?;
    blocking(fill(&client, "long", 0..400, 128 * KIB))?;
    // The server notes how long each of its answers was.
    source.run("shop", doc! { "profile": 2 })?;
    let taken = blocking(restored::base(&client))?;
    source.run("shop", doc! { "profile": 0 })?;
    ensure!(!of(&taken, "long")?.pieces.is_empty());
    let reads = doc! { "op": { "$in": ["query", "getmore"] }, "ns": "shop.long" };
    let group = doc! { "_id": null, "most": { "$max": "$responseLength" }, "count": { "$sum": 1 } };
    let pipeline = vec![doc! { "$match": reads }, doc! { "$group": group }];
    let asked = doc! { "aggregate": "system.profile", "pipeline": pipeline, "cursor": {} };
    let answer = source.run("shop", asked)?;
    let found = answer.get_document("cursor")?.get_array("firstBatch")?.first().cloned();
    let found = found.as_ref().and_then(|found| found.as_document()).context("reads")?;
    let (most, count) = (found.get_i32("most")?, found.get_i32("count")?);
    println!("{count} answers, the longest of {most} bytes");
    ensure!(count > 10 && most < 4 << 20, "{count} answers, the longest of {most} bytes");
    Ok(())
}

#[test]
fn a_snapshot_that_is_too_old_costs_what_was_not_read_yet_and_not_the_base() -> Result<()> {
    let source = ReplicaSet::builder(1).test_commands().start()?;
    let client = source.client()?;
    blocking(fill(&client, "long", 0..400, 64 * KIB))?;
    // The first and the second getMore of it find their snapshot gone (239, SnapshotTooOld).
    let fail = doc! {
        "configureFailPoint": "failCommand",
        "mode": { "times": 2 },
        "data": { "errorCode": 239, "failCommands": ["getMore"], "namespace": "shop.long" },
    };
    source.run("admin", fail)?;
    let base = while_written(&client, "long", 400, restored::base(&client));
    let taken = blocking(base)?;
    let pieces = &of(&taken, "long")?.pieces;
    // Read as it lies, it is begun again; in the order of `_id`, it goes on behind what was read.
    let [first, second] = &pieces[..] else { anyhow::bail!("{} pieces", pieces.len()) };
    ensure!(first.max.is_some() && first.max == second.min && first.at < second.at, "{pieces:?}");
    assert_restored(&source, &taken)
}

#[test]
fn a_server_that_keeps_no_history_gives_a_base_nevertheless() -> Result<()> {
    let none = ("minSnapshotHistoryWindowInSeconds", "0");
    let source = ReplicaSet::builder(1).oplog_mb(990).parameter(none.0, none.1).start()?;
    let client = source.client()?;
    const DOCUMENTS: i32 = 1_200;
    blocking(fill(&client, "long", 0..DOCUMENTS, 128 * KIB))?;
    let base = while_written(&client, "long", DOCUMENTS, restored::base(&client));
    let taken = blocking(base)?;
    let mut moments: Vec<_> = of(&taken, "long")?.pieces.iter().map(|piece| piece.at).collect();
    moments.dedup();
    println!("{} pieces, of {} moments", of(&taken, "long")?.pieces.len(), moments.len());
    ensure!(moments.len() > 1, "its snapshot was never gone");
    assert_restored(&source, &taken)
}

#[test]
fn the_role_backup_alone_protects_a_set_base_included() -> Result<()> {
    let source = ReplicaSet::builder(1).auth().oplog_mb(990).start()?;
    source.create_user("sidecar", "of-its-own", &["backup"])?;
    may_compare(&source)?;
    let url = source.url_of(Some(("sidecar", "of-its-own")));
    let work = Workload { client: source.client()? };
    blocking(work.begin())?;
    let folder = Folder::new("mongodb-least")?;
    let archive = folder.path().join("archive").display().to_string();
    let with = [("PITR_SOURCE".to_owned(), url.clone())];
    let check = tests::programs::run("pitrd", &["check", "--archive", &archive], &with)?.ok()?;
    ensure!(!check.stdout.contains("FAIL"), "{}", check.stdout);
    let load = Load::start(&source, 1)?;
    blocking(work.run_ring())?;
    let mut sidecar = PitrdBuilder::default()
        .args(["run", "--archive", &archive])
        .env("PITR_SOURCE", &url)
        .start()?;
    // Collections come, are renamed and go while it is read.
    blocking(work.churn(60))?;
    wait_for_status(&archive, &[], "a base", &Deadline::seconds(300), |status| {
        status["bases"].as_array().is_some_and(|bases| !bases.is_empty())
    })?;
    ensure!(sidecar.is_running(), "{}", sidecar.log());
    blocking(async {
        work.documents().await?;
        work.names().await
    })?;
    load.stop();
    let last = blocking(moment::last_write(&work.client))?;
    let expected = blocking(moment::contents(&work.client, None))?;
    let at = archived::text(last);
    tests::wait::until(&Deadline::seconds(120), "the moment in the archive", || {
        let plan = pitr(&["plan", "--archive", &archive, "--at", &at])?;
        Ok((plan.code == Some(0)).then_some(()))
    })?;
    ensure!(sidecar.sigterm(&Deadline::seconds(60))?.success(), "{}", sidecar.log());
    let into = folder.path().join("data").display().to_string();
    let mongod = fetch::mongod::usual()?.display().to_string();
    let restore = ["restore", "--archive", &archive, "--at", &at, "--into", &into];
    pitr(&[&restore[..], &["--mongod", &mongod]].concat())?.ok()?;
    let differences = moment::differences(&expected, &program::of_folder(&into)?);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}

#[test]
fn a_transaction_prepared_before_the_first_start_is_replayed_from_its_beginning() -> Result<()> {
    let source = ReplicaSet::builder(1).test_commands().start()?;
    let client = source.client()?;
    let inserted = |id: &str| doc! { "insert": "a", "documents": [{ "_id": id }] };
    source.run("shop", inserted("first"))?;
    let admin = client.database("admin");
    let mut session = blocking(async {
        let mut session = client.start_session().await?;
        session.start_transaction().await?;
        let into = client.database("shop").collection::<Document>("a");
        into.insert_one(doc! { "_id": "prepared" }).session(&mut session).await?;
        let first = doc! { "_id": "first" };
        into.update_one(first, doc! { "$set": { "n": 1 } }).session(&mut session).await?;
        let prepare = doc! { "prepareTransaction": 1, "writeConcern": { "w": "majority" } };
        admin.run_command(prepare).session(&mut session).await?;
        Ok::<_, anyhow::Error>(session)
    })?;
    for n in 0..20 {
        source.run("shop", inserted(&format!("between {n}")))?;
    }
    let folder = Folder::new("mongodb-prepared")?;
    let archive = folder.path().join("archive").display().to_string();
    let mut sidecar = tests::programs::Pitrd::builder(&source.url(), &archive).start()?;
    // A snapshot behind it waits for its end: the base has begun, and something of it is there.
    sidecar.wait("a base that waits", &Deadline::seconds(120), |_| {
        let listed = pitr(&["list", "--archive", &archive, "--json"])?.json().ok();
        let begun = |listed: serde_json::Value| listed["unfinished"].as_array().map(Vec::len);
        Ok(listed.and_then(begun).is_some_and(|begun| begun > 0))
    })?;
    let effect = source.run("shop", inserted("effect"))?.get_timestamp("operationTime")?;
    let before = source.run("shop", inserted("still open"))?.get_timestamp("operationTime")?;
    blocking(async {
        let commit = doc! { "commitTransaction": 1, "commitTimestamp": effect };
        admin.run_command(commit).session(&mut session).await
    })?;
    wait_for_status(&archive, &[], "a base", &Deadline::seconds(300), |status| {
        status["bases"].as_array().is_some_and(|bases| !bases.is_empty())
    })?;
    source.run("shop", inserted("last"))?;
    let last = blocking(moment::last_write(&client))?;
    let expected = blocking(moment::contents(&client, None))?;
    let held = expected.collections["shop.a"].documents.len();
    ensure!(held == 25, "{held} documents");
    let at = archived::text(last);
    tests::wait::until(&Deadline::seconds(120), "the moment in the archive", || {
        let plan = pitr(&["plan", "--archive", &archive, "--at", &at])?;
        Ok((plan.code == Some(0)).then_some(()))
    })?;
    let status = pitr(&["status", "--archive", &archive, "--json"])?.ok()?.json()?;
    let start = status["bases"][0]["start"].as_str().context("a start")?;
    let start: proto::mongodb::OplogTs = start.parse()?;
    println!("the log is replayed from {start} on, and was open at {before:?}");
    ensure!(start < effect.into(), "{start}: the transaction began before");
    let into = folder.path().join("data").display().to_string();
    let mongod = fetch::mongod::usual()?.display().to_string();
    let restore = ["restore", "--archive", &archive, "--at", &at, "--into", &into];
    pitr(&[&restore[..], &["--mongod", &mongod]].concat())?.ok()?;
    let differences = moment::differences(&expected, &program::of_folder(&into)?);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}
