//! The restore-proof gate opens for what was recorded, and for nothing else.

use anyhow::{Context, Result, ensure};
use bson::doc;
use tests::archive::Archive;
use tests::gate::Gate;
use tests::mongod::ReplicaSet;
use tests::postgres::Cluster;
use tests::programs::{Pitrd, PitrdBuilder};
use tests::scope;
use tests::wait::Deadline;

fn protected(url: &str, archive: &Archive) -> Result<Pitrd> {
    let builder = PitrdBuilder::default().args(["run", "--archive", archive.url()]);
    let mut pitrd = builder.env("PITR_SOURCE", url).start()?;
    pitrd.wait_for_log("base complete", &Deadline::seconds(300))?;
    Ok(pitrd)
}

#[test]
fn a_gate_opens_for_what_postgresql_held_and_for_nothing_else() -> Result<()> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    let archive = Archive::in_folder()?;
    let mut pitrd = protected(&cluster.replication_url(), &archive)?;
    let mut gate = Gate::new();
    for _ in 0..3 {
        cluster.add_rows(100)?;
        gate.note(&cluster)?;
    }
    let mut other = gate.note(&cluster)?.clone();
    pitrd.wait_caught_up(&cluster)?;
    gate.pass(&cluster, &archive)?;

    // Content that was not there.
    *other.hashes.get_mut("public.kept").context("the table")? = "301:0".to_owned();
    let mut wrong = Gate::<Cluster>::new();
    wrong.keep(other);
    let refused = format!("{:#}", wrong.pass(&cluster, &archive).err().context("it opened")?);
    ensure!(refused.contains("public.kept"), "{refused}");
    // A moment that can be restored is not lost.
    gate.note_lost(&cluster)?;
    pitrd.wait_caught_up(&cluster)?;
    ensure!(gate.pass(&cluster, &archive).is_err(), "a moment that is there passed as lost");
    Ok(())
}

#[test]
fn a_gate_opens_for_what_mongodb_held_and_for_nothing_else() -> Result<()> {
    let set = ReplicaSet::single()?;
    let archive = Archive::in_folder()?;
    let _pitrd = protected(&set.url(), &archive)?;
    let mut gate = Gate::new();
    for n in 0..3 {
        set.run("shop", doc! { "insert": "orders", "documents": [{ "_id": n }] })?;
        gate.note(&set)?;
    }
    let mut other = gate.note(&set)?.clone();
    gate.pass(&set, &archive)?;
    *other.hashes.get_mut("shop.orders").context("the collection")? = "4:0".to_owned();
    let mut wrong = Gate::<ReplicaSet>::new();
    wrong.keep(other);
    let refused = format!("{:#}", wrong.pass(&set, &archive).err().context("it opened")?);
    ensure!(refused.contains("shop.orders"), "{refused}");
    Ok(())
}
