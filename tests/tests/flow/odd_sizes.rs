//! Segment sizes, page checksums, and records that begin in one segment and end in another.

use anyhow::{Result, ensure};
use proto::postgres::lsn::Lsn;
use tests::postgres::{Cluster, Moment};
use tests::scope;

use super::protected::{Place, Protected};

/// Version, segment size in MiB, checksums. A plain run leaves out 16 MiB: every other test has it,
/// without checksums up to 17 and with them from 18 on.
fn shapes() -> Vec<(u32, u32, bool)> {
    let versions = scope::postgres_versions();
    let (oldest, newest) = (
        versions.iter().copied().min().unwrap_or(15),
        versions.iter().copied().max().unwrap_or(18),
    );
    if !scope::soak() {
        return vec![(oldest, 1, true), (newest, 64, false)];
    }
    let sizes = [1, 16, 64].into_iter().flat_map(|size| [(size, true), (size, false)]);
    versions.iter().flat_map(|&major| sizes.clone().map(move |(s, c)| (major, s, c))).collect()
}

/// A message of 3 MB in the same transaction as a row.
const LONG_MESSAGE: &str = "BEGIN; INSERT INTO kept (v) VALUES ('with a long message'); \
     SELECT count(pg_logical_emit_message(true, 'long', repeat('0123456789abcdef', 196608))); COMMIT";

/// A commit whose record is long (it names everything that caches must forget), begun a little
/// before the end of a segment.
fn commit_across_the_boundary(cluster: &Cluster, segment: u64) -> Result<()> {
    let script = format!(
        "BEGIN; \
         DO $$ BEGIN FOR i IN 1..300 LOOP \
             EXECUTE format('CREATE TABLE many_%s (a int, b text)', i); END LOOP; END $$; \
         INSERT INTO kept (v) VALUES ('with a long commit'); \
         DO $$ BEGIN WHILE (pg_current_wal_insert_lsn() - '0/0') % {segment} < {segment} - 6000 LOOP \
             PERFORM pg_logical_emit_message(true, 'pad', repeat('x', least(500000, \
                 {segment} - 5500 - (pg_current_wal_insert_lsn() - '0/0') % {segment})::int)); \
         END LOOP; END $$; \
         SELECT pg_current_wal_insert_lsn(); COMMIT; SELECT pg_current_wal_insert_lsn();"
    );
    let printed = cluster.sql(&script)?;
    let positions: Vec<Lsn> = printed.lines().filter_map(|line| line.trim().parse().ok()).collect();
    ensure!(positions.len() == 2, "two positions: {printed}");
    let (start, end) = (positions[0].0, positions[1].0);
    ensure!(start / segment < end / segment, "from {start} to {end}: two segments of {segment}");
    Ok(())
}

fn sized(major: u32, mebibytes: u32, checksums: bool) -> Result<()> {
    println!("PostgreSQL {major}, segments of {mebibytes} MiB, checksums {checksums}");
    let builder = Cluster::builder(major).segment_mb(mebibytes).checksums(checksums);
    let mut protected = Protected::start(builder, Place::Folder, &[])?;
    protected.await_base()?;
    let cluster = &protected.cluster;
    let said = cluster.value("postgres", "SHOW data_checksums")?;
    ensure!(said == if checksums { "on" } else { "off" }, "data_checksums is {said}");
    cluster.add_rows(20_000)?;
    let before = cluster.record("postgres")?;
    cluster.sql(LONG_MESSAGE)?;
    let after_message = cluster.record("postgres")?;
    commit_across_the_boundary(cluster, u64::from(mebibytes) << 20)?;
    let after_commit = cluster.record("postgres")?;
    cluster.fill_log(scope::scale(3, 130))?;
    cluster.add_rows(1000)?;
    let last = cluster.record("postgres")?;
    protected.await_everything()?;

    // Just before and just after each: by position, to the byte.
    let moments: [(&str, &Moment); 3] =
        [("before", &before), ("message", &after_message), ("commit", &after_commit)];
    for (name, moment) in moments {
        let data = protected.restore(name, &["--at-lsn", &moment.lsn.to_string()])?;
        protected.assert_restored(&data, moment)?;
    }
    let data = protected.restore("latest", &["--latest"])?;
    protected.assert_restored(&data, &last)
}

#[test]
fn every_segment_size_is_restored_with_checksums_and_without_before_and_after_spanning_records()
-> Result<()> {
    shapes().into_iter().try_for_each(|(major, size, checksums)| sized(major, size, checksums))
}
