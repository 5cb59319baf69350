//! `cargo demo`: protects a PostgreSQL, drops a table "by accident", restores to just before, and
//! shows that every row is back. `cargo demo mongodb`: the same of a replica set.
//!
//! Enters: an engine's name or none, and `--keep` (the archive stays) or nothing. Leaves: a story on
//! the screen and, unless kept, nothing else. Ended in the middle, it takes its servers and folders
//! with it.

mod cleanup;
mod needs;
mod screen;
mod story;

use std::process::ExitCode;

use screen::Screen;
use story::Engine;

const USAGE: &str = "cargo demo [postgresql|mongodb] [--keep]

  postgresql   a PostgreSQL server (this one, if none is named)
  mongodb      a MongoDB replica set
  --keep       leave the archive, to look at it with pitr
";

/// What was asked for.
struct Asked {
    engine: Engine,
    keep: bool,
}

/// `Err`: what is to be said instead, and how to end.
fn asked(arguments: impl Iterator<Item = String>) -> Result<Asked, (String, ExitCode)> {
    let (mut engine, mut keep) = (None, false);
    for argument in arguments {
        match (argument.as_str(), Engine::of(&argument)) {
            ("--keep", _) => keep = true,
            ("--help" | "-h", _) => return Err((USAGE.to_owned(), ExitCode::SUCCESS)),
            (_, Some(named)) if engine.is_none() => engine = Some(named),
            _ => {
                let known = Engine::ALL.map(Engine::word).join(" and ");
                let said = format!("{argument:?} is not understood; there is {known}\n\n{USAGE}");
                return Err((said, ExitCode::from(2)));
            }
        }
    }
    Ok(Asked { engine: engine.unwrap_or(Engine::Postgres), keep })
}

fn main() -> ExitCode {
    let Asked { engine, keep } = match asked(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err((said, code)) => {
            Screen::new().text(&said);
            return code;
        }
    };
    cleanup::on_signals();
    let mut screen = Screen::new();
    let told = story::tell(&mut screen, engine, keep);
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
