//! Bases of what is large, of what changes while it is read, and with no more rights than are needed.

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

const KIB: usize = 1 << 10;

/// Documents of this many bytes, about.
async fn fill(client: &Client, name: &str, ids: std::ops::Range<i32>, bytes: usize) -> Result<()> {
    let into = client.database("shop").collection::<Document>(name);
    let text = "z".repeat(bytes);
    let ids: Vec<i32> = ids.collect();
    for some in ids.chunks((8 << 20) / bytes) {
        let documents = some.iter().map(|id| doc! { "_id": id, "n": 0, "text": &text });
        into.insert_many(documents).await?;
    }
    Ok(())
}

/// Inserts, updates and deletes all over a collection, until what is done beside it ends.
async fn while_written<T>(
    client: &Client,
    name: &str,
    ids: i32,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let writes = async {
        let into = client.database("shop").collection::<Document>(name);
        for n in 0.. {
            let id = n * 7919 % ids;
            into.update_one(doc! { "_id": id }, doc! { "$inc": { "n": 1 } }).await?;
            into.delete_one(doc! { "_id": id + 1 }).await?;
            into.insert_one(doc! { "_id": ids + n, "new": true }).await?;
        }
        Ok::<(), anyhow::Error>(())
    };
    tokio::select! {
        done = work => done,
        failed = writes => failed.and_then(|()| anyhow::bail!("the writer has ended")),
    }
}

fn of<'a>(taken: &'a Taken, name: &str) -> Result<&'a Collection> {
    taken.base.collections.iter().find(|found| found.name == name).context("the collection")
}

/// What the source has now, and the same restored.
fn assert_restored(source: &ReplicaSet, taken: &Taken) -> Result<()> {
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
    let mongod = fetch::mongod()?.display().to_string();
    let restore = ["restore", "--archive", &archive, "--at", &at, "--into", &into];
    pitr(&[&restore[..], &["--mongod", &mongod]].concat())?.ok()?;
    let differences = moment::differences(&expected, &program::of_folder(&into)?);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}

#[test]
fn who_may_not_read_by_uuid_takes_a_base_by_name_while_names_change() -> Result<()> {
    let source = ReplicaSet::builder(1).auth().oplog_mb(990).start()?;
    let client = source.client()?;
    let privileges = vec![
        doc! { "resource": { "cluster": true }, "actions": ["getParameter", "listDatabases"] },
        doc! { "resource": { "db": "admin", "collection": "system.users" }, "actions": ["find"] },
        doc! { "resource": { "db": "admin", "collection": "system.roles" }, "actions": ["find"] },
        doc! { "resource": { "db": "admin", "collection": "system.version" }, "actions": ["find"] },
    ];
    source.run("admin", doc! { "createRole": "few", "privileges": privileges, "roles": [] })?;
    let read = |db: &str| doc! { "role": "read", "db": db };
    let roles = [doc! { "role": "few", "db": "admin" }, doc! { "role": "readAnyDatabase", "db": "admin" }];
    let roles = [&roles[..], &[read("local"), read("config")]].concat();
    source.run("admin", doc! { "createUser": "reader", "pwd": "of-its-own", "roles": roles })?;
    let user = Some(("reader", "of-its-own"));
    source.run("shop", doc! { "create": "a", "validator": { "n": { "$gte": 0 } } })?;
    source.run("shop", doc! { "create": "cheap", "viewOn": "a", "pipeline": [] })?;
    blocking(fill(&client, "a", 0..300, 16 * KIB))?;
    let listed = source.run("shop", doc! { "listCollections": 1, "filter": { "name": "a" } })?;
    let first = listed.get_document("cursor")?.get_array("firstBatch")?[0].clone();
    let first = first.as_document().context("a collection")?;
    let uuid = first.get_document("info")?.get("uuid").cloned().context("a UUID")?;
    let by_uuid = source.primary()?.run_as(user, "shop", doc! { "find": uuid, "limit": 1 });
    let refused = format!("{:#}", by_uuid.err().context("it may read by UUID")?);
    ensure!(refused.contains("not authorized") || refused.contains("Unauthorized"), "{refused}");
    let work = Workload { client: source.client()? };
    let taken = blocking(async {
        work.run_ring().await?;
        let reader = Client::with_uri_str(source.primary()?.url_of(user)).await?;
        let base = while_written(&client, "a", 300, restored::base(&reader));
        let (taken, churned) = tokio::join!(base, work.churn(40));
        churned?;
        taken
    })?;
    ensure!(of(&taken, "a")?.pieces.iter().flat_map(|piece| &piece.objects).count() > 0);
    assert_restored(&source, &taken)
}
