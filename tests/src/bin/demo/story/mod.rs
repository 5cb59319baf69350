//! The story itself, in the order in which it happens, the same for every engine.

mod postgres;
mod mongodb;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::position::ByteCount;
use tests::hashes::{Hashes, differences};
use tests::programs::{self, Pitrd};
use tests::scratch::{self, Folder};
use tests::wait::Deadline;

use crate::needs;
use crate::screen::Screen;

const LOAD_SECONDS: u64 = 15;

/// A story that can be told, by the word that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Postgres,
    Mongodb,
}

impl Engine {
    pub(crate) const ALL: [Self; 2] = [Self::Postgres, Self::Mongodb];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Mongodb => "mongodb",
        }
    }

    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.word() == word)
    }
}

/// What was there just before the accident.
struct Before {
    hashes: Hashes,
    /// By the server's clock, as `--at` takes it.
    time: String,
}

/// The database that is protected, and broken.
trait Server {
    /// What it has: one of its containers, and one of what lies in them.
    const WORDS: (&'static str, &'static str);
    /// What loads it.
    const LOAD: &'static str;

    /// As `pitrd run --source` takes it.
    fn source(&self) -> String;

    /// Loads it while `meanwhile` lasts. What was done, in words.
    fn load(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<String>;

    fn record(&self) -> Result<Before>;

    /// Does it, and goes on working. What was lost.
    fn accident(&self, screen: &Screen) -> Result<String>;

    /// Waits until all that it has by now is in the archive.
    fn await_archived(&self, pitrd: &mut Pitrd, archive: &str) -> Result<()>;

    /// What `pitr restore` needs to know beside the moment.
    fn restore_arguments(&self) -> Result<Vec<String>>;

    fn hashes(&self) -> Result<Hashes>;

    /// Of the restored folder.
    fn hashes_of(&self, copy: &Path) -> Result<Hashes>;
}

/// The lag while the load ran, in seconds.
struct Lag {
    middle: f64,
    most: f64,
}

pub(crate) fn tell(screen: &mut Screen, engine: Engine, keep: bool) -> Result<()> {
    match engine {
        Engine::Postgres => {
            screen.line("pitr: protect a PostgreSQL server, break it, bring it back as it was.");
            prepare(screen, &["tar"])?;
            let server = postgres::start(screen)?;
            tell_of(screen, &server, keep)
        }
        Engine::Mongodb => {
            screen.line("pitr: protect a MongoDB replica set, break it, bring it back as it was.");
            prepare(screen, &[])?;
            let server = mongodb::start(screen)?;
            tell_of(screen, &server, keep)
        }
    }
}

fn prepare(screen: &Screen, more: &[&'static str]) -> Result<()> {
    needs::tools(more)?;
    needs::programs(screen)
}

fn tell_of<S: Server>(screen: &mut Screen, server: &S, keep: bool) -> Result<()> {
    let folder = Folder::new("demo")?;
    let archive = folder.path().join("archive");
    let place = archive.display().to_string();
    let mut pitrd = protect(screen, server, &place)?;
    let lag = load(screen, server, &pitrd)?;
    let before = accident(screen, server, &mut pitrd, &place)?;
    let copy = folder.path().join("restored");
    let took = restore(screen, server, &place, &copy, &before)?;
    compare(screen, server, &copy, &before)?;

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
        screen.note(&format!("the archive        {place} ({size}), removed now; --keep leaves it"));
    }
    screen.note(&format!("all of it          {:.0} s", screen.seconds()));
    Ok(())
}

fn protect<S: Server>(screen: &mut Screen, server: &S, place: &str) -> Result<Pitrd> {
    screen.step("Protect it: one command");
    let source = server.source();
    screen.command(&format!("pitrd run --source '{source}' --archive {place}"));
    let pitrd = Pitrd::builder(&source, place).start()?;
    let started = Deadline::seconds(120);
    let status = programs::wait_for_status(place, &[], "the first base", &started, |status| {
        status["windows"].as_array().is_some_and(|windows| !windows.is_empty())
    })?;
    let base = status["bases"][0]["id"].as_str().unwrap_or("?").to_owned();
    let seconds = started.elapsed().as_secs_f64();
    screen.note(&format!("archive, log and base {base} made by itself in {seconds:.1} s"));
    screen.command(&format!("pitr status --archive {place}"));
    let said = programs::pitr(&["status", "--archive", place])?.ok()?;
    screen.note(said.stdout.lines().next().unwrap_or_default());
    Ok(pitrd)
}

fn load<S: Server>(screen: &mut Screen, server: &S, pitrd: &Pitrd) -> Result<Lag> {
    screen.step(&format!("Load it: {}, {LOAD_SECONDS} seconds", S::LOAD));
    let mut seen = Vec::new();
    let done = server.load(|| {
        let deadline = Deadline::seconds(LOAD_SECONDS);
        while !deadline.passed() {
            std::thread::sleep(Duration::from_millis(100));
            seen.extend(pitrd.metrics()?.sum("pitr_rpo_lag_seconds"));
        }
        Ok(())
    })?;
    seen.sort_by(f64::total_cmp);
    let most = *seen.last().context("pitrd tells no lag")?;
    let lag = Lag { middle: seen[seen.len() / 2], most };
    screen.note(&format!(
        "{done}; what was committed and not yet in the archive: {:.2} s (median), {most:.2} s at most",
        lag.middle
    ));
    Ok(lag)
}

fn accident<S: Server>(
    screen: &mut Screen,
    server: &S,
    pitrd: &mut Pitrd,
    place: &str,
) -> Result<Before> {
    screen.step("An accident");
    let before = server.record()?;
    screen.note(&format!("a hash of each {} is noted down at {}", S::WORDS.0, before.time));
    let victim = server.accident(screen)?;
    ensure!(!server.hashes()?.contains_key(&victim), "{victim} was dropped and is still there");
    screen.note(&format!("{victim} is gone, and work goes on in the other {}s", S::WORDS.0));
    server.await_archived(pitrd, place)?;
    Ok(before)
}

/// Seconds that it took.
fn restore<S: Server>(
    screen: &mut Screen,
    server: &S,
    place: &str,
    into: &Path,
    before: &Before,
) -> Result<f64> {
    screen.step("Restore to just before");
    let into = into.display().to_string();
    let arguments = ["restore", "--archive", place, "--at", &before.time, "--into", &into];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
    arguments.extend(server.restore_arguments()?);
    screen.command(&format!("pitr {}", arguments.join(" ")));
    let began = Deadline::seconds(600);
    let output = programs::pitr(&arguments)?.ok()?;
    let took = began.elapsed().as_secs_f64();
    screen.note(&output.stdout);
    Ok(took)
}

fn compare<S: Server>(screen: &mut Screen, server: &S, copy: &Path, before: &Before) -> Result<()> {
    let (container, content) = S::WORDS;
    screen.step(&format!("Compare: every {container}'s content, by hash"));
    let (broken, back) = (server.hashes()?, server.hashes_of(copy)?);
    let rows = format!("{content}s");
    screen.note(&format!("{container:28} {rows:>10}  {:12}  restored", "broken server"));
    for (name, recorded) in &before.hashes {
        let rows = recorded.split(':').next().unwrap_or_default();
        let word = |now: Option<&String>| match now {
            Some(now) if now == recorded => "equal",
            Some(_) => "differs",
            None => "missing",
        };
        let (now, back) = (word(broken.get(name)), word(back.get(name)));
        screen.note(&format!("{name:28} {rows:>10}  {now:13}  {back}"));
    }
    let differs = differences(&before.hashes, &back);
    ensure!(differs.is_empty(), "what is back is not what was there: {}", differs.join(", "));
    screen.good(&format!("every {content} is back as it was at {}", before.time));
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
