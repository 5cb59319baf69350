//! The least that a role can be given: replication, and no database at all.

use anyhow::{Result, ensure};
use tests::postgres::Cluster;
use tests::programs::{Pitrd, pitr, pitrd};
use tests::scope;
use tests::scratch::Folder;
use tests::wait::Deadline;

#[test]
fn a_role_for_replication_alone_protects_a_database() -> Result<()> {
    for major in scope::postgres_versions() {
        let cluster = Cluster::builder(major)
            .hba("host replication replicator 127.0.0.1/32 trust")
            .hba("host all replicator 127.0.0.1/32 reject")
            .start()?;
        cluster.sql("CREATE ROLE replicator LOGIN REPLICATION; CREATE TABLE t AS SELECT 1 AS n")?;
        let folder = Folder::new("only")?;
        let archive = folder.path().join("archive").display().to_string();
        let source = cluster.url("replicator", "");
        let mut sidecar = Pitrd::builder(&source, &archive).start()?;
        sidecar.wait_for_log("base complete", &Deadline::seconds(300))?;
        pitrd(&["base", "--source", &source, "--archive", &archive])?.ok()?;
        let json = pitr(&["status", "--archive", &archive, "--json"])?.ok()?.json()?;
        ensure!(json["bases"].as_array().is_some_and(|bases| bases.len() == 2), "{json}");
        sidecar.sigterm(&Deadline::seconds(60))?;
        ensure!(!sidecar.log().contains("ERROR"), "{}", sidecar.log());
        pitr(&["plan", "--latest", "--archive", &archive])?.ok()?;
        println!("PostgreSQL {major}: two bases, replication alone");
    }
    Ok(())
}
