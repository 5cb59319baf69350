//! Recovery never ends early: whatever a store does in the middle of it, the copy is not promoted,
//! one message says why, and the same command goes on once the store is well.

mod shelf;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::archive::Archive;
use tests::postgres::{Cluster, Moment};
use tests::process;
use tests::programs::{self, Output};
use tests::seaweed::{BUCKET, Seaweed};
use tests::tcp_proxy::{Behaviour, TcpProxy};
use tests::user;
use tests::wait::{Deadline, until};

use crate::flow::protected::{Place, Protected};
use shelf::{Harm, Shelf};

/// Segments between the base and the wanted moment, at least.
const SEGMENTS: u32 = 12;

/// An archive that nobody writes to any more, and a moment in it.
pub(crate) struct Life {
    pub(crate) protected: Protected,
    pub(crate) moment: Moment,
    prefix: String,
}

impl Life {
    pub(crate) fn live(major: u32, place: Place) -> Result<Self> {
        let cluster = Cluster::builder(major).segment_mb(1).start()?;
        cluster.sql("CREATE TABLE steps (n int)")?;
        let mut protected = Protected::around(cluster, place, &["--flush", "200ms"])?;
        protected.await_base()?;
        let cluster = &protected.cluster;
        for n in 0..SEGMENTS {
            cluster.sql(&format!("INSERT INTO steps VALUES ({n})"))?;
            cluster.fill_log(1)?;
        }
        let moment = cluster.record("postgres")?;
        cluster.sql("INSERT INTO steps VALUES (-1)")?;
        protected.await_everything()?;
        let ended = protected.pitrd.sigterm(&Deadline::seconds(60))?;
        ensure!(ended.success(), "{}", protected.pitrd.log());
        let prefix = protected.folder.path().file_name().context("a name")?;
        let prefix = prefix.to_string_lossy().into_owned();
        Ok(Self { protected, moment, prefix })
    }

    pub(crate) fn via(&self, proxy: &TcpProxy) -> Result<String> {
        Ok(Seaweed::shared()?.url_via(proxy.port(), BUCKET, &self.prefix))
    }

    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        Ok(self.protected.folder.sub(name)?.join("data"))
    }

    /// The restore of this life's moment, one object at a time.
    fn arguments(&self, archive: &str, into: &Path, more: &[&str]) -> Vec<String> {
        let bin = self.protected.cluster.bin_dir().display().to_string();
        let into = into.display().to_string();
        let mut all = vec!["restore", "--archive", archive, "--into", &into, "--pg-bin", &bin];
        all.extend(["--jobs", "1", "--at", &self.moment.time]);
        if let Some(user) = user::run_as() {
            all.extend(["--run-as", user]);
        }
        all.extend(more);
        all.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn restore(&self, archive: &str, into: &Path, more: &[&str]) -> Result<Output> {
        let environment = &self.protected.environment;
        programs::run("pitr", &self.arguments(archive, into, more), environment)
    }

    /// The same in the background.
    pub(crate) fn begin(&self, archive: &str, into: &Path) -> Result<Begun> {
        let log = into.with_extension("log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = programs::command("pitr")?;
        command.args(self.arguments(archive, into, &[]));
        command.envs(self.protected.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Begun { child: process::spawn(command)?, log, into: into.to_owned() })
    }

    pub(crate) fn assert_equal(&self, into: &Path) -> Result<()> {
        self.protected.assert_restored(into, &self.moment)?;
        Ok(std::fs::remove_dir_all(into)?)
    }

    /// Fails if recovery was ended: a new timeline, or a control file that says so.
    pub(crate) fn assert_in_recovery(&self, into: &Path) -> Result<()> {
        for entry in std::fs::read_dir(into.join("pg_wal"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(!name.ends_with(".history"), "{name}: it was promoted");
        }
        ensure!(into.join("recovery.signal").exists(), "recovery was ended");
        let mut tool = self.protected.cluster.tool("pg_controldata");
        tool.arg(into);
        let said = String::from_utf8(process::run(tool)?.stdout)?;
        let field = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned()).context("a field of pg_controldata")
        };
        let state = field("Database cluster state:")?;
        ensure!(
            ["in archive recovery", "shut down in recovery"].contains(&state.as_str())
            // Before recovery's first restart point the copy's own stands there.
            || state == "in production",
            "{state}"
        );
        let timeline = field("Latest checkpoint's TimeLineID:")?;
        ensure!(timeline == "1", "timeline {timeline}");
        println!("  still {state}, timeline {timeline}");
        Ok(())
    }

    fn shelf(&self) -> Result<Shelf> {
        let folder = Some(PathBuf::from(&self.protected.archive)).filter(|path| path.is_dir());
        let archive = match &folder {
            Some(folder) => Archive::at(folder),
            None => Archive::on_s3(Seaweed::shared()?, &self.prefix),
        };
        let keys = archive.keys("lineage/1/log/")?;
        let sealed = keys.iter().filter(|key| key.contains("/0000"));
        let sealed: Vec<String> = sealed.cloned().collect();
        ensure!(sealed.len() as u32 >= SEGMENTS, "{sealed:?}");
        let tails = archive.keys("lineage/1/tail/")?;
        let open = tails.last().context("there are tails")?.rsplit_once('/').context("a key")?.0;
        let first = tails.iter().find(|key| key.starts_with(open)).context("its first")?;
        let middle = sealed[sealed.len() / 2 + 1].clone();
        let other = sealed[sealed.len() / 2].clone();
        let (prefix, tail) = (self.prefix.clone(), first.clone());
        let parts = archive.keys("lineage/1/base/")?;
        let part = parts.into_iter().find(|key| key.contains(".tar.")).context("a base")?;
        Ok(Shelf { folder, prefix, middle, other, tail, part })
    }
}

