//! The same workload through a change stream: what it carries comes back byte by byte, and what it
//! does not is listed here, kind by kind.

use std::collections::{BTreeMap, BTreeSet};

use ::mongodb::Client;
use anyhow::{Context, Result, ensure};
use bson::{Document, RawDocument, RawDocumentBuf, Timestamp};
use proto::mongodb::SourceMode;
use proto::mongodb::scope::split;
use tests::mongod::{Load, ReplicaSet, blocking};
use tests::programs::{self, Pitrd, pitr};
use tests::scratch::Folder;
use tests::wait::{self, Deadline};

use super::archived;
use super::moment::{self, Contents};
use super::workload::{self, Workload};

const MODE: [&str; 2] = ["--source-mode", "change-stream"];

/// How something of a collection came back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A change stream does not show it.
    LeftOut,
    /// The same values, fields in another order, of the documents with these `_id`s.
    FieldOrder(Vec<String>),
    /// The documents with these `_id`s are as a prepared transaction found them: its events have the
    /// time of its end in the log, and it took effect before.
    NotYet(Vec<String>),
}

/// By collection.
type Differences = BTreeMap<String, Vec<Kind>>;

/// What of a source a change stream shows.
fn carried(mut contents: Contents) -> Contents {
    contents.collections.retain(|name, _| {
        let (database, collection) = split(name);
        SourceMode::ChangeStream.carries(database, collection)
    });
    for (name, views) in &mut contents.collections {
        if name.ends_with(".system.views") {
            views.documents.retain(|view| {
                let view = RawDocument::from_bytes(view).expect("a document");
                !view.get_str("viewOn").unwrap_or_default().starts_with("system.buckets.")
            });
        }
    }
    contents
}

/// A document whose fields stand in the order of their names.
fn sorted(raw: &[u8]) -> Result<BTreeMap<String, bson::Bson>> {
    let document = Document::try_from(RawDocumentBuf::from_bytes(raw.to_vec())?)?;
    Ok(document.into_iter().collect())
}

fn by_id(documents: &[Vec<u8>]) -> Result<BTreeMap<String, &[u8]>> {
    let mut all = BTreeMap::new();
    for raw in documents {
        let id = RawDocument::from_bytes(raw)?.get("_id")?.context("it has no _id")?;
        all.insert(bson::Bson::try_from(id)?.to_string(), raw.as_slice());
    }
    Ok(all)
}

/// Everything that differs, by kind; what is of no kind is an error. `before`: what the source had
/// before a prepared transaction took effect.
fn differences(
    expected: &Contents,
    before: Option<&Contents>,
    found: &Contents,
) -> Result<Differences> {
    let mut told = BTreeMap::new();
    let mut rest = found.clone();
    for (name, expected) in &expected.collections {
        let Some(found) = rest.collections.remove(name) else {
            told.insert(name.clone(), vec![Kind::LeftOut]);
            continue;
        };
        if *expected == found {
            continue;
        }
        let shape =
            |c: &moment::Collection| (c.options.clone(), c.id_index.clone(), c.indexes.clone());
        ensure!(
            shape(expected) == shape(&found),
            "{name}: {:?} {:?}",
            shape(expected),
            shape(&found)
        );
        let before = before.and_then(|before| before.collections.get(name));
        let before = before.map(|before| before.documents.as_slice()).unwrap_or_default();
        let kinds = of_documents(&expected.documents, before, &found.documents);
        told.insert(name.clone(), kinds.with_context(|| name.clone())?);
    }
    ensure!(rest.collections.is_empty(), "{:?} should not be there", rest.collections.keys());
    Ok(told)
}

