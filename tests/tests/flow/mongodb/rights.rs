//! What a user may not do is named, before anything is changed; and a server that runs as somebody.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use bson::doc;
use proto::archive::ledger::Event;
use tests::archive::Archive;
use tests::mongod::{ReplicaSet, blocking};
use tests::programs::{Output, pitr, run};
use tests::scratch::Folder;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::{fetch, user, wait};

use super::{archived, moment, program, restored};

fn check(source: &ReplicaSet, who: &str) -> Result<Output> {
    let folder = Folder::new("mongodb-rights")?;
    let archive = folder.path().join("archive").display().to_string();
    let with = [("PITR_SOURCE".to_owned(), source.url_of(Some((who, "of-its-own"))))];
    run("pitrd", &["check", "--archive", &archive], &with)
}

#[test]
fn check_names_each_right_that_is_missing() -> Result<()> {
    let source = ReplicaSet::builder(1).auth().start()?;
    source.run("shop", doc! { "insert": "a", "documents": [{ "_id": 1 }] })?;
    source.run("attic", doc! { "insert": "a", "documents": [{ "_id": 1 }] })?;
    // Enough for the stream, and for one database of a base.
    let role = |db: &str, role: &str| doc! { "db": db, "role": role };
    let privileges = vec![
        doc! { "resource": { "cluster": true }, "actions": ["getParameter"] },
        doc! { "resource": { "db": "config", "collection": "" }, "actions": ["listCollections"] },
    ];
    source.run("admin", doc! { "createRole": "few", "privileges": privileges, "roles": [] })?;
    let roles = vec![
        role("admin", "few"),
        role("local", "read"),
        role("config", "read"),
        role("shop", "read"),
    ];
    let stream = doc! { "createUser": "stream", "pwd": "of-its-own", "roles": roles };
    source.run("admin", stream)?;
    source.create_user("backup", "of-its-own", &["backup"])?;
    let all = check(&source, "backup")?.ok()?;
    let said = check(&source, "stream")?.code_is(3)?;
    let of = |output: &Output, word: &str| {
        output.stdout.lines().any(|line| line.contains("FAIL") && line.contains(word))
    };
    for right in ["list all databases", "read the users", "read the roles"] {
        ensure!(of(&said, right) && !of(&all, right), "{right}:\n{}", said.stdout);
        ensure!(all.stdout.contains(right), "{right}:\n{}", all.stdout);
    }
    ensure!(!of(&said, "read local.oplog.rs"), "{}", said.stdout);
    // Who may list them and not read them is told of each.
    let list = doc! { "resource": { "cluster": true }, "actions": ["listDatabases"] };
    source.run("admin", doc! { "grantPrivilegesToRole": "few", "privileges": [list] })?;
    let said = check(&source, "stream")?.code_is(3)?;
    ensure!(of(&said, "attic") && !of(&said, "on shop"), "{}", said.stdout);
    for right in ["list the collections of", "read every collection", "list the indexes of"] {
        ensure!(of(&said, right), "{right}:\n{}", said.stdout);
    }
    // And a base by such a user is none that leaves databases out.
    let archive = Archive::in_folder()?;
    let with = [("PITR_SOURCE".to_owned(), source.url_of(Some(("stream", "of-its-own"))))];
    let base = run("pitrd", &["base", "--archive", archive.url()], &with)?;
    ensure!(base.code != Some(0), "{}", base.stdout);
    Ok(())
}

/// An archive with a base, some log behind it, and what it comes to.
pub(super) fn an_archive() -> Result<(String, moment::Contents, restored::Taken)> {
    let source =
        ReplicaSet::builder(1).parameter("minSnapshotHistoryWindowInSeconds", "3600").start()?;
    let client = source.client()?;
    let documents =
        |from: i32| (from..from + 900).map(|n| doc! { "_id": n, "text": "x".repeat(2000) });
    source.run("shop", doc! { "insert": "a", "documents": documents(0).collect::<Vec<_>>() })?;
    let taken = blocking(restored::base(&client))?;
    for round in 1..12 {
        let some = documents(round * 900).collect::<Vec<_>>();
        source.run("shop", doc! { "insert": "a", "documents": some })?;
        let other = format!("other {round}");
        let rename = doc! { "renameCollection": "shop.c", "to": format!("shop.{other}") };
        source.run("shop", doc! { "create": "c" })?;
        source.run("admin", rename)?;
        let gone = doc! { "q": { "_id": { "$lt": round * 20 } }, "limit": 0 };
        source.run("shop", doc! { "delete": "a", "deletes": [gone] })?;
    }
    blocking(moment::last_write(&client))?;
    let expected = blocking(moment::contents(&client, None))?;
    let log = restored::log(source.primary()?, &taken.base)?;
    Ok((blocking(archived::archive(&taken, &log))?, expected, taken))
}

#[test]
fn a_restore_names_the_rights_that_it_needs_and_changes_nothing_without_them() -> Result<()> {
    let (archive, _, _taken) = an_archive()?;
    let target = ReplicaSet::builder(1).auth().start()?;
    target.create_user("restorer", "of-its-own", &["restore", "readAnyDatabase"])?;
    let into = target.url_of(Some(("restorer", "of-its-own")));
    let with = [("PITR_INTO".to_owned(), into)];
    let refused =
        run("pitr", &["restore", "--archive", &archive, "--latest"], &with)?.code_is(4)?;
    ensure!(refused.stderr.contains("root"), "{}", refused.stderr);
    ensure!(!refused.stderr.contains("of-its-own"), "{}", refused.stderr);
    let listed =
        blocking(async { Ok::<_, anyhow::Error>(target.client()?.list_database_names().await?) })?;
    ensure!(
        listed.iter().all(|name| ["admin", "config", "local"].contains(&name.as_str())),
        "{listed:?}"
    );
    Ok(())
}

