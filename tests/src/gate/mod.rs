//! The restore-proof gate, with which every test of a fault ends. Moments go in that were recorded
//! of the server itself while the fault was at work; it passes only if `pitr` agrees about every one
//! of them whether it can be restored, a random one of them is restored and equal, and
//! `pitr verify --read-data` finds nothing.

mod mongodb;
mod postgres;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;

use crate::archive::Archive;
use crate::programs;
use crate::scratch::Folder;
use crate::wait::{self, Deadline};

/// A server whose moments can be recorded, restored and compared.
pub trait Source {
    /// What it held, and where in its log.
    type Moment;

    fn record(&self) -> Result<Self::Moment>;

    /// The arguments of `pitr` that name this moment exactly.
    fn target(moment: &Self::Moment) -> Vec<String>;

    /// What `pitr restore` needs to know of this engine.
    fn restore_arguments(&self) -> Result<Vec<String>>;

    /// Starts what was restored, and fails unless it holds exactly what was recorded.
    fn assert_restored(&self, data: &Path, moment: &Self::Moment) -> Result<()>;
}

/// What `pitr` must say of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
}

/// The independently recorded history of one database.
#[derive(Debug)]
pub struct Gate<S: Source> {
    moments: Vec<(S::Moment, Fate)>,
}

impl<S: Source> Default for Gate<S> {
    fn default() -> Self {
        Self { moments: Vec::new() }
    }
}

impl<S: Source> Gate<S> {
    /// A history without any moment yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records what the server holds now; the archive must be able to give it back.
    pub fn note(&mut self, source: &S) -> Result<&S::Moment> {
        self.add(source.record()?, Fate::Kept)
    }

    /// Records what the server holds now; its log will be lost, and `pitr` must refuse it (exit 10).
    pub fn note_lost(&mut self, source: &S) -> Result<&S::Moment> {
        self.add(source.record()?, Fate::Lost)
    }

    /// A moment that the test has recorded itself and that the archive must be able to give back.
    pub fn keep(&mut self, moment: S::Moment) {
        self.moments.push((moment, Fate::Kept));
    }

    fn add(&mut self, moment: S::Moment, fate: Fate) -> Result<&S::Moment> {
        self.moments.push((moment, fate));
        Ok(&self.moments.last().context("it was added")?.0)
    }

    /// Waits until the archive proves every kept moment, restores a random one of them, compares it
    /// with its record, and has everything verified. A base must be complete. Gives a line for the
    /// report.
    pub fn pass(&self, source: &S, archive: &Archive) -> Result<String> {
        let of = |wanted: Fate| self.moments.iter().filter(move |(_, fate)| *fate == wanted);
        let kept: Vec<&S::Moment> = of(Fate::Kept).map(|(moment, _)| moment).collect();
        ensure!(!kept.is_empty(), "no moment was recorded that can be restored");
        for moment in &kept {
            await_restorable(archive, &S::target(moment))?;
        }
        for (moment, _) in of(Fate::Lost) {
            pitr(archive, "plan", &S::target(moment))?.code_is(10)?;
        }
        let chosen = rand::rng().random_range(0..kept.len());
        let target = S::target(kept[chosen]);
        let what = format!("moment {} of {}, {}", chosen + 1, kept.len(), target.join(" "));
        restore(source, archive, kept[chosen], &target).with_context(|| what.clone())?;
        pitr(archive, "verify", &["--read-data".to_owned()])?.ok()?;
        let line = format!("gate: restored and equal: {what}; {} refused", of(Fate::Lost).count());
        println!("{line}");
        Ok(line)
    }
}

fn pitr(archive: &Archive, command: &str, more: &[String]) -> Result<programs::Output> {
    let fixed = [command, "--archive", archive.url()].map(str::to_owned);
    programs::run("pitr", &[&fixed, more].concat(), &archive.environment())
}

fn await_restorable(archive: &Archive, target: &[String]) -> Result<()> {
    let mut said = String::new();
    let proved = wait::until(&Deadline::seconds(180), "a moment to be restorable", || {
        let plan = pitr(archive, "plan", target)?;
        said.clone_from(&plan.stderr);
        match plan.code {
            Some(0) => Ok(Some(())),
            Some(10) => Ok(None),
            code => bail!("{} ended with {code:?}: {said}", plan.command),
        }
    });
    proved.with_context(|| format!("{}: {said}", target.join(" ")))
}

fn restore<S: Source>(
    source: &S,
    archive: &Archive,
    moment: &S::Moment,
    target: &[String],
) -> Result<()> {
    let folder = Folder::new("gate")?;
    let data = folder.path().join("data");
    let into = ["--into".to_owned(), data.display().to_string()];
    let arguments = [target, &into, &source.restore_arguments()?].concat();
    pitr(archive, "restore", &arguments)?.ok()?;
    source.assert_restored(&data, moment)
}
