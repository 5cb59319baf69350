//! Protect under load, restore to five moments, compare every table's content.

use anyhow::Result;
use tests::postgres::{Cluster, Moment};
use tests::scope;

use super::protected::{Place, Protected};

/// Five moments of one life: just after the base, in the middle, between two chosen commits, after
/// the last commit of an idle database, and the latest.
fn five_moments(major: u32, place: Place) -> Result<()> {
    let cluster = Cluster::start_new(major)?;
    cluster.pgbench_init("postgres", 2)?;
    let load = cluster.pgbench_start("postgres", 2)?;
    let mut protected = Protected::around(cluster, place, &[])?;
    protected.await_base()?;
    let cluster = &protected.cluster;
    let after_base = cluster.record("postgres")?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    let middle = cluster.record("postgres")?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    load.stop()?;
    cluster.sql("CREATE TABLE chosen (n int); INSERT INTO chosen VALUES (1)")?;
    let between = cluster.record("postgres")?;
    cluster.sql("INSERT INTO chosen VALUES (2)")?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let idle = cluster.record("postgres")?;
    protected.await_everything()?;
    protected.await_proof(&idle.time)?;

    let moments: [(&str, &Moment); 4] =
        [("after-base", &after_base), ("middle", &middle), ("between", &between), ("idle", &idle)];
    for (name, moment) in moments {
        let data = protected.restore(name, &["--at", &moment.time])?;
        protected.assert_restored(&data, moment)?;
    }
    let data = protected.restore("latest", &["--latest"])?;
    protected.assert_restored(&data, &idle)
}

#[test]
fn every_version_is_restored_to_five_moments_from_a_folder() -> Result<()> {
    scope::postgres_versions().into_iter().try_for_each(|major| five_moments(major, Place::Folder))
}

#[test]
fn every_version_is_restored_to_five_moments_from_s3() -> Result<()> {
    scope::postgres_versions().into_iter().try_for_each(|major| five_moments(major, Place::S3))
}
