//! `pitr`: for whoever restores. Everything is in the library; this hands it the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else looks at the arguments: a parser's own exit code would end recovery.
    if let Some(code) = replay::fetch::command::intercept(std::env::args_os()) {
        return code;
    }
    replay::cli::run(std::env::args_os().collect()).into()
}
