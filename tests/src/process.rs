//! Starting processes that never outlive the test process, and ending them by pid.
//!
//! `setpriv` switches the user and asks the kernel to signal the child when its parent dies. The
//! kernel means the parent *thread* (prctl(2), PR_SET_PDEATHSIG), and a test is a thread: so all
//! children are started by one thread that lives as long as the process.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::{Mutex, OnceLock, mpsc};

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::user::ServerUser;
use crate::wait::{self, Deadline};

/// What a child is sent when we die, as setpriv(1) names it.
#[derive(Debug, Clone, Copy)]
pub enum Death {
    Kill,
    /// For PostgreSQL: an immediate shutdown, which takes the postmaster's children along.
    Quit,
}

/// A command that gets `death` when we die, run as `user` if one is given.
pub fn command(program: impl AsRef<OsStr>, user: Option<&ServerUser>, death: Death) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        match death {
            Death::Kill => "KILL",
            Death::Quit => "QUIT",
        },
    ]);
    if let Some(user) = user {
        command
            .arg(format!("--reuid={}", user.uid))
            .arg(format!("--regid={}", user.gid))
            .arg("--clear-groups");
    }
    command.arg("--").arg(program);
    command
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts it from the thread that lives as long as the process.
pub fn spawn(command: Command) -> Result<Child> {
    static STARTER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            while let Ok((mut command, answer)) = inbox.recv() {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let shown = format!("{command:?}");
    let (answer, started) = mpsc::channel();
    starter
        .lock()
        .expect("the starter's lock is never held over a panic")
        .send((command, answer))
        .context("the thread that starts processes is gone")?;
    started.recv()?.with_context(|| format!("cannot start {shown}"))
}

/// Runs it to its end; anything but success is an error that holds what it said.
pub fn run(mut command: Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

/// Sends a signal to a child that we have not yet waited for.
pub fn signal(child: &Child, signal: Signal) -> Result<()> {
    let raw = i32::try_from(child.id())?;
    let pid = Pid::from_raw(raw).context("a child has a pid")?;
    kill_process(pid, signal).with_context(|| format!("cannot signal {raw}"))
}

/// Waits for its end.
pub fn wait_for(child: &mut Child, what: &str, deadline: &Deadline) -> Result<ExitStatus> {
    wait::until(deadline, &format!("the end of {what}"), || Ok(child.try_wait()?))
}

/// Kills and reaps. For Drop: no error can be reported there.
pub fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The processes whose parent is `parent`.
pub fn children_of(parent: u32) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            (parent_of(pid)? == parent).then(|| Pid::from_raw(pid)).flatten()
        })
        .collect()
}

/// The fourth field of proc_pid_stat(5); the second is in parentheses and may hold anything.
fn parent_of(pid: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Kills them and waits until they are gone. They may be nobody's children by now, so they are
/// watched in /proc.
pub fn kill_all(pids: &[Pid]) -> Result<()> {
    for pid in pids {
        let _ = kill_process(*pid, Signal::KILL);
    }
    wait::until(&Deadline::seconds(30), "killed processes to go", || {
        let alive = pids.iter().any(|pid| is_alive(pid.as_raw_nonzero().get()));
        Ok((!alive).then_some(()))
    })
}

/// Whether it runs: a zombie does not.
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(')').map(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
        })
        .unwrap_or(false)
}

/// The last lines of a log, for a message.
pub fn tail_of(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).map(|raw| String::from_utf8_lossy(&raw).into_owned());
    let text = text.unwrap_or_else(|error| format!("({error})"));
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
