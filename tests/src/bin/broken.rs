//! `cargo broken`: builds each deliberately broken variant of pitr (`tests/broken`) and shows that the
//! suite catches it. Arguments are names of variants; without any, all of them. What it prints belongs
//! into docs/TESTING.md.
//!
//! Enters: the sources as they are. Leaves: a copy of them below the target folder. Exit code 1 when a
//! variant survives, does not apply or does not compile, or a test fails without one.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use tests::broken::{self, Variant};
use tests::wait::Deadline;

fn main() -> Result<ExitCode> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().context("the package lies in the workspace")?;
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut variants = broken::all(root)?;
    if !wanted.is_empty() {
        variants.retain(|variant| wanted.contains(&variant.name));
    }
    ensure!(!variants.is_empty(), "no such variant");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let bench = Bench { copy: target.join("broken") };
    broken::copy_sources(root, &bench.copy)?;
    bench.control(&variants)?;
    println!("| variant | what catches it | result |\n|---|---|---|");
    let mut survived = 0;
    for variant in &variants {
        let clock = Deadline::seconds(u64::MAX);
        let result = bench.try_variant(variant)?;
        survived += u32::from(result != Outcome::Caught);
        let took = clock.elapsed().as_secs();
        println!("| {} | `{}` | {} ({took} s) |", variant.name, variant.test, result.text());
    }
    Ok(if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where variants are built.
struct Bench {
    /// The sources, and below it what is built of them: cargo tells two copies of a workspace apart by
    /// their target folders alone.
    copy: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Caught,
    Survived,
    DoesNotCompile,
}

impl Outcome {
    const fn text(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Survived => "SURVIVED",
            Self::DoesNotCompile => "DOES NOT COMPILE",
        }
    }
}

impl Bench {
    fn cargo(&self, package: &str) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.copy).env("CARGO_TARGET_DIR", self.copy.join("target"));
        command.args(["test", "--quiet", "--package", package, "--lib"]);
        command
    }

    /// Whether it compiles, and which of these tests failed.
    fn run(&self, package: &str, tests: &[&str]) -> Result<Option<Vec<String>>> {
        if !self.cargo(package).arg("--no-run").output()?.status.success() {
            return Ok(None);
        }
        let mut command = self.cargo(package);
        let done = command.args(["--", "--exact", "--format", "pretty"]).args(tests).output()?;
        let text = String::from_utf8_lossy(&done.stdout);
        let line = |test: &&&str, end| text.contains(&format!("test {test} ... {end}"));
        let failed = tests.iter().filter(|test| line(test, "FAILED") || !line(test, "ok"));
        Ok(Some(failed.map(ToString::to_string).collect()))
    }

    /// Without a variant every test passes.
    fn control(&self, variants: &[Variant]) -> Result<()> {
        let mut packages: Vec<&str> = variants.iter().map(|v| v.package.as_str()).collect();
        packages.sort_unstable();
        packages.dedup();
        for package in packages {
            let of_package = variants.iter().filter(|variant| variant.package == package);
            let mut tests: Vec<&str> = of_package.map(|variant| variant.test.as_str()).collect();
            tests.sort_unstable();
            tests.dedup();
            let failed = self.run(package, &tests)?;
            let failed = failed.with_context(|| format!("{package} does not compile as it is"))?;
            ensure!(failed.is_empty(), "without a variant these fail: {failed:?}");
        }
        Ok(())
    }

    fn try_variant(&self, variant: &Variant) -> Result<Outcome> {
        let changes = variant.changes(&self.copy)?;
        for change in &changes {
            broken::write_if_other(&self.copy.join(&change.path), change.after.as_bytes())?;
        }
        let failed = self.run(&variant.package, &[&variant.test]);
        for change in &changes {
            broken::write_if_other(&self.copy.join(&change.path), change.before.as_bytes())?;
        }
        Ok(match failed? {
            None => Outcome::DoesNotCompile,
            Some(failed) if failed.is_empty() => Outcome::Survived,
            Some(_) => Outcome::Caught,
        })
    }
}
