//! The story itself, in the order in which it happens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use proto::position::ByteCount;
use tests::postgres::{Cluster, Moment};
use tests::programs::{self, Pitrd};
use tests::scratch::{self, Folder};
use tests::wait::Deadline;
use tests::{fetch, scope, user};

use crate::needs;
use crate::screen::Screen;

const LOAD_SECONDS: u64 = 15;
const CLIENTS: u32 = 4;
const SCALE: u32 = 5;
/// What is lost by accident.
const VICTIM: &str = "pgbench_accounts";

/// The lag while the load ran.
struct Lag {
    middle: f64,
    most: f64,
}

pub(crate) fn tell(screen: &mut Screen, keep: bool) -> Result<()> {
    screen.line("pitr: protect a PostgreSQL server, break it, bring it back as it was.");
    needs::tools()?;
    needs::programs(screen)?;

    let cluster = start_server(screen)?;
    let folder = Folder::new("demo")?;
    let archive = folder.path().join("archive");
    let mut pitrd = protect(screen, &cluster, &archive)?;
    let lag = load(screen, &cluster, &pitrd)?;
    let moment = accident(screen, &cluster, &mut pitrd)?;
    let copy = folder.path().join("restored");
    let took = restore(screen, &cluster, &archive, &copy, &moment)?;
    compare(screen, &cluster, &copy, &moment)?;

    screen.step("What happened");
    screen.note(&format!(
        "lag while loaded   {:.2} s (median), {:.2} s at most: so much a lost machine would have cost",
        lag.middle, lag.most
    ));
    screen.note(&format!("restore took       {took:.1} s"));
    let size = ByteCount(size_of(&archive));
    if keep {
        pitrd.sigterm(&Deadline::seconds(60))?;
        let kept = keep_archive(&archive)?;
        screen.note(&format!("the archive        {} ({size})", kept.display()));
        screen.command(&format!("pitr list --archive {}", kept.display()));
        screen.command(&format!("less {}/README.md", kept.display()));
    } else {
        let place = archive.display();
        screen.note(&format!("the archive        {place} ({size}), removed now; --keep leaves it"));
    }
    screen.note(&format!("all of it          {:.0} s", screen.seconds()));
    Ok(())
}

fn start_server(screen: &mut Screen) -> Result<Cluster> {
    let major = scope::newest_postgres();
    screen.step(&format!("A PostgreSQL {major}, fetched once, with pgbench's tables"));
    let prefix = fetch::postgres(major)?;
    needs::libraries(&prefix)?;
    let cluster = Cluster::start_new(major)?;
    cluster.pgbench_init("postgres", SCALE)?;
    screen.note(&format!("{}, {} rows", cluster.replication_url(), 100_000 * SCALE));
    Ok(cluster)
}

fn protect(screen: &mut Screen, cluster: &Cluster, archive: &Path) -> Result<Pitrd> {
    screen.step("Protect it: one command");
    let source = cluster.replication_url();
    let place = archive.display().to_string();
    screen.command(&format!("pitrd run --source {source} --archive {place}"));
    let pitrd = Pitrd::builder(&source, &place).start()?;
    let started = Deadline::seconds(120);
    let status = programs::wait_for_status(&place, &[], "the first base", &started, |status| {
        status["windows"].as_array().is_some_and(|windows| !windows.is_empty())
    })?;
    let base = status["bases"][0]["id"].as_str().unwrap_or("?").to_owned();
    let seconds = started.elapsed().as_secs_f64();
    screen.note(&format!("archive, slot and base {base} made by itself in {seconds:.1} s"));
    screen.command(&format!("pitr status --archive {place}"));
    let said = programs::pitr(&["status", "--archive", &place])?.ok()?;
    screen.note(said.stdout.lines().next().unwrap_or_default());
    Ok(pitrd)
}