/// A restore under way.
pub(crate) struct Begun {
    pub(crate) child: std::process::Child,
    pub(crate) log: PathBuf,
    into: PathBuf,
}

impl Begun {
    /// Waits until recovery is about to begin.
    pub(crate) fn await_layout(&self) -> Result<()> {
        until(&Deadline::seconds(120), "the folder is laid out", || {
            Ok(self.into.join("global/pg_control").exists().then_some(()))
        })
        .with_context(|| self.said())
    }

    /// Waits until recovery has been given so many segments.
    pub(crate) fn await_segments(&self, count: usize) -> Result<()> {
        let log = self.into.join(".pitr/server.log");
        until(&Deadline::seconds(120), "recovery is under way", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            Ok((text.matches("restored log file").count() >= count).then_some(()))
        })
        .with_context(|| self.said())
    }

    pub(crate) fn said(&self) -> String {
        process::tail_of(&self.log, 60)
    }

    /// Its exit code; `None` after a signal.
    pub(crate) fn end(mut self) -> Result<(Option<i32>, String)> {
        let status = process::wait_for(&mut self.child, "pitr restore", &Deadline::seconds(900));
        let status = status.with_context(|| self.said())?;
        Ok((status.code(), self.said()))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

/// The segment's name in a key.
fn segment_of(key: &str) -> &str {
    key.split(['/', '.']).find(|part| part.len() == 24).unwrap_or(key)
}

/// A folder is laid out; then objects that recovery needs are harmed, one after the other.
fn harmed(life: &Life, shelf: &Shelf, harms: &[(&str, Harm)]) -> Result<()> {
    let archive = &life.protected.archive;
    let into = life.folder("harmed")?;
    life.restore(archive, &into, &["--no-run"])?.ok()?;
    life.assert_in_recovery(&into)?;
    for (key, harm) in harms {
        let whole = shelf.harm(key, *harm)?;
        let output = life.restore(archive, &into, &[])?;
        shelf.put(key, whole)?;
        println!("{key} {harm:?}: exit {:?}\n{}", output.code, output.stderr);
        ensure!(output.code.is_some_and(|code| code != 0), "{harm:?}: {}", output.stdout);
        ensure!(output.stderr.matches("error PITR-").count() == 1, "one message");
        ensure!(output.stderr.contains(segment_of(key)), "{key} is not named");
        life.assert_in_recovery(&into)?;
    }
    life.restore(archive, &into, &[])?.ok()?;
    life.assert_equal(&into)
}

/// Cut off in the middle for as long as the restore is willing to wait, which others use.
fn away(life: &Life, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let (archive, into) = (life.via(&proxy)?, life.folder("away")?);
    proxy.set(Behaviour::Latency(Duration::from_millis(40)));
    let begun = life.begin(&archive, &into)?;
    begun.await_layout()?;
    proxy.set(Behaviour::Latency(Duration::from_millis(300)));
    begun.await_segments(1)?;
    proxy.set(Behaviour::Cut);
    meanwhile()?;
    let (code, said) = begun.end()?;
    println!("away: exit {code:?}, {} faults\n{said}", proxy.faults());
    ensure!(proxy.faults() > 0, "nothing was cut");
    ensure!(code == Some(8) && said.contains("error PITR-S001"), "not unreachable: {said}");
    ensure!(said.matches("error PITR-").count() == 1, "one message: {said}");
    ensure!(said.contains("  why:  ") && said.contains("same command goes on"), "{said}");
    life.assert_in_recovery(&into)?;
    proxy.set(Behaviour::Pass);
    life.restore(&archive, &into, &[])?.ok()?;
    life.assert_equal(&into)
}

/// Silent for a while, then slow: it takes as long as it takes.
fn slow(life: &Life) -> Result<()> {
    let proxy = TcpProxy::start(Seaweed::shared()?.port())?;
    let (archive, into) = (life.via(&proxy)?, life.folder("slow")?);
    proxy.set(Behaviour::Latency(Duration::from_millis(40)));
    let begun = life.begin(&archive, &into)?;
    begun.await_layout()?;
    proxy.set(Behaviour::Latency(Duration::from_millis(300)));
    begun.await_segments(1)?;
    proxy.set(Behaviour::Blackhole);
    std::thread::sleep(Duration::from_secs(5));
    life.assert_in_recovery(&into)?;
    proxy.set(Behaviour::Rate(100 << 10));
    let (code, said) = begun.end()?;
    println!("slow: exit {code:?}, {} faults", proxy.faults());
    ensure!(proxy.faults() > 0 && code == Some(0), "{code:?}: {said}");
    life.assert_equal(&into)
}

/// A base of which a part is harmed never becomes a folder that starts.
fn base_harmed(life: &Life, shelf: &Shelf) -> Result<()> {
    let into = life.folder("base")?;
    for harm in [Harm::Short, Harm::Rubbish, Harm::Gone] {
        let whole = shelf.harm(&shelf.part, harm)?;
        let output = life.restore(&life.protected.archive, &into, &[])?;
        shelf.put(&shelf.part, whole)?;
        println!("{} {harm:?}: exit {:?}\n{}", shelf.part, output.code, output.stderr);
        ensure!(output.code.is_some_and(|code| code != 0), "{harm:?}: {}", output.stdout);
        ensure!(output.stderr.contains(&shelf.part), "{} is not named", shelf.part);
        ensure!(!into.join("global/pg_control").exists(), "it could be started");
    }
    life.restore(&life.protected.archive, &into, &[])?.ok()?;
    life.assert_equal(&into)
}

#[test]
fn recovery_never_ends_early_while_an_s3_store_is_away_slow_or_lying() -> Result<()> {
    let life = Life::live(18, Place::S3)?;
    let shelf = life.shelf()?;
    let (middle, tail) = (shelf.middle.clone(), shelf.tail.clone());
    away(&life, || {
        slow(&life)?;
        let harms = [
            (middle.as_str(), Harm::Gone),
            (middle.as_str(), Harm::Rubbish),
            (middle.as_str(), Harm::Other),
            (tail.as_str(), Harm::Gone),
        ];
        harmed(&life, &shelf, &harms)
    })
}

#[test]
fn recovery_never_ends_early_while_files_of_an_archive_are_missing_or_short() -> Result<()> {
    let life = Life::live(15, Place::Folder)?;
    let shelf = life.shelf()?;
    let (middle, tail) = (shelf.middle.as_str(), shelf.tail.as_str());
    let harms =
        [(middle, Harm::Gone), (middle, Harm::Short), (tail, Harm::Rubbish), (tail, Harm::Gone)];
    base_harmed(&life, &shelf)?;
    harmed(&life, &shelf, &harms)?;
    by_the_server_alone(&life, &shelf)
}

/// `pitr wal-fetch` as recovery runs it, in a folder that was only laid out.
fn wal_fetch(into: &Path, name: &str) -> Result<Option<i32>> {
    let taken = into.join("taken");
    let mut command = programs::command("pitr")?;
    let output = command.current_dir(into).args(["wal-fetch", name, "taken"]).output()?;
    let made = taken.exists();
    if made {
        std::fs::remove_file(&taken)?;
    }
    ensure!(made == output.status.success(), "{name}: {output:?}");
    println!("wal-fetch {name}: {:?}", output.status.code());
    Ok(output.status.code())
}

/// A folder laid out with `--no-run`, started by hand: `restore_command` is all that stands between
/// PostgreSQL and the end of its recovery.
fn by_the_server_alone(life: &Life, shelf: &Shelf) -> Result<()> {
    let into = life.folder("alone")?;
    life.restore(&life.protected.archive, &into, &["--no-run"])?.ok()?;
    let middle = segment_of(&shelf.middle);
    let beyond = "0000000100000000000000FF";
    for (name, code) in [
        (middle, 0),
        // The open segment.
        (segment_of(&shelf.tail), 0),
        (beyond, 1),
        ("00000002.history", 1),
        ("000000010000000000000000", 200),
        ("000000010000000000000004.00000028.backup", 200),
        ("rubbish", 200),
    ] {
        let found = wal_fetch(&into, name)?;
        ensure!(found == Some(code), "{name}: {found:?}, not {code}");
    }
    for harm in [Harm::Gone, Harm::Short] {
        let whole = shelf.harm(&shelf.middle, harm)?;
        ensure!(wal_fetch(&into, middle)? == Some(200), "{harm:?}");
        let copy = Cluster::open(life.protected.cluster.major(), &into)?;
        copy.launch(&[])?;
        copy.await_exit(&Deadline::seconds(120))?;
        shelf.put(&shelf.middle, whole)?;
        let log = copy.log();
        ensure!(log.contains("FATAL:  could not restore file"), "{log}");
        ensure!(log.contains(middle) && !log.contains("selected new timeline"), "{log}");
        life.assert_in_recovery(&into)?;
    }
    let copy = Cluster::open(life.protected.cluster.major(), &into)?;
    copy.start()?;
    until(&Deadline::seconds(120), "the target", || {
        let state = copy.value("postgres", "SELECT pg_get_wal_replay_pause_state()")?;
        Ok((state == "paused").then_some(()))
    })?;
    copy.assert_holds(&life.moment)?;
    let position = copy.value("postgres", "SELECT pg_last_wal_replay_lsn()")?;
    println!(
        "PostgreSQL {} by hand from {}: {} ({}) reached at {position}",
        copy.major(),
        life.protected.archive,
        life.moment.time,
        life.moment.lsn
    );
    Ok(())
}
