//! `pitrd` itself, with a real replica set: what it archives, and what it says.

use anyhow::{Context, Result, ensure};
use archiver::ship::chained;
use archiver::spool::OplogSegments;
use bson::{RawDocumentBuf, doc};
use proto::archive::base::Complete;
use proto::archive::index::{MarkKind, SegmentIndex};
use proto::archive::layout::{Lineage, OPLOG_EPOCH};
use proto::archive::ledger::{self, Event};
use proto::archive::{ends, from_json};
use proto::mongodb::{Documents, Entry, Note, Op};
use proto::position::Offset;
use proto::segment::{Engine, read_sealed};
use proto::store::{Access, Range, list_all, url};
use tests::mongod::{Load, Node, ReplicaSet};
use tests::programs::{Pitrd, pitrd};
use tests::scope::scale;
use tests::scratch::Folder;
use tests::wait::Deadline;

use crate::common::{more, newest};
use crate::gaps::roll_over;

const LINEAGE: Lineage = Lineage(1);

/// The entries of an archive, its segments checked one by one.
async fn archived(archive: &str) -> Result<Vec<RawDocumentBuf>> {
    archived_from(archive, Offset(0)).await
}

/// The entries from this position on, where the log begins or goes on behind a gap.
async fn archived_from(archive: &str, from: Offset) -> Result<Vec<RawDocumentBuf>> {
    let store = url::open(archive, Access::ReadOnly).await?;
    let mut raw: Vec<u8> = Vec::new();
    for object in list_all(&*store, &LINEAGE.log()).await? {
        let (footer, piece) = read_sealed(&store.get(&object.key, Range::All).await?)?;
        if footer.head.start < from {
            continue;
        }
        let reached = Offset(from.0 + raw.len() as u64);
        ensure!(footer.head.start == reached, "a hole before {}", object.key);
        ensure!(Documents::new(&piece).all(|found| found.is_ok()), "{}: no documents", object.key);
        raw.extend(piece);
    }
    let end = chained::find_end(&*store, LINEAGE, OPLOG_EPOCH, &OplogSegments).await?;
    let reached = Offset(from.0 + raw.len() as u64);
    ensure!(end.store.start == reached, "a hole before the open segment");
    raw.extend(end.store.raw);
    let mut entries = Documents::new(&raw);
    let found = entries.by_ref().map(|found| found.map(|(_, entry)| entry.to_owned()));
    let found = found.collect::<Result<_, _>>()?;
    ensure!(entries.rest().is_empty(), "an entry is not whole");
    Ok(found)
}

/// Whether the archive holds what the member has, from its first entry to the newest that says
/// something.
async fn assert_is_oplog_of(archive: &str, node: &Node) -> Result<usize> {
    let store = url::open(archive, Access::ReadOnly).await?;
    let identity = ends::identity(&*store, LINEAGE).await?.context("an identity")?;
    let first = identity.mongodb().context("of a replica set")?.first;
    let (ours, theirs) = (archived(archive).await?, node.oplog(first.ts.into())?);
    ensure!(ours.len() <= theirs.len(), "more entries than there are");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        ensure!(ours == theirs, "{ours:?} is archived, and the server has {theirs:?}");
    }
    for left in &theirs[ours.len()..] {
        ensure!(Entry::read(left)?.op == Op::Noop, "{left:?} is not archived");
    }
    Ok(ours.len())
}

