//! Times that are not in order: two commits in one microsecond, a clock that is set back.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tests::postgres::{Cluster, Moment};

use super::protected::{Place, Protected};
use super::targets_kinds::{plan, restored, stop};

/// A commit of the table `steps`.
#[derive(Debug)]
struct Step {
    xid: String,
    /// As the server keeps it, RFC 3339.
    time: String,
    after: Moment,
}

const TIME: &str = "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'";

fn time_of(cluster: &Cluster, xid: &str) -> Result<String> {
    cluster.value("postgres", &format!("SELECT to_char(pg_xact_commit_timestamp('{xid}'), {TIME})"))
}

/// Without `record`: a server whose clock stands still cannot sleep.
fn state(cluster: &Cluster, time: &str) -> Result<Moment> {
    let (lsn, hashes) = (cluster.flush_position()?, cluster.table_hashes("postgres")?);
    Ok(Moment { database: "postgres".to_owned(), hashes, lsn, time: time.to_owned() })
}

fn step(cluster: &Cluster, n: u32) -> Result<Step> {
    let script =
        format!("BEGIN; INSERT INTO steps VALUES ({n}); SELECT pg_current_xact_id(); COMMIT;");
    let xid = cluster.sql(&script)?.trim().to_owned();
    let time = time_of(cluster, &xid)?;
    let after = state(cluster, &time)?;
    println!("step {n}: transaction {xid} at {time}");
    Ok(Step { xid, time, after })
}

fn protected() -> Result<Protected> {
    let builder = Cluster::builder(15).faketime().conf("track_commit_timestamp", "on");
    let cluster = builder.start()?;
    cluster.sql("CREATE TABLE steps (n int); INSERT INTO steps VALUES (0)")?;
    let mut protected = Protected::around(cluster, Place::Folder, &["--flush", "200ms"])?;
    protected.await_base()?;
    Ok(protected)
}

/// Lets the server's clock stand still, five seconds from now.
fn freeze(cluster: &Cluster) -> Result<()> {
    let query = "SELECT to_char(clock_timestamp() + '5 s', 'YYYY-MM-DD HH24:MI:SS')";
    cluster.set_clock(&cluster.value("postgres", query)?)
}

#[test]
fn two_commits_within_one_microsecond_are_told_apart_by_transaction_alone() -> Result<()> {
    let mut protected = protected()?;
    let cluster = &protected.cluster;
    let before = state(cluster, "before")?;
    freeze(cluster)?;
    let (one, two) = (step(cluster, 1)?, step(cluster, 2)?);
    ensure!(one.time == two.time, "{} and {}", one.time, two.time);
    cluster.set_clock("+20s")?;
    let three = step(cluster, 3)?;
    ensure!(three.time > two.time, "{} and {}", two.time, three.time);
    protected.await_everything()?;

    let at = plan(&protected, &["--at", &two.time])?;
    ensure!(at["warnings"] == serde_json::json!([]), "{}", at["warnings"]);
    let before_both = plan(&protected, &["--at", &one.time, "--exclusive"])?;
    let by_xid = plan(&protected, &["--at-xid", &one.xid, "--exclusive"])?;
    ensure!(stop(&before_both) == stop(&by_xid), "{:?}", (stop(&before_both), stop(&by_xid)));
    restored(&protected, "both", &["--at", &two.time], &two.after)?;
    restored(&protected, "neither", &["--at", &one.time, "--exclusive"], &before)?;
    restored(&protected, "one", &["--at-xid", &one.xid], &one.after)
}

