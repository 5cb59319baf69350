//! A store that answers, but not with what was asked for: throttling, errors, refusals.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::archive::Archive;
use tests::mongod::ReplicaSet;
use tests::postgres::Cluster;
use tests::s3_front::{Manner, S3Front};
use tests::scope;
use tests::seaweed::Seaweed;
use tests::wait::{self, Deadline};

use super::guarded::{Engine, Guarded};
use super::kills::await_flow;

/// An archive on the shared server, behind a front of its own.
fn behind(front: &S3Front, prefix: &str) -> Result<Archive> {
    let seaweed = Seaweed::shared()?;
    Ok(Archive::on_s3(seaweed, prefix).via(seaweed, front.port(), prefix))
}

/// Requests in an outage of so many seconds. With full jitter the n-th wait of one asker is half of
/// 0.1 s × 2ⁿ on average, at most 15 s: about nine in ten seconds. There are six askers at most: a
/// tail, four segments, the ledger. Twice that is the bound; asked again at once, each would come a
/// few hundred times a second.
const OUTAGE_SECONDS: u64 = 10;
const REQUESTS_MAX: u64 = 110;

fn storm<E: Engine>(prefix: &str) -> Result<()> {
    let front = S3Front::start(Seaweed::shared()?.port())?;
    let mut guarded = Guarded::<E>::start(behind(&front, prefix)?, |builder| builder)?;
    let load = guarded.server.load()?;
    await_flow(&mut guarded.pitrd)?;
    guarded.note()?;
    let before = (front.requests(), front.refused());
    front.set(Manner::Storm(100));
    std::thread::sleep(Duration::from_secs(scope::scale(OUTAGE_SECONDS, 6 * OUTAGE_SECONDS)));
    let (came, refused) = (front.requests() - before.0, front.refused() - before.1);
    ensure!(refused > 3, "{refused} requests were refused");
    ensure!(came <= scope::scale(REQUESTS_MAX, 2 * REQUESTS_MAX), "{came} requests in an outage");
    let errors = guarded.pitrd.metrics()?.sum("pitr_store_errors_total");
    ensure!(errors > Some(0.0), "no error was counted");
    ensure!(guarded.pitrd.metrics()?.sum("pitr_store_away") == Some(1.0), "not told away");
    guarded.note()?;
    // Now every second one: the log goes up, and nobody is told so every time.
    front.set(Manner::Storm(50));
    let told = |log: &str| log.matches("store away").count() + log.matches("store back").count();
    let (before, refused) = (told(&guarded.pitrd.log()), front.refused());
    let some = scope::scale(40, 400);
    wait::until(&Deadline::seconds(300), "a storm of half the requests", || {
        Ok((front.refused() >= refused + some).then_some(()))
    })?;
    let lines = told(&guarded.pitrd.log()) - before;
    ensure!(lines <= 4 + some as usize / 20, "{lines} lines of {some} refusals");
    front.set(Manner::Pass);
    await_flow(&mut guarded.pitrd)?;
    drop(load);
    guarded.pass(&format!("{came} requests in the outage, {lines} lines in the storm"))
}

#[test]
fn a_storm_of_refusals_is_asked_again_with_patience_and_costs_nothing() -> Result<()> {
    storm::<Cluster>("storm")
}

#[test]
fn a_storm_of_refusals_costs_an_archived_oplog_nothing() -> Result<()> {
    storm::<ReplicaSet>("storm-oplog")
}

/// The control: whoever asks again at once meets the front so many times more often.
#[test]
fn the_count_of_requests_tells_patience_from_a_hot_loop() -> Result<()> {
    let front = S3Front::start(Seaweed::shared()?.port())?;
    front.set(Manner::Storm(100));
    let archive = behind(&front, "hot")?;
    let url: url::Url = archive.url().parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let key = proto::store::Key::new("lineage/1/identity.json");
    runtime.block_on(async {
        let keys = aws_credential_types::Credentials::new("a", "b", None, None, "tests");
        let keys = aws_credential_types::provider::SharedCredentialsProvider::new(keys);
        let access = proto::store::Access::ReadOnly;
        let store = proto::store::s3::S3Store::open_as(&url, access, Some(keys)).await?;
        // As many as an outage may cost: a hot loop has them long before its ten seconds are over.
        for _ in 0..=REQUESTS_MAX {
            let asked = proto::store::Store::head(&store, &key).await;
            ensure!(asked.is_err(), "it was answered");
        }
        anyhow::Ok(())
    })?;
    ensure!(front.refused() > REQUESTS_MAX, "{}", front.refused());
    Ok(())
}

/// A listing shows what a store had some time ago, a few keys at a time.
fn lagging<E: Engine>(prefix: &str) -> Result<()> {
    let front = S3Front::start(Seaweed::shared()?.port())?;
    let mut guarded = Guarded::<E>::start(behind(&front, prefix)?, |builder| builder)?;
    let load = guarded.server.load()?;
    for hidden in scope::scale(&[1, 20][..], &[1, 2, 5, 10, 20, 50]) {
        // Ledger entries and bases are shown: it is the log that the listings lack.
        let before = front.created();
        wait::until(&Deadline::seconds(120), "objects of the log", || {
            Ok((front.created() >= before + hidden + 5).then_some(()))
        })?;
        guarded.note()?;
        guarded.pitrd.kill9()?;
        front.set(Manner::Lagging { hidden: *hidden, page: 7 });
        // Where the log goes on is found anew: listings propose, hashes and puts decide.
        guarded.pitrd.start()?;
        await_flow(&mut guarded.pitrd)?;
    }
    guarded.note()?;
    drop(load);
    guarded.server.assert_archived(&mut guarded.pitrd, &guarded.archive)?;
    ensure!(front.hidden() > 5 && front.pages() > 0, "{} hidden", front.hidden());
    // Whoever restores meanwhile gets that moment, or is told that it cannot be had.
    let mut codes = Vec::new();
    for hidden in [1, 10, 30] {
        front.set(Manner::Lagging { hidden, page: 7 });
        codes.push(guarded.try_latest()?);
    }
    let what = format!("{} hidden, {} pages, restores {codes:?}", front.hidden(), front.pages());
    front.set(Manner::Pass);
    guarded.pass(&what)
}

#[test]
fn a_listing_that_lags_and_pages_moves_no_position_and_restores_nothing_else() -> Result<()> {
    lagging::<Cluster>("lagging")
}

#[test]
fn a_listing_that_lags_costs_an_archived_oplog_nothing() -> Result<()> {
    lagging::<ReplicaSet>("lagging-oplog")
}
