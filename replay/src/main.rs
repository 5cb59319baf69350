//! `pitr`: for whoever restores. Everything is in the library; this hands it the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    replay::cli::run(std::env::args_os().collect()).into()
}
