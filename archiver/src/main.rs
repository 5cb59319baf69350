//! `pitrd`: the sidecar.

fn main() -> std::process::ExitCode {
    let exit = archiver::cli::run(std::env::args_os().collect());
    std::process::ExitCode::from(exit as u8)
}