fn of_documents(expected: &[Vec<u8>], before: &[Vec<u8>], found: &[Vec<u8>]) -> Result<Vec<Kind>> {
    let (expected, before, found) = (by_id(expected)?, by_id(before)?, by_id(found)?);
    let (mut moved, mut not_yet) = (Vec::new(), Vec::new());
    for id in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let (had, has) = (expected.get(id), found.get(id));
        if had == has {
            continue;
        }
        let values = |raw: Option<&&[u8]>| raw.map(|raw| sorted(raw)).transpose();
        let (wanted, got) = (values(had)?, values(has)?);
        if wanted == got {
            moved.push(id.clone());
        } else if !before.is_empty() && before.get(id) == has {
            not_yet.push(id.clone());
        } else {
            anyhow::bail!("{id}: {wanted:?} came back as {got:?}");
        }
    }
    // In a capped collection the documents may be the same, and lie in another order.
    ensure!(!moved.is_empty() || !not_yet.is_empty(), "the order of the documents differs");
    let kinds = [(moved, Kind::FieldOrder as fn(_) -> _), (not_yet, Kind::NotYet)];
    Ok(kinds.into_iter().filter(|(ids, _)| !ids.is_empty()).map(|(ids, kind)| kind(ids)).collect())
}

struct Moment {
    label: &'static str,
    at: Timestamp,
    contents: Contents,
    /// What is known to differ.
    expected: Differences,
    /// What was before a prepared transaction that has taken effect and is not yet told of.
    before: Option<Contents>,
}

async fn now(work: &Workload, label: &'static str, known: &[(&str, Kind)]) -> Result<Moment> {
    seen(work, label, moment::last_write(&work.client).await?, known).await
}

async fn seen(
    work: &Workload,
    label: &'static str,
    at: Timestamp,
    known: &[(&str, Kind)],
) -> Result<Moment> {
    let contents = carried(moment::contents(&work.client, Some(at)).await.context(label)?);
    let mut expected = Differences::new();
    for (name, kind) in known {
        expected.entry((*name).to_owned()).or_default().push(kind.clone());
    }
    Ok(Moment { label, at, contents, expected, before: None })
}

/// Ten moments behind the base.
async fn moments(work: &Workload) -> Result<Vec<Moment>> {
    let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    // An update by a pipeline has moved the field `n` of document 7 to its end.
    let moved = &[("shop.orders", Kind::FieldOrder(ids(&["7"])))][..];
    let not_yet = ("shop.orders", Kind::NotYet(ids(&["\"prepared\"", "11"])));
    // convertToCapped has copied its documents.
    let converted = &[moved, &[("shop.bigger", Kind::LeftOut)]].concat();
    let mut all = vec![now(work, "behind the base", &[]).await?];
    work.documents().await?;
    all.push(now(work, "documents", moved).await?);
    work.catalog().await?;
    all.push(now(work, "catalog", moved).await?);
    work.transactions().await?;
    all.push(now(work, "transactions", moved).await?);
    let (before, between) = work.prepared().await?;
    let before = seen(work, "before a prepared transaction took effect", before, moved).await?;
    let known = [moved, &[not_yet]].concat();
    let mut between = seen(work, "between its effect and its end", between, &known).await?;
    between.before = Some(before.contents.clone());
    all.extend([before, between]);
    work.names().await?;
    all.push(now(work, "names", converted).await?);
    work.users().await?;
    all.push(now(work, "users", converted).await?);
    work.churn(5).await?;
    all.push(now(work, "collections that come and go", converted).await?);
    work.documents().await.err();
    all.push(now(work, "more of all", converted).await?);
    Ok(all)
}

/// Takes away what a restore has left.
async fn empty(target: &Client) -> Result<()> {
    for name in target.list_database_names().await? {
        if !["admin", "config", "local"].contains(&name.as_str()) {
            target.database(&name).drop().await?;
        }
    }
    Ok(())
}

