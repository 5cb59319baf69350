//! Every kind of target on one server: the notations of a time, positions, transactions, names.

use anyhow::{Context, Result, ensure};
use proto::timestamp::Timestamp;
use serde_json::Value;
use tests::postgres::{Cluster, Moment};
use tests::programs;
use tests::scope;

use super::protected::{Place, Protected};

/// What `pitr plan` says of a target.
pub(crate) fn plan(protected: &Protected, target: &[&str]) -> Result<Value> {
    let mut all = vec!["plan", "--json"];
    all.extend(target);
    protected.pitr(&all)?.ok()?.json()
}

/// Where a plan stops: the record, and whether it is replayed.
pub(crate) fn stop(plan: &Value) -> (String, bool) {
    let target = &plan["target"];
    (target["lsn"].to_string(), target["inclusive"] == true)
}

/// Restores to `target` and compares every table.
pub(crate) fn restored(
    protected: &Protected,
    folder: &str,
    target: &[&str],
    expected: &Moment,
) -> Result<()> {
    let data = protected.restore(folder, target)?;
    protected.assert_restored(&data, expected)?;
    Ok(std::fs::remove_dir_all(data)?)
}

/// A number into `steps`; gives the transaction.
fn step(cluster: &Cluster, n: u32) -> Result<String> {
    let script =
        format!("BEGIN; INSERT INTO steps VALUES ({n}); SELECT pg_current_xact_id(); COMMIT;");
    Ok(cluster.sql(&script)?.trim().to_owned())
}

/// Four rows, the states between them, and everything archived.
struct Life {
    protected: Protected,
    first: Moment,
    second: Moment,
    second_xid: String,
    third: Moment,
    third_xid: String,
    fourth: Moment,
    /// Nothing was committed a second before it and behind it.
    quiet: Timestamp,
}

fn live() -> Result<Life> {
    let cluster = Cluster::start_new(scope::newest_postgres())?;
    cluster.sql("CREATE TABLE steps (n int)")?;
    let mut protected = Protected::around(cluster, Place::Folder, &["--flush", "200ms"])?;
    protected.await_base()?;
    let cluster = &protected.cluster;
    step(cluster, 1)?;
    let first = cluster.record("postgres")?;
    std::thread::sleep(std::time::Duration::from_secs(4));
    let second_xid = step(cluster, 2)?;
    let second = cluster.record("postgres")?;
    let source = cluster.replication_url();
    programs::pitrd(&["point", "before the deploy", "--source", &source])?.ok()?;
    let third_xid = step(cluster, 3)?;
    let third = cluster.record("postgres")?;
    cluster.sql("SELECT pg_create_restore_point('by_sql')")?;
    step(cluster, 4)?;
    let fourth = cluster.record("postgres")?;
    protected.await_everything()?;
    protected.await_proof(&fourth.time)?;
    let begun = Timestamp::parse(&first.time)?;
    // Milliseconds are what most programs log.
    let quiet = Timestamp((begun.0 + 2_000_000) / 1000 * 1000);
    Ok(Life { protected, first, second, second_xid, third, third_xid, fourth, quiet })
}

/// The same moment as people paste it; the server itself converts the zones.
fn notations(cluster: &Cluster, moment: Timestamp) -> Result<Vec<String>> {
    let as_text = |zone: &str, format: &str| {
        let query =
            format!("SELECT to_char(timestamptz '{moment}' AT TIME ZONE '{zone}', '{format}')");
        cluster.value("postgres", &query)
    };
    let plain = "YYYY-MM-DD HH24:MI:SS.MS";
    let (utc, berlin) = (as_text("UTC", plain)?, as_text("Europe/Berlin", plain)?);
    let india = as_text("Asia/Kolkata", plain)?;
    let newfoundland = as_text("America/St_Johns", plain)?;
    let iso = utc.replace(' ', "T");
    let offset = newfoundland_offset(cluster, moment)?;
    Ok(vec![
        format!("{iso}Z"),
        format!("{iso}+00:00"),
        format!("{}z", iso.to_lowercase()),
        format!("{utc} UTC"),
        format!("{utc}+00"),
        format!("{} GMT", utc.replace('.', ",")),
        format!("{}+05:30", india.replace(' ', "T")),
        format!("{india} +0530"),
        format!("{newfoundland}{offset}"),
        format!("{berlin} Europe/Berlin"),
        format!("{}[Europe/Berlin]", berlin.replace(' ', "T")),
        format!("ISODate(\"{iso}Z\")"),
        format!("'{utc} UTC'"),
        format!("  {india} Asia/Kolkata "),
    ])
}

fn newfoundland_offset(cluster: &Cluster, moment: Timestamp) -> Result<&'static str> {
    let query = format!(
        "SELECT (timestamptz '{moment}' AT TIME ZONE 'America/St_Johns') \
         - (timestamptz '{moment}' AT TIME ZONE 'UTC') = interval '-2:30'"
    );
    Ok(if cluster.value("postgres", &query)? == "t" { "-02:30" } else { "-03:30" })
}

#[test]
fn a_moment_is_the_same_in_every_notation_and_kind_of_target() -> Result<()> {
    let life = live()?;
    let protected = &life.protected;
    let cluster = &protected.cluster;
    let all = notations(cluster, life.quiet)?;
    let wanted = plan(protected, &["--at", &all[0]])?;
    for text in &all {
        let found = plan(protected, &["--at", text])?;
        ensure!(
            stop(&found) == stop(&wanted),
            "{text}: {:?}, not {:?}",
            stop(&found),
            stop(&wanted)
        );
    }
    let now = Timestamp::parse(&cluster.value(
        "postgres",
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    )?)?;
    let ago = format!("-{}s", now.seconds_since(life.quiet).round());
    ensure!(stop(&plan(protected, &["--at", &ago])?) == stop(&wanted), "{ago}");
    println!("{} notations and {ago}: all stop at {:?}", all.len(), stop(&wanted));

    // The commit that the quiet moment leaves out, by its other names.
    let commit = wanted["target"]["first_left_out"]["start"].as_str().context("a commit")?;
    let (xid, by_xid) = (&life.second_xid, ["--at-xid", &life.second_xid, "--exclusive"]);
    ensure!(stop(&wanted).0.contains(commit), "{commit} of {:?}", stop(&wanted));
    ensure!(stop(&plan(protected, &by_xid)?) == stop(&wanted), "--at-xid {xid} --exclusive");
    let by_lsn = ["--at-lsn", commit, "--exclusive"];
    ensure!(stop(&plan(protected, &by_lsn)?) == stop(&wanted), "--at-lsn {commit} --exclusive");
    let with = plan(protected, &["--at-xid", xid])?;
    ensure!(stop(&plan(protected, &["--at-lsn", commit])?) == stop(&with), "--at-lsn {commit}");
    ensure!(stop(&with) != stop(&wanted), "inclusive and exclusive are one");

    restored(protected, "time", &["--at", &all[9]], &life.first)?;
    restored(protected, "lsn", &["--at-lsn", commit], &life.second)?;
    restored(protected, "lsn-exclusive", &by_lsn, &life.first)?;
    restored(protected, "xid", &["--at-xid", &life.third_xid], &life.third)?;
    let exclusive = ["--at-xid", &life.third_xid, "--exclusive"];
    restored(protected, "xid-exclusive", &exclusive, &life.second)?;
    restored(protected, "point", &["--at-name", "before the deploy"], &life.second)?;
    restored(protected, "name", &["--at-name", "by_sql"], &life.third)?;
    restored(protected, "latest", &["--latest"], &life.fourth)
}
