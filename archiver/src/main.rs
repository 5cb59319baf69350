//! `pitrd`: the sidecar.

fn main() -> std::process::ExitCode {
    keep_memory_small();
    let exit = archiver::cli::run(std::env::args_os().collect());
    std::process::ExitCode::from(exit as u8)
}

/// Frames are a megabyte each and pass through many threads. Left alone, glibc gives each thread an
/// arena of its own and raises its thresholds with what it sees: hundreds of megabytes that nobody
/// uses (mallopt(3)). What is larger than the threshold goes back at once, at the cost of a page fault
/// every 4 KiB when it comes again: a second for each gigabyte of oplog, where a driver's answers are
/// larger. Five hundred entries of 8 KiB are not.
fn keep_memory_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt sets parameters of the allocator and nothing else; no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 << 20);
    }
}