fn archive_in(folder: &Folder) -> String {
    folder.path().join("archive").display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_archive_is_the_sets_own_log_whenever_the_sidecar_is_killed() -> Result<()> {
    let set = ReplicaSet::single()?;
    let folder = Folder::new("oplog-kills")?;
    let archive = archive_in(&folder);
    let load = Load::start(&set, 2)?;
    let mut sidecar =
        Pitrd::builder(&set.url(), &archive).args(["--no-base", "--flush", "100ms"]).start()?;
    for round in 1..=scale(6_i64, 30) {
        more(&load, 100 + round.unsigned_abs() * 37 % 200)?;
        if round % 3 == 0 {
            // A segment ends behind it.
            let large = doc! { "_id": round, "text": "x".repeat((16 << 20) - 100) };
            set.run("large", doc! { "insert": "one", "documents": [large] })?;
        }
        sidecar.kill9()?;
        sidecar.start()?;
    }
    more(&load, 100)?;
    load.stop();
    // Beside a writer that lives, everything is waited for and nothing is taken over.
    let spool = folder.path().join("another-spool").display().to_string();
    let once = ["run", "--once", "--no-base", "--source", &set.url(), "--archive", &archive];
    pitrd(&[&once[..], &["--spool", &spool]].concat())?.ok()?;
    let metrics = sidecar.metrics()?;
    ensure!(metrics.sum("pitr_rpo_lag_seconds").is_some(), "{}", metrics.text());
    sidecar.sigterm(&Deadline::seconds(60))?;
    let count = assert_is_oplog_of(&archive, set.primary()?).await?;
    ensure!(count > 600, "{count}");
    let store = url::open(&archive, Access::ReadOnly).await?;
    let indexes = list_all(&*store, &LINEAGE.index_epoch(OPLOG_EPOCH)).await?;
    ensure!(!indexes.is_empty(), "no sealed segment has an index");
    for object in indexes {
        let index = SegmentIndex::decode(&store.get(&object.key, Range::All).await?)?;
        ensure!(index.anomalies == 0 && index.ends().commits > 0, "{}: {index:?}", object.key);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_moment_that_was_given_a_name_is_archived_with_it() -> Result<()> {
    let set = ReplicaSet::single()?;
    let folder = Folder::new("oplog-point")?;
    let archive = archive_in(&folder);
    let spool = folder.path().join("spool").display().to_string();
    let source = set.url();
    let once = ["run", "--once", "--no-base", "--source", &source, "--archive", &archive];
    let once = [&once[..], &["--spool", &spool]].concat();
    pitrd(&once)?.ok()?;
    let point = pitrd(&["point", "before the release", "--source", &source, "--json"])?.ok()?;
    let ts = point.json()?["ts"].as_str().context("a timestamp")?.to_owned();
    pitrd(&once)?.ok()?;
    let entries = archived(&archive).await?;
    let named = entries.iter().find_map(|raw| {
        let entry = Entry::read(raw).ok()?;
        (entry.note() == Some(Note::Named("before the release"))).then_some(entry.at.ts)
    });
    ensure!(named.map(|ts| ts.to_string()) == Some(ts), "{named:?}");
    let raw: Vec<u8> = entries.iter().flat_map(|entry| entry.as_bytes().to_vec()).collect();
    let index = proto::archive::index::OplogIndexer::build(0, Offset(0), &raw, []);
    ensure!(index.marks.iter().any(|mark| mark.kind == MarkKind::RestorePoint));
    ensure!(newest(set.primary()?).await?.ts >= named.context("found")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_archived_is_refused_with_one_clear_word() -> Result<()> {
    let set = ReplicaSet::builder(1).auth().start()?;
    set.create_user("sidecar", "of-its-own", &["backup"])?;
    set.create_user("nobody", "of-its-own", &[])?;
    let folder = Folder::new("oplog-refused")?;
    let archive = archive_in(&folder);
    let check = |source: &str| {
        let with = [("PITR_SOURCE".to_owned(), source.to_owned())];
        tests::programs::run("pitrd", &["check", "--archive", &archive], &with)
    };
    let fine = check(&set.url_of(Some(("sidecar", "of-its-own"))))?.ok()?;
    ensure!(fine.stdout.contains("oplog-window"), "{}", fine.stdout);
    let nobody = check(&set.url_of(Some(("nobody", "of-its-own"))))?.code_is(3)?;
    ensure!(nobody.stdout.contains("read local.oplog.rs"), "{}", nobody.stdout);
    ensure!(nobody.stdout.contains("backup"), "{}", nobody.stdout);
    let wrong = check(&set.url_of(Some(("sidecar", "wrong"))))?.code_is(3)?;
    ensure!(wrong.stdout.contains("password"), "{}", wrong.stdout);
    let alone = ReplicaSet::builder(1).standalone()?;
    let run = |source: &str| {
        let spool = folder.path().join("spool").display().to_string();
        let with = [("PITR_SOURCE".to_owned(), source.to_owned())];
        let arguments = ["run", "--once", "--no-base", "--archive", &archive, "--spool", &spool];
        tests::programs::run("pitrd", &arguments, &with)
    };
    let standalone = run(&alone.url())?.code_is(3)?;
    ensure!(standalone.stderr.contains("PITRD-C012"), "{}", standalone.stderr);
    run(&set.url_of(Some(("sidecar", "of-its-own"))))?.ok()?;
    let other = ReplicaSet::single()?;
    let foreign = run(&other.url())?.code_is(6)?;
    ensure!(foreign.stderr.contains("PITRD-W001"), "{}", foreign.stderr);
    let shown = pitrd(&["check", "--archive", &archive, "--source", "mongodb://me:hush@a/"])?;
    let shown = shown.code_is(2)?;
    ensure!(!shown.stderr.contains("hush"), "{}", shown.stderr);
    Ok(())
}

/// The bases of an archive that are complete.
async fn bases(archive: &str) -> Result<Vec<Complete>> {
    let store = url::open(archive, Access::ReadOnly).await?;
    let mut found = Vec::new();
    for id in store.folders(&LINEAGE.bases()).await? {
        let key = LINEAGE.base_complete(&id);
        if store.head(&key).await?.is_some() {
            found.push(from_json(&key, &store.get(&key, Range::All).await?)?);
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_command_protects_a_set_and_another_takes_a_base_beside_it() -> Result<()> {
    let set = ReplicaSet::single()?;
    let documents: Vec<_> =
        (0..500).map(|id| doc! { "_id": id, "text": "x".repeat(200) }).collect();
    set.run("shop", doc! { "insert": "orders", "documents": documents })?;
    let folder = Folder::new("oplog-bases")?;
    let archive = archive_in(&folder);
    let mut sidecar = Pitrd::builder(&set.url(), &archive).start()?;
    sidecar.wait_for_log("PROTECTED", &Deadline::seconds(120))?;
    let [first] = &bases(&archive).await?[..] else { anyhow::bail!("one base") };
    ensure!(first.is_of(Engine::Mongodb) && first.raw_bytes > 100_000, "{first:?}");
    let orders = first.mongodb().collections.iter().find(|found| found.name == "orders");
    let pieces = orders.context("the collection")?.pieces.iter().flat_map(|piece| &piece.objects);
    ensure!(pieces.map(|object| object.documents).sum::<u64>() == 500);
    let load = Load::start(&set, 2)?;
    more(&load, 200)?;
    let taken = pitrd(&["base", "--source", &set.url(), "--archive", &archive, "--json"])?.ok()?;
    load.stop();
    let taken = taken.json()?;
    let all = bases(&archive).await?;
    let second = all.iter().find(|base| base.id == taken["id"]).context("the second base")?;
    ensure!(second.mongodb().stop > first.mongodb().stop);
    // What a base needs was in the store before it was complete.
    let entries = archived(&archive).await?;
    let places = entries.iter().filter_map(|raw| Entry::place(raw).ok().map(|(at, _)| at.ts));
    let places: Vec<_> = places.collect();
    for base in &all {
        let mongodb = base.mongodb();
        ensure!(places.first().is_some_and(|first| *first <= mongodb.start.ts), "{mongodb:?}");
    }
    sidecar.sigterm(&Deadline::seconds(60))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_oplog_that_rolled_over_while_the_sidecar_was_away_is_a_gap_with_a_new_base()
-> Result<()> {
    let set = ReplicaSet::builder(1).oplog_mb(8).start()?;
    let folder = Folder::new("oplog-gap")?;
    let archive = archive_in(&folder);
    let mut sidecar = Pitrd::builder(&set.url(), &archive).start()?;
    sidecar.wait_for_log("PROTECTED", &Deadline::seconds(120))?;
    sidecar.kill9()?;
    roll_over(&set, &set.nodes()[0])?;
    sidecar.start()?;
    sidecar.wait("a base behind the gap", &Deadline::seconds(120), |sidecar| {
        Ok(sidecar.log().matches("PROTECTED").count() == 2)
    })?;
    sidecar.kill9()?;
    sidecar.start()?;
    set.run("test", doc! { "insert": "c", "documents": [{ "_id": 1 }] })?;
    let spool = folder.path().join("another-spool").display().to_string();
    let once = ["run", "--once", "--no-base", "--source", &set.url(), "--archive", &archive];
    pitrd(&[&once[..], &["--spool", &spool]].concat())?.ok()?;
    sidecar.sigterm(&Deadline::seconds(60))?;
    let store = url::open(&archive, Access::ReadOnly).await?;
    let gaps: Vec<_> = ledger::read(&*store, LINEAGE)
        .await?
        .entries
        .into_iter()
        .filter_map(|entry| match entry.event {
            Event::Gap { from, to, oplog, .. } => Some((from, to, oplog)),
            _ => None,
        })
        .collect();
    let Some((from, to, Some([last, first]))) = gaps.last().copied() else {
        anyhow::bail!("{gaps:?}")
    };
    ensure!(to > from && first > last, "{gaps:?}");
    let bases = bases(&archive).await?;
    let newest = bases.iter().map(Complete::mongodb).max_by_key(|base| base.start);
    ensure!(newest.is_some_and(|base| base.start >= first), "no base behind the gap");
    let ours = archived_from(&archive, to.offset).await?;
    let theirs = set.nodes()[0].oplog(first.ts.into())?;
    ensure!(theirs.len() >= ours.len() && ours.len() > 3, "{} of {}", ours.len(), theirs.len());
    ensure!(ours.iter().zip(&theirs).all(|(ours, theirs)| ours == theirs), "other bytes");
    Ok(())
}
