//! Restores that are killed and interrupted go on by the same command; what is left at the moment
//! runs read-only, writable, or not at all, as asked.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::ports::Port;
use tests::postgres::SUPERUSER;
use tests::process::{self, Signal};
use tests::seaweed::Seaweed;
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::wait::{Deadline, until};

use super::protected::Place;
use crate::faults::early::Life;

/// Waits until some of the base is there, and the file that makes it a cluster is not.
fn await_unpacking(into: &Path) -> Result<()> {
    until(&Deadline::seconds(120), "the base is coming in", || {
        Ok((into.join("base").exists() && into.join(".pitr/restore.json").exists()).then_some(()))
    })?;
    ensure!(!into.join("global/pg_control").exists(), "it was too fast");
    Ok(())
}

#[test]
fn a_restore_killed_half_way_or_interrupted_goes_on_by_the_same_command() -> Result<()> {
    let life = Life::live(18, Place::S3)?;
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let (archive, into) = (life.via(&proxy)?, life.folder("resumed")?);

    proxy.set(Behaviour::Rate(1 << 20));
    let begun = life.begin(&archive, &into)?;
    await_unpacking(&into)?;
    process::signal(&begun.child, Signal::KILL)?;
    let (code, _) = begun.end()?;
    ensure!(code.is_none() && !into.join("global/pg_control").exists(), "not killed half-way");
    println!("killed while the base came in");

    let before = proxy.bytes_down();
    let begun = life.begin(&archive, &into)?;
    until(&Deadline::seconds(120), "the base is coming in again", || {
        Ok((proxy.bytes_down() > before + (1 << 20)).then_some(()))
    })?;
    process::signal(&begun.child, Signal::INT)?;
    let (code, said) = begun.end()?;
    println!("Ctrl-C while the base came in: exit {code:?}");
    ensure!(code == Some(5) && said.contains("PITR-R002"), "{code:?}: {said}");

    for (signal, expected) in [(Signal::KILL, None), (Signal::INT, Some(5))] {
        proxy.set(Behaviour::Latency(Duration::from_millis(20)));
        let log = into.join(".pitr/server.log");
        let _ = std::fs::remove_file(&log);
        let begun = life.begin(&archive, &into)?;
        begun.await_layout()?;
        proxy.set(Behaviour::Latency(Duration::from_millis(300)));
        begun.await_segments(2)?;
        process::signal(&begun.child, signal)?;
        let (code, said) = begun.end()?;
        println!("{signal:?} in recovery: exit {code:?}");
        ensure!(code == expected, "{code:?}: {said}");
        ensure!(expected.is_none() || said.contains("PITR-R002"), "{said}");
        until(&Deadline::seconds(60), "the server of a killed restore to end", || {
            Ok((!into.join("postmaster.pid").exists()).then_some(()))
        })?;
        life.assert_in_recovery(&into)?;
    }
    proxy.set(Behaviour::Pass);
    let output = life.restore(&archive, &into, &["--json"])?.ok()?;
    let report = output.json()?;
    ensure!(report["resumed"] == true, "{report:#}");
    life.assert_equal(&into)
}

/// A server that a restore left running; stopped when this value goes.
struct Left<'a> {
    life: &'a Life,
    into: &'a Path,
    port: u16,
}

impl Left<'_> {
    fn ask(&self, query: &str) -> Result<String> {
        let mut psql = self.life.protected.cluster.tool("psql");
        psql.args(["-XqAt", "-h", "localhost", "-d", "postgres", "-U", SUPERUSER]);
        psql.args(["-p", &self.port.to_string(), "-c", query]);
        Ok(String::from_utf8(process::run(psql)?.stdout)?.trim().to_owned())
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let mut stop = self.life.protected.cluster.tool("pg_ctl");
        stop.arg("-D").arg(self.into).args(["-m", "immediate", "-w", "stop"]);
        let _ = stop.output();
    }
}

const CONTENT: &str = "SELECT count(*) || ' rows, ' || md5(string_agg(n::text, ',' ORDER BY n)) \
     FROM steps";

#[test]
fn a_copy_is_left_paused_or_started_on_the_port_asked_for_or_only_laid_out() -> Result<()> {
    let life = Life::live(15, Place::Folder)?;
    let (archive, source) = (life.protected.archive.as_str(), &life.protected.cluster);
    let expected = source.value("postgres", &CONTENT.replace("steps", "steps WHERE n >= 0"))?;

    let into = life.folder("laid-out")?;
    life.restore(archive, &into, &["--no-run"])?.ok()?;
    life.assert_in_recovery(&into)?;
    ensure!(!into.join("postmaster.pid").exists() && !into.join(".pitr/server.log").exists());

    let (into, port) = (life.folder("paused")?, Port::take()?);
    let number = port.number().to_string();
    let report = life.restore(archive, &into, &["--pause", "--port", &number, "--json"])?.ok()?;
    let report = report.json()?;
    ensure!(report["port"] == port.number() && report["left"] == "paused", "{report:#}");
    let left = Left { life: &life, into: &into, port: port.number() };
    ensure!(left.ask("SELECT pg_is_in_recovery()")? == "t", "not read-only");
    ensure!(left.ask("SELECT pg_get_wal_replay_pause_state()")? == "paused", "not paused");
    let found = left.ask(CONTENT)?;
    ensure!(found == expected, "{found}, not {expected}");
    let refused = left.ask("INSERT INTO steps VALUES (1000)");
    ensure!(refused.is_err_and(|error| format!("{error:#}").contains("read-only")));
    println!("paused on {number} at {}: {found}", report["reached"]);
    // The port is taken: refused before anything is written.
    let other = life.folder("taken")?;
    let output = life.restore(archive, &other, &["--start", "--port", &number])?.code_is(4)?;
    ensure!(output.stderr.contains("PITR-R001") && output.stderr.contains(&number), "{output:?}");
    ensure!(!other.exists(), "something was written");
    drop(left);

    let into = life.folder("started")?;
    let report = life.restore(archive, &into, &["--start", "--port", &number, "--json"])?.ok()?;
    let report = report.json()?;
    ensure!(report["port"] == port.number() && report["left"] == "running", "{report:#}");
    let left = Left { life: &life, into: &into, port: port.number() };
    ensure!(left.ask("SELECT pg_is_in_recovery()")? == "f", "still in recovery");
    let found = left.ask(CONTENT)?;
    ensure!(found == expected, "{found}, not {expected}");
    left.ask("INSERT INTO steps VALUES (1000)").context("not writable")?;
    println!("started on {number} at {}: {found}", report["reached"]);
    Ok(())
}
