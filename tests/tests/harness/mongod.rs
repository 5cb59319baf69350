//! MongoDB as the other tests need it.

use anyhow::{Context, Result};
use bson::{Timestamp, doc};
use tests::mongod::{Load, ReplicaSet};
use tests::wait::{self, Deadline};

const START: Timestamp = Timestamp { time: 0, increment: 0 };

#[test]
fn a_set_of_one_takes_writes_and_outlives_a_kill_and_a_stop() -> Result<()> {
    let set = ReplicaSet::builder(1).oplog_mb(8).test_commands().start()?;
    let insert = |n: i32| {
        let concern = doc! { "w": "majority", "j": true };
        let insert = doc! { "insert": "c", "documents": [{ "_id": n }], "writeConcern": concern };
        set.run("test", insert)
    };
    insert(1)?;
    set.nodes()[0].kill9()?;
    assert!(!set.nodes()[0].is_running());
    set.nodes()[0].start()?;
    insert(2)?;
    set.nodes()[0].restart()?;
    let count = set.run("test", doc! { "count": "c" })?;
    assert_eq!(count.get_i32("n")?, 2);
    // Test commands are there, and the oplog is as small as it was asked to be.
    set.run("admin", doc! { "replSetTest": 1, "waitForMemberState": 1, "timeoutMillis": 60_000 })?;
    let stats = set.run("local", doc! { "collStats": "oplog.rs" })?;
    assert_eq!(
        stats.get_f64("maxSize").or_else(|_| stats.get_i32("maxSize").map(f64::from))?,
        8.0 * f64::from(1 << 20)
    );
    Ok(())
}

#[test]
fn a_set_of_three_elects_another_when_its_primary_dies_or_steps_down() -> Result<()> {
    let set = ReplicaSet::three()?;
    assert_eq!(set.secondaries().len(), 2);
    let load = Load::start(&set, 2)?;
    let grows = |what: &str| {
        let before = load.written().done;
        wait::until(&Deadline::seconds(120), what, || {
            Ok((load.written().done > before + 20).then_some(()))
        })
    };
    grows("a first load")?;
    let first = set.primary()?.port();
    set.primary()?.kill9()?;
    assert_ne!(set.primary()?.port(), first);
    grows("writes to the second primary")?;
    let dead = set.nodes().iter().find(|node| !node.is_running()).context("one was killed")?;
    dead.start()?;
    set.await_members(&Deadline::seconds(120))?;
    let second = set.primary()?.port();
    assert_ne!(set.step_down()?.port(), second);
    grows("writes to the third primary")?;
    // One that stands still is no primary any more, and no reason to wait for ever.
    let frozen = set.primary()?;
    frozen.pause()?;
    let third = wait::until(&Deadline::seconds(120), "a fourth primary", || {
        Ok(set.nodes().iter().find(|node| node.port() != frozen.port() && node.is_primary()))
    })?;
    frozen.resume()?;
    set.await_members(&Deadline::seconds(120))?;
    assert_ne!(third.port(), frozen.port());
    let written = load.stop();
    assert!(written.done > 60, "{written:?}");
    Ok(())
}

#[test]
fn members_have_the_same_oplog_byte_for_byte() -> Result<()> {
    let set = ReplicaSet::three()?;
    let load = Load::start(&set, 2)?;
    wait::until(&Deadline::seconds(120), "some load", || {
        Ok((load.written().done > 200).then_some(()))
    })?;
    load.stop();
    set.await_members(&Deadline::seconds(120))?;
    let secondary = *set.secondaries().first().context("two follow")?;
    let of_secondary = secondary.oplog(START)?;
    let (first, last) = (&of_secondary[1], &of_secondary[of_secondary.len() - 1]);
    let (first, last) = (first.get_timestamp("ts")?, last.get_timestamp("ts")?);
    let mut of_primary = set.primary()?.oplog(first)?;
    of_primary.retain(|entry| entry.get_timestamp("ts").is_ok_and(|ts| ts <= last));
    assert!(of_primary.len() > 200, "{}", of_primary.len());
    assert!(of_primary.iter().eq(of_secondary.iter().skip(1)));
    Ok(())
}

#[test]
fn a_set_with_passwords_and_tls_lets_in_who_shows_both() -> Result<()> {
    let set = ReplicaSet::builder(1).auth().tls().start()?;
    set.create_user("sidecar", "its-own", &["backup"])?;
    let node = set.primary()?;
    let find = || doc! { "find": "oplog.rs", "limit": 1 };
    let found = node.run_as(Some(("sidecar", "its-own")), "local", find())?;
    assert_eq!(found.get_f64("ok")?, 1.0);
    assert!(node.run_as(Some(("sidecar", "wrong")), "local", find()).is_err());
    assert!(node.run_as(None, "local", find()).is_err());
    let plain = format!("mongodb://{}/?directConnection=true", node.host());
    assert!(
        tests::mongod::blocking(async {
            let mut options = mongodb::options::ClientOptions::parse(&plain).await?;
            options.server_selection_timeout = Some(std::time::Duration::from_secs(2));
            let client = mongodb::Client::with_options(options)?;
            client.database("local").run_command(find()).await
        })
        .is_err()
    );
    Ok(())
}

#[test]
fn a_standalone_server_has_no_oplog() -> Result<()> {
    let node = ReplicaSet::builder(1).standalone()?;
    assert!(!node.hello()?.contains_key("setName"));
    assert!(node.oplog(START)?.is_empty());
    Ok(())
}
