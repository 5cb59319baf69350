//! A base by a user who may read every collection, but none by its UUID (the action `useUUID`).

use std::time::Duration;

use ::mongodb::Client;
use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use tests::mongod::{ReplicaSet, blocking};

use super::bases::{KIB, assert_restored, fill, may_compare, of};
use super::restored;

/// The rights of a base, without the one.
const ACTIONS: [&str; 6] =
    ["find", "listCollections", "listIndexes", "collStats", "dbStats", "listDatabases"];
const DOCUMENTS: i32 = 300;
/// The server holds a read back for so long: time enough to rename what it reads.
const HELD: Duration = Duration::from_secs(10);

/// A client of such a user.
fn reader(source: &ReplicaSet) -> Result<Client> {
    let all = doc! { "resource": { "anyResource": true }, "actions": ACTIONS.to_vec() };
    source.run("admin", doc! { "createRole": "named", "privileges": [all], "roles": [] })?;
    source.create_user("reader", "of-its-own", &["named"])?;
    let url = source.primary()?.url_of(Some(("reader", "of-its-own")));
    Ok(blocking(Client::with_uri_str(url))?)
}

/// How many reads of the database `shop` the server has noted that are so.
fn noted(source: &ReplicaSet, which: Document) -> Result<i32> {
    let mut query = doc! { "op": "query" };
    query.extend(which);
    let count = doc! { "count": "system.profile", "query": query };
    Ok(source.run("shop", count)?.get_i32("n")?)
}

/// By name, a collection that was renamed reads as empty, without any error.
#[test]
fn a_collection_that_is_renamed_while_it_is_read_by_name_is_in_the_base_whole() -> Result<()> {
    let source = ReplicaSet::builder(1).auth().test_commands().start()?;
    may_compare(&source)?;
    let client = source.client()?;
    blocking(fill(&client, "still", 0..DOCUMENTS, 8 * KIB))?;
    blocking(fill(&client, "moved", 0..DOCUMENTS, 8 * KIB))?;
    source.run("shop", doc! { "create": "ring", "capped": true, "size": 1 << 20 })?;
    blocking(fill(&client, "ring", 0..DOCUMENTS, KIB))?;
    let reader = reader(&source)?;
    source.run("shop", doc! { "profile": 2 })?;

    let hold = doc! {
        "configureFailPoint": "failCommand",
        "mode": "alwaysOn",
        "data": {
            "blockConnection": true, "blockTimeMS": HELD.as_millis() as i64,
            "failCommands": ["find"], "namespace": "shop.moved",
        },
    };
    let entered = source.run("admin", hold)?.get_i32("count")?;
    let renamed = async {
        let admin = client.database("admin");
        let until = doc! {
            "waitForFailPoint": "failCommand", "timesEntered": entered + 1, "maxTimeMS": 120_000,
        };
        admin.run_command(until).await.context("nobody reads it")?;
        let rename = doc! { "renameCollection": "shop.moved", "to": "shop.away" };
        admin.run_command(rename).await?;
        let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        admin.run_command(off).await?;
        anyhow::Ok(())
    };
    let taken = blocking(async {
        let (taken, renamed) = tokio::join!(restored::base(&reader), renamed);
        renamed.and(taken)
    })?;
    source.run("shop", doc! { "profile": 0 })?;

    // Everything was read by name; what was renamed in vain at first.
    for name in ["still", "ring", "away"] {
        let read = noted(&source, doc! { "command.find": name, "nreturned": { "$gt": 0 } })?;
        ensure!(read > 0, "{name} was not read by name");
    }
    ensure!(noted(&source, doc! { "command.find": "moved", "nreturned": 0 })? > 0);
    ensure!(noted(&source, doc! { "command.find": "moved", "nreturned": { "$gt": 0 } })? == 0);
    let by_uuid = doc! { "command.find": { "$type": "binData" }, "nreturned": { "$gt": 0 } };
    ensure!(noted(&source, by_uuid)? == 0, "a collection was read by its UUID");
    source.run("shop", doc! { "drop": "system.profile" })?;
    for name in ["still", "moved"] {
        let objects = of(&taken, name)?.pieces.iter().flat_map(|piece| &piece.objects);
        let documents: u64 = objects.map(|object| object.documents).sum();
        ensure!(documents == u64::try_from(DOCUMENTS)?, "{name}: {documents} documents");
    }
    assert_restored(&source, &taken)
}
