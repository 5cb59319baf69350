//! `cargo demo`: protects a PostgreSQL, drops a table "by accident", restores to just before, and
//! shows that every row is back.
//!
//! Enters: `--keep` (the archive stays) or nothing. Leaves: a story on the screen and, unless kept,
//! nothing else. Ended in the middle, it takes its servers and folders with it.

mod cleanup;
mod needs;
mod screen;
mod story;

use std::process::ExitCode;

use screen::Screen;

const USAGE: &str =
    "cargo demo [--keep]\n\n  --keep   leave the archive, to look at it with pitr\n";

fn main() -> ExitCode {
    let mut keep = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            "--help" | "-h" => {
                Screen::new().text(USAGE);
                return ExitCode::SUCCESS;
            }
            other => {
                Screen::new().text(&format!("{other:?} is not understood\n\n{USAGE}"));
                return ExitCode::from(2);
            }
        }
    }
    cleanup::on_signals();
    let mut screen = Screen::new();
    let told = story::tell(&mut screen, keep);
    if cleanup::interrupted() {
        // Whatever went wrong was the end of our own servers; the other thread ends the process.
        loop {
            std::thread::park();
        }
    }
    tests::scratch::remove_root();
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.failed(&error);
            ExitCode::FAILURE
        }
    }
}