/// Restores a moment into a target that is empty, and is so again behind it. Gives what the report
/// says is not exact.
fn restored(archive: &str, target: &ReplicaSet, moment: &Moment) -> Result<Vec<String>> {
    let (at, url) = (archived::text(moment.at), target.primary()?.url());
    let arguments = ["restore", "--archive", archive, "--at", &at, "--into", &url, "--json"];
    let report = pitr(&[&arguments[..], &["--accept-open-paths"]].concat())?.ok()?.json()?;
    let client = target.client()?;
    let found = carried(blocking(moment::contents(&client, None))?);
    let differs = differences(&moment.contents, moment.before.as_ref(), &found)?;
    ensure!(differs == moment.expected, "{differs:?} instead of {:?}", moment.expected);
    println!("{}: {} collections, {differs:?}", moment.label, found.collections.len());
    blocking(empty(&client))?;
    let told = report["not_exact"].as_array().context("what is not exact")?;
    Ok(told.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect())
}

/// A sidecar's archive of the workload: its base is taken while collections come and go, and what
/// follows has ten moments.
fn archive(source: &ReplicaSet, archive: &str) -> Result<Vec<Moment>> {
    let work = Workload { client: source.client()? };
    blocking(work.begin())?;
    let _load = Load::start(source, 1)?;
    // No base but the first: every moment is replayed from there.
    let mut sidecar =
        Pitrd::builder(&source.url(), archive).args(MODE).args(["--no-base"]).start()?;
    sidecar.wait_state("streaming", &Deadline::seconds(120))?;
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            blocking(async {
                work.run_ring().await?;
                work.churn(40).await
            })
        });
        programs::pitrd(&["base", "--source", &source.url(), "--archive", archive])?.ok()?;
        churn.join().expect("no panic")
    })?;
    let moments = blocking(moments(&work))?;
    let last = archived::text(moments.last().context("there are moments")?.at);
    wait::until(&Deadline::seconds(120), "the last moment in the archive", || {
        ensure!(sidecar.is_running(), "{}", sidecar.log());
        let plan = pitr(&["plan", "--archive", archive, "--at", &last, "--json"])?;
        Ok((plan.code == Some(0)).then_some(()))
    })?;
    Ok(moments)
}

#[test]
fn what_a_change_stream_carries_is_restored_and_what_it_does_not_is_known() -> Result<()> {
    of_a_set(1)
}

#[test]
fn what_a_change_stream_of_three_members_carries_is_restored_and_what_it_does_not_is_known()
-> Result<()> {
    of_a_set(3)
}

fn of_a_set(members: usize) -> Result<()> {
    let source = workload::source(members)?;
    let folder = Folder::new("mongodb-changes")?;
    let address = folder.path().join("archive").display().to_string();
    let moments = archive(&source, &address)?;
    drop(source);
    ensure!(moments.len() == 10, "{} moments", moments.len());
    let target = ReplicaSet::builder(1).parameter("ttlMonitorEnabled", "false").start()?;
    // Nobody has said how a dotted path is to be read.
    let at = archived::text(moments.last().context("there are moments")?.at);
    let into = target.primary()?.url();
    let refused = pitr(&["restore", "--archive", &address, "--at", &at, "--into", &into])?;
    let refused = refused.code_is(10)?.stderr;
    ensure!(refused.contains("--accept-open-paths") && refused.contains("event "), "{refused}");
    blocking(empty(&target.client()?))?;
    for moment in &moments {
        let told = restored(&address, &target, moment).context(moment.label)?;
        let names = |what: &str| told.iter().any(|line| line.starts_with(what));
        ensure!(names("shop.readings is left out"), "{told:?}");
        let updated = moment.expected.contains_key("shop.orders");
        ensure!(names("shop.orders: dotted paths") == updated, "{told:?}");
        let lost = moment.expected.contains_key("shop.bigger");
        ensure!(names("shop.bigger is left out") == lost, "{told:?}");
    }
    // No base has followed the conversion.
    let status = pitr(&["status", "--archive", &address, "--json"])?.ok()?.json()?;
    let lacks = &status["lacks"][0];
    ensure!(lacks["collection"] == "shop.bigger" && lacks["until"].is_null(), "{status}");
    let reason = status["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("shop.bigger is lost from "), "{status}");
    pitr(&["verify", "--archive", &address, "--read-data"])?.ok()?;
    Ok(())
}