fn load(screen: &mut Screen, cluster: &Cluster, pitrd: &Pitrd) -> Result<Lag> {
    screen.step(&format!("Load it: pgbench, {CLIENTS} clients, {LOAD_SECONDS} seconds"));
    let before = commits(cluster)?;
    let running = cluster.pgbench_start("postgres", CLIENTS)?;
    let deadline = Deadline::seconds(LOAD_SECONDS);
    let mut seen = Vec::new();
    while !deadline.passed() {
        std::thread::sleep(Duration::from_millis(100));
        seen.extend(pitrd.metrics()?.sum("pitr_rpo_lag_seconds"));
    }
    running.stop()?;
    seen.sort_by(f64::total_cmp);
    let most = *seen.last().context("pitrd tells no lag")?;
    let lag = Lag { middle: seen[seen.len() / 2], most };
    let done = commits(cluster)? - before;
    screen.note(&format!(
        "{done} transactions; what was committed and not yet in the archive: {:.2} s (median), {most:.2} s at most",
        lag.middle
    ));
    Ok(lag)
}

fn commits(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.value("postgres", "SELECT count(*) FROM pgbench_history")?.parse()?)
}

fn accident(screen: &mut Screen, cluster: &Cluster, pitrd: &mut Pitrd) -> Result<Moment> {
    screen.step("An accident");
    let moment = cluster.record("postgres")?;
    screen.note(&format!("a hash of each table is noted down at {}", moment.time));
    let drop = format!("DROP TABLE {VICTIM}");
    screen.command(&format!("psql -c '{drop}'"));
    cluster.sql(&drop)?;
    cluster.sql("INSERT INTO pgbench_history VALUES (1, 1, 1, 1, now())")?;
    if cluster.sql(&format!("SELECT count(*) FROM {VICTIM}")).is_ok() {
        bail!("{VICTIM} was dropped and is still there");
    }
    screen.note(&format!("{VICTIM} is gone, and work goes on in the other tables"));
    let end = cluster.flush_position()?;
    pitrd.wait_for_metrics("the accident is archived", &Deadline::seconds(60), |metrics| {
        metrics.sum("pitr_durable_position").is_some_and(|at| at >= end.0 as f64)
    })?;
    Ok(moment)
}

/// Seconds that it took.
fn restore(
    screen: &mut Screen,
    cluster: &Cluster,
    archive: &Path,
    into: &Path,
    moment: &Moment,
) -> Result<f64> {
    screen.step("Restore to just before");
    let (place, into) = (archive.display().to_string(), into.display().to_string());
    let bin = cluster.bin_dir().display().to_string();
    let mut arguments = vec!["restore", "--archive", &place, "--at", &moment.time, "--into", &into];
    arguments.extend(["--pg-bin", &bin]);
    if let Some(user) = user::run_as() {
        arguments.extend(["--run-as", user]);
    }
    screen.command(&format!("pitr {}", arguments.join(" ")));
    let began = Deadline::seconds(600);
    let output = programs::pitr(&arguments)?.ok()?;
    let took = began.elapsed().as_secs_f64();
    screen.note(&output.stdout);
    Ok(took)
}

fn compare(screen: &mut Screen, cluster: &Cluster, copy: &Path, moment: &Moment) -> Result<()> {
    screen.step("Compare: every table's content, by hash");
    let restored = Cluster::open(cluster.major(), copy)?;
    restored.start()?;
    let (broken, back) = (cluster.table_hashes("postgres")?, restored.table_hashes("postgres")?);
    screen.note(&format!("{:28} {:>10}  {:12}  restored", "table", "rows", "broken server"));
    for (table, before) in &moment.hashes {
        let rows = before.split(':').next().unwrap_or_default();
        let word = |now: Option<&String>| match now {
            Some(now) if now == before => "equal",
            Some(_) => "differs",
            None => "missing",
        };
        let (now, back) = (word(broken.get(table)), word(back.get(table)));
        screen.note(&format!("{table:28} {rows:>10}  {now:13}  {back}"));
    }
    restored.assert_holds(moment)?;
    screen.good(&format!("every row is back as it was at {}", moment.time));
    Ok(())
}

fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Out of the folder that goes.
fn keep_archive(archive: &Path) -> Result<PathBuf> {
    let holder = tempfile::Builder::new().prefix("pitr-demo-").tempdir_in(scratch::temp())?;
    let kept = holder.keep().join("archive");
    rustix::fs::rename(archive, &kept)
        .with_context(|| format!("cannot move the archive to {}", kept.display()))?;
    Ok(kept)
}
