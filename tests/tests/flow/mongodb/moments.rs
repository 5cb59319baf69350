//! The proof: at each of several moments, every collection is byte-equal to a snapshot read of the
//! source at that moment, with the same options, indexes, views and users.

use anyhow::{Context, Result, ensure};
use bson::Timestamp;
use tests::mongod::{Load, ReplicaSet, blocking};

use super::moment::{self, Moment};
use super::restored::{self, Taken};
use super::workload::{self, Workload};

async fn now(work: &Workload, label: &'static str) -> Result<Moment> {
    let at = moment::last_write(&work.client).await?;
    seen(work, label, at).await
}

async fn seen(work: &Workload, label: &'static str, at: Timestamp) -> Result<Moment> {
    let contents = moment::contents(&work.client, Some(at)).await.context(label)?;
    Ok(Moment { label, at, contents })
}

/// Everything that the workload does behind the base, with moments between.
async fn moments(work: &Workload) -> Result<Vec<Moment>> {
    let mut moments = vec![now(work, "behind the base").await?];
    work.documents().await?;
    moments.push(now(work, "documents").await?);
    work.catalog().await?;
    moments.push(now(work, "catalog").await?);
    work.transactions().await?;
    moments.push(now(work, "transactions").await?);
    let (before, between) = work.prepared().await?;
    moments.push(seen(work, "before a prepared transaction took effect", before).await?);
    moments.push(seen(work, "between its effect and its end", between).await?);
    work.names().await?;
    moments.push(now(work, "names").await?);
    work.users().await?;
    moments.push(now(work, "users").await?);
    work.churn(5).await?;
    moments.push(now(work, "collections that come and go").await?);
    work.documents().await.err();
    moments.push(now(work, "more of all").await?);
    Ok(moments)
}

fn check(taken: &Taken, log: &[u8], moment: &Moment) -> Result<()> {
    let target = ReplicaSet::builder(1).parameter("ttlMonitorEnabled", "false").start()?;
    let client = target.client()?;
    blocking(async {
        restored::restore(&client, taken, log, moment.at).await?;
        let found = moment::contents(&client, None).await?;
        let differences = moment::differences(&moment.contents, &found);
        ensure!(differences.is_empty(), "{differences}");
        Ok(())
    })
    .with_context(|| format!("{} ({:?})", moment.label, moment.at))
}

#[test]
fn every_collection_is_byte_equal_to_the_source_at_every_moment() -> Result<()> {
    of_a_set(1)
}

#[test]
fn every_collection_is_byte_equal_to_a_source_of_three_members_at_every_moment() -> Result<()> {
    of_a_set(3)
}

fn of_a_set(members: usize) -> Result<()> {
    let source = workload::source(members)?;
    let work = Workload { client: source.client()? };
    blocking(work.begin())?;
    let (taken, moments) = {
        // Writers that go on all the time, and collections that come and go while the base is read.
        let _load = Load::start(&source, 2)?;
        let taken = blocking(async {
            work.run_ring().await?;
            let (taken, churned) = tokio::join!(restored::base(&work.client), work.churn(40));
            churned?;
            taken
        })?;
        (taken, blocking(moments(&work))?)
    };
    let log = restored::log(source.primary()?, &taken.base)?;
    ensure!(moments.len() == 10, "{} moments", moments.len());
    println!(
        "{members} members: base of {} collections, {} bytes of log",
        taken.base.collections.len(),
        log.len()
    );
    for moment in &moments {
        check(&taken, &log, moment)?;
    }
    Ok(())
}