#[test]
fn a_clock_that_was_set_back_makes_a_time_ambiguous_and_candidates_say_which() -> Result<()> {
    let mut protected = protected()?;
    let cluster = &protected.cluster;
    let one = step(cluster, 1)?;
    let two = step(cluster, 2)?;
    cluster.set_clock("-1h")?;
    let three = step(cluster, 3)?;
    ensure!(three.time < one.time, "the clock was set back");
    let four = step(cluster, 4)?;
    cluster.set_clock("+5s")?;
    let five = step(cluster, 5)?;
    protected.await_everything()?;

    // A is the second step, B the end of the fourth: an hour apart.
    let refused = protected.pitr(&["plan", "--at", &one.time])?.code_is(10)?;
    println!("{}", refused.stderr);
    let said = &refused.stderr;
    ensure!(said.contains("PITR-N002") && said.contains("--candidate"), "{said}");
    for part in [
        format!("1: before the record at {}", candidate(said, 1)?),
        format!(
            "with transaction {} at {}, without transaction {} at {}",
            one.xid, one.time, two.xid, two.time
        ),
        format!(
            "with transaction {} at {}, without transaction {} at {}",
            four.xid, four.time, five.xid, five.time
        ),
    ] {
        ensure!(said.contains(&part), "{part:?} is not in: {said}");
    }
    let of = |n: &'static str| ["--at", one.time.as_str(), "--candidate", n];
    protected.pitr(&["plan", "--at", &one.time, "--candidate", "3"])?.code_is(10)?;
    restored(&protected, "first", &of("1"), &one.after)?;
    restored(&protected, "second", &of("2"), &four.after)?;
    // The hour that was lived twice, in its second life.
    protected.pitr(&["plan", "--at", &three.time])?.code_is(10)?;
    let at = plan(&protected, &["--at", &three.time, "--candidate", "2"])?;
    ensure!(at["target"]["last_kept"]["xid"] == three.xid.parse::<u64>()?, "{at:#}");
    // Behind both everything is in order again.
    let at = plan(&protected, &["--at", &five.time])?;
    ensure!(at["target"]["last_kept"]["xid"] == five.xid.parse::<u64>()?, "{at:#}");
    Ok(())
}

/// The position of a candidate, as the refusal lists it.
fn candidate(said: &str, number: usize) -> Result<String> {
    let line = said.lines().find(|line| line.trim().starts_with(&format!("{number}: ")));
    let line = line.with_context(|| format!("no candidate {number} in {said}"))?;
    let lsn = line.split("record at ").nth(1).and_then(|rest| rest.split(',').next());
    Ok(lsn.context("a position")?.to_owned())
}

#[test]
fn commits_that_jitter_out_of_order_stop_before_the_first_later_one_and_it_says_so() -> Result<()> {
    let mut protected = protected()?;
    let cluster = &protected.cluster;
    cluster.set_clock("+10s")?;
    let before = step(cluster, 1)?;
    let mut psql = cluster.psql_command("postgres");
    psql.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = psql.spawn()?;
    let mut input = child.stdin.take().context("a pipe")?;
    let mut output = BufReader::new(child.stdout.take().context("a pipe")?);
    let mut xids = Vec::new();
    for (n, clock) in [(2, "+10.9s"), (3, "+10.5s")] {
        cluster.set_clock(clock)?;
        writeln!(
            input,
            "BEGIN; INSERT INTO steps VALUES ({n}); SELECT pg_current_xact_id(); COMMIT; \
             SELECT 'there';"
        )?;
        let mut line = String::new();
        while line.trim() != "there" {
            if !line.trim().is_empty() {
                xids.push(line.trim().to_owned());
            }
            line.clear();
            ensure!(output.read_line(&mut line)? > 0, "psql ended");
        }
    }
    drop(input);
    child.wait()?;
    let (two, three) = (time_of(cluster, &xids[0])?, time_of(cluster, &xids[1])?);
    println!("{two} before {three} in the log");
    ensure!(three < two, "the clock was set back by less than the two took");
    cluster.set_clock("+30s")?;
    step(cluster, 4)?;
    protected.await_everything()?;
    let at = plan(&protected, &["--at", &three])?;
    ensure!(at["warnings"].to_string().contains("out of order"), "{}", at["warnings"]);
    restored(&protected, "jitter", &["--at", &three], &before.after)
}
