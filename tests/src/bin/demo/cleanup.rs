//! Ctrl-C: every server that was started is stopped, every folder removed, then the process ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};
use tests::process;
use tests::wait::Deadline;
use tokio::signal::unix::{SignalKind, signal};

/// As a shell counts it: 128 + SIGINT.
const INTERRUPTED: i32 = 130;
const GRACE_SECONDS: u64 = 15;

static SEEN: AtomicBool = AtomicBool::new(false);

pub(crate) fn interrupted() -> bool {
    SEEN.load(Ordering::Acquire)
}

/// Watches for the signals that end a program, from a thread of its own.
pub(crate) fn on_signals() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        // Without a watch, the default takes its course: the kernel then ends our servers.
        if runtime.block_on(any_signal()).is_err() {
            return;
        }
        SEEN.store(true, Ordering::Release);
        crate::screen::Screen::new().text("\ninterrupted: taking everything down\n");
        end_all();
        tests::scratch::remove_root();
        std::process::exit(INTERRUPTED);
    });
}

async fn any_signal() -> std::io::Result<()> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
    Ok(())
}

/// An immediate shutdown for PostgreSQL, which frees its shared memory; a request for the others,
/// which stop what they started; force for what is left.
fn end_all() {
    let children = descendants();
    for pid in &children {
        let server = name_of(*pid).as_deref() == Some("postgres");
        let _ = kill_process(*pid, if server { Signal::QUIT } else { Signal::TERM });
    }
    let deadline = Deadline::seconds(GRACE_SECONDS);
    while children.iter().any(|pid| process::is_alive(pid.as_raw_nonzero().get()))
        && !deadline.passed()
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    // Those whose parent ended first are nobody's children now.
    let mut left = descendants();
    left.extend(children.iter().filter(|pid| process::is_alive(pid.as_raw_nonzero().get())));
    let _ = process::kill_all(&left);
}

/// Our children, and theirs.
fn descendants() -> Vec<Pid> {
    let mut found = Vec::new();
    let mut open = vec![getpid()];
    while let Some(parent) = open.pop() {
        let parent = u32::try_from(parent.as_raw_nonzero().get()).unwrap_or_default();
        let children = process::children_of(parent);
        open.extend(&children);
        found.extend(children);
    }
    found
}

fn name_of(pid: Pid) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
    Some(text.trim_end().to_owned())
}