#[test]
fn a_connection_to_the_target_that_is_lost_again_and_again_does_not_end_a_restore() -> Result<()> {
    let (archive, expected, _taken) = an_archive()?;
    let target = ReplicaSet::single()?;
    let proxy = TcpProxy::start(target.primary()?.port())?;
    let into = format!("mongodb://127.0.0.1:{}/?directConnection=true", proxy.port());
    let done = std::sync::atomic::AtomicBool::new(false);
    let cuts = std::thread::scope(|scope| {
        let cutting = scope.spawn(|| {
            let mut cuts = 0_usize;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let before = proxy.bytes_up();
                let moved =
                    wait::until(&wait::Deadline::seconds(60), "the restore to go on", || {
                        let over = done.load(std::sync::atomic::Ordering::Relaxed);
                        Ok((over || proxy.bytes_up() > before + (1 << 20)).then_some(()))
                    });
                moved.expect("it stands still");
                // Cut, or done and not told.
                let answers = [Behaviour::Cut, Behaviour::SwallowAnswer];
                proxy.set(answers[cuts % 2]);
                cuts += 1;
                std::thread::sleep(std::time::Duration::from_millis(100));
                proxy.set(Behaviour::Pass);
            }
            cuts
        });
        let restored = pitr(&["restore", "--archive", &archive, "--latest", "--into", &into]);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let cuts = cutting.join().expect("no panic");
        restored?.ok()?;
        Ok::<_, anyhow::Error>(cuts)
    })?;
    ensure!(cuts > 3, "cut {cuts} times only");
    let found = blocking(moment::contents(&target.client()?, None))?;
    let differences = moment::differences(&expected, &found);
    ensure!(differences.is_empty(), "{differences}");
    println!("cut {cuts} times");
    Ok(())
}

#[test]
fn a_folder_that_root_restores_is_the_users_that_it_names() -> Result<()> {
    let Some(owner) = user::server_user() else {
        // Not root: only ourselves can be named.
        return Ok(());
    };
    let (archive, expected, _taken) = an_archive()?;
    let folder = Folder::new("mongodb-run-as")?;
    let into = folder.path().join("data").display().to_string();
    let mongod = fetch::mongod::usual()?.display().to_string();
    let restore =
        ["restore", "--archive", &archive, "--latest", "--into", &into, "--mongod", &mongod];
    let nobody =
        pitr(&[&restore[..], &["--run-as", "nobody-has-this-name"]].concat())?.code_is(4)?;
    ensure!(nobody.stderr.contains("--run-as"), "{}", nobody.stderr);
    ensure!(!std::path::Path::new(&into).exists(), "something was made");
    let name = owner.name.clone();
    pitr(&[&restore[..], &["--run-as", &name]].concat())?.ok()?;
    for entry in std::fs::read_dir(&into)? {
        let entry = entry?;
        ensure!(entry.metadata()?.uid() == owner.uid, "{:?} is not theirs", entry.path());
    }
    let differences = moment::differences(&expected, &program::of_folder(&into)?);
    ensure!(differences.is_empty(), "{differences}");
    Ok(())
}

/// The servers of a set are of another version than the archive tells: told once.
#[test]
fn another_version_of_the_servers_is_recorded_once() -> Result<()> {
    let source = ReplicaSet::single()?;
    let archive = Archive::in_folder()?;
    let spool = Folder::new("spool")?;
    let spool = spool.path().display().to_string();
    let source = source.url();
    let once = ["run", "--once", "--no-base", "--source", &source, "--archive", archive.url()];
    let once = [&once[..], &["--spool", &spool]].concat();
    tests::programs::pitrd(&once)?.ok()?;
    let told = || {
        let of = |event| match event {
            Event::Server { release, fcv } => Some((release, fcv)),
            _ => None,
        };
        Ok::<_, anyhow::Error>(archive.ledger()?.into_iter().filter_map(of).collect::<Vec<_>>())
    };
    ensure!(told()?.is_empty(), "{:?}", told()?);
    // As if the archive had been begun with the version before.
    let identity = std::path::Path::new(archive.url()).join("lineage/1/identity.json");
    let text = std::fs::read_to_string(&identity)?;
    let mut known: serde_json::Value = serde_json::from_str(&text)?;
    let version = known["mongodb"]["version"].as_str().context("a version")?.to_owned();
    let fcv = known["mongodb"]["fcv"].as_str().map(str::to_owned);
    known["mongodb"]["version"] = "5.0.1".into();
    std::fs::remove_file(&identity)?;
    std::fs::write(&identity, serde_json::to_vec_pretty(&known)?)?;
    for _ in 0..2 {
        let said = tests::programs::pitrd(&once)?.ok()?.stderr;
        ensure!(told()? == [(version.clone(), fcv.clone())], "{:?}: {said}", archive.ledger()?);
    }
    Ok(())
}
