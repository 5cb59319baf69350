//! `cargo soak`: the whole suite with everything in it (all PostgreSQL versions, the large tables,
//! fifty kills, the slow day), on the same test programs that CI runs; before it five minutes of fuzzing a
//! target. Arguments go to the tests, as in `cargo soak flow::`, and leave the fuzzing out. The last line
//! printed belongs into docs/TESTING.md.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use tests::wait::Deadline;

/// Seconds of each fuzz target.
const FUZZED: &str = "300";

fn main() -> Result<ExitCode> {
    let clock = Deadline::seconds(u64::MAX);
    let sound = std::env::args_os().len() > 1 || fuzz()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--workspace", "--no-fail-fast", "--"]).args(std::env::args_os().skip(1));
    command.env("PITR_SOAK", "1").stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
    let (mut passed, mut failed) = (0_u64, 0_u64);
    let mut screen = std::io::stdout();
    for line in output.lines() {
        let line = line?;
        writeln!(screen, "{line}")?;
        if line.starts_with("test result:") {
            passed += count(&line, "passed");
            failed += count(&line, "failed");
        }
    }
    let status = child.wait()?;
    let day = jiff::Timestamp::now().strftime("%Y-%m-%d");
    let minutes = clock.elapsed().as_secs() / 60;
    let cpus = std::thread::available_parallelism()?;
    writeln!(screen, "| {day} | soak | {cpus} | {passed} | {failed} | {minutes} min |")?;
    Ok(if sound && status.success() && failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the fuzzers find nothing.
fn fuzz() -> Result<bool> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = package.parent().context("the package lies in the workspace")?.join("fuzz/run");
    let status = Command::new(program).arg(FUZZED).status().context("cannot start fuzz/run")?;
    Ok(status.success())
}

/// The number before a word: `12` of `12 passed;`.
fn count(line: &str, word: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|found| found.trim_end_matches([';', '.']) == word);
    at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
}
