//! The same workload through a change stream: what it carries comes back byte by byte, and what it
//! does not is listed here, kind by kind.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bson::{Document, RawDocument, RawDocumentBuf, Timestamp};
use proto::mongodb::SourceMode;
use proto::mongodb::scope::split;
use tests::mongod::{Load, ReplicaSet, blocking};
use tests::programs::{Pitrd, pitr};
use tests::scratch::Folder;
use tests::wait::{self, Deadline};

use super::archived;
use super::moment::{self, Contents};
use super::workload::Workload;

/// How a collection came back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A change stream does not show it.
    LeftOut,
    /// The same values, fields in another order, of the documents with these `_id`s.
    FieldOrder(Vec<String>),
}

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

/// Everything that differs, by kind; what is of no kind is an error.
fn differences(expected: &Contents, found: &Contents) -> Result<BTreeMap<String, Kind>> {
    let mut told = BTreeMap::new();
    let mut rest = found.clone();
    for (name, expected) in &expected.collections {
        let Some(found) = rest.collections.remove(name) else {
            told.insert(name.clone(), Kind::LeftOut);
            continue;
        };
        if *expected == found {
            continue;
        }
        let set = |documents: &[Vec<u8>]| documents.iter().cloned().collect::<BTreeSet<_>>();
        let (had, has) = (set(&expected.documents), set(&found.documents));
        let only = |these: &BTreeSet<Vec<u8>>, those: &BTreeSet<Vec<u8>>| {
            let only = these.difference(those).map(|raw| sorted(raw));
            let mut only = only.collect::<Result<Vec<_>>>()?;
            only.sort_by_key(|document| document.get("_id").map(ToString::to_string));
            Ok::<_, anyhow::Error>(only)
        };
        let (missing, wrong) = (only(&had, &has)?, only(&has, &had)?);
        let shape =
            |c: &moment::Collection| (c.options.clone(), c.id_index.clone(), c.indexes.clone());
        ensure!(
            shape(expected) == shape(&found),
            "{name}: {:?} {:?}",
            shape(expected),
            shape(&found)
        );
        ensure!(missing == wrong, "{name}: {missing:?} came back as {wrong:?}");
        let ids = missing.iter().filter_map(|document| document.get("_id"));
        told.insert(name.clone(), Kind::FieldOrder(ids.map(ToString::to_string).collect()));
    }
    ensure!(rest.collections.is_empty(), "{:?} should not be there", rest.collections.keys());
    Ok(told)
}

struct Moment {
    label: &'static str,
    at: Timestamp,
    contents: Contents,
    /// What is known to differ.
    expected: BTreeMap<String, Kind>,
}

async fn now(work: &Workload, label: &'static str, expected: &[(&str, Kind)]) -> Result<Moment> {
    let at = moment::last_write(&work.client).await?;
    let contents = carried(moment::contents(&work.client, Some(at)).await.context(label)?);
    let expected = expected.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone()));
    Ok(Moment { label, at, contents, expected: expected.collect() })
}

async fn moments(work: &Workload) -> Result<Vec<Moment>> {
    // An update by a pipeline has moved the field `n` of document 7 to its end.
    let moved = ("shop.orders", Kind::FieldOrder(vec!["7".to_owned()]));
    // convertToCapped has copied its documents.
    let converted = ("shop.bigger", Kind::LeftOut);
    work.documents().await?;
    work.catalog().await?;
    let mut all = vec![now(work, "documents and catalog", std::slice::from_ref(&moved)).await?];
    work.transactions().await?;
    work.prepared().await?;
    all.push(now(work, "transactions", std::slice::from_ref(&moved)).await?);
    work.names().await?;
    work.users().await?;
    work.churn(8).await?;
    all.push(now(work, "names", &[moved, converted]).await?);
    Ok(all)
}

/// Restores a moment, and gives what the report says is not exact.
fn restored(archive: &str, moment: &Moment) -> Result<Vec<String>> {
    let target = ReplicaSet::builder(1).parameter("ttlMonitorEnabled", "false").start()?;
    let (at, url) = (archived::text(moment.at), target.primary()?.url());
    let arguments = ["restore", "--archive", archive, "--at", &at, "--into", &url, "--json"];
    let report = pitr(&[&arguments[..], &["--accept-open-paths"]].concat())?.ok()?.json()?;
    let found = carried(blocking(moment::contents(&target.client()?, None))?);
    let differs = differences(&moment.contents, &found)?;
    ensure!(differs == moment.expected, "{differs:?} instead of {:?}", moment.expected);
    println!("{}: {} collections, {differs:?}", moment.label, found.collections.len());
    let told = report["not_exact"].as_array().context("what is not exact")?;
    Ok(told.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect())
}

#[test]
fn what_a_change_stream_carries_is_restored_and_what_it_does_not_is_known() -> Result<()> {
    let source = ReplicaSet::builder(1)
        .test_commands()
        .oplog_mb(990)
        .parameter("minSnapshotHistoryWindowInSeconds", "3600")
        .parameter("ttlMonitorEnabled", "false")
        .start()?;
    let work = Workload { client: source.client()? };
    blocking(work.begin())?;
    let load = Load::start(&source, 1)?;
    let folder = Folder::new("mongodb-changes")?;
    let archive = folder.path().join("archive").display().to_string();
    let mut sidecar =
        Pitrd::builder(&source.url(), &archive).args(["--source-mode", "change-stream"]).start()?;
    wait::until(&Deadline::seconds(300), "a base", || {
        ensure!(sidecar.is_running(), "{}", sidecar.log());
        let status = pitr(&["status", "--archive", &archive, "--json"])?.json().ok();
        Ok(status.filter(|status| status["protected"] == true).map(|_| ()))
    })?;
    let moments = blocking(async {
        work.run_ring().await?;
        moments(&work).await
    })?;
    drop(load);
    let last = moments.last().context("there are moments")?;
    let at = archived::text(last.at);
    wait::until(&Deadline::seconds(120), "the moment in the archive", || {
        let plan = pitr(&["plan", "--archive", &archive, "--at", &at, "--json"])?;
        Ok((plan.code == Some(0)).then_some(()))
    })?;
    // Nobody has said how a dotted path is to be read.
    let target = ReplicaSet::single()?;
    let (url, target) = (target.primary()?.url(), target);
    let refused = pitr(&["restore", "--archive", &archive, "--at", &at, "--into", &url])?;
    let refused = refused.code_is(10)?.stderr;
    ensure!(refused.contains("--accept-open-paths") && refused.contains("event "), "{refused}");
    drop(target);
    for moment in &moments {
        let told = restored(&archive, moment).context(moment.label)?;
        let names = |what: &str| told.iter().any(|line| line.starts_with(what));
        ensure!(names("shop.readings is left out"), "{told:?}");
        ensure!(names("shop.orders: dotted paths"), "{told:?}");
        let lost = moment.expected.contains_key("shop.bigger");
        ensure!(names("shop.bigger is left out") == lost, "{told:?}");
    }
    pitr(&["verify", "--archive", &archive, "--read-data"])?.ok()?;
    Ok(())
}
