//! A child process from start to end: wall time, CPU time, peak memory.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::process;
use tokio::time::Instant;

/// What one run of a program cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    pub wall: Duration,
    pub cpu: Duration,
    pub peak_bytes: u64,
}

/// Clock ticks a second in /proc (USER_HZ is 100 on every Linux that PostgreSQL runs on).
pub(crate) const TICKS: u32 = 100;

/// Runs it to its end, looking at /proc often enough that the last look misses little.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: Command) -> Result<Cost> {
    let shown = format!("{command:?}");
    let started = Instant::now();
    let mut child = process::spawn(command)?;
    let mut cost = Cost::default();
    let status = loop {
        if let Some(seen) = look(child.id()) {
            cost.cpu = cost.cpu.max(seen.cpu);
            cost.peak_bytes = cost.peak_bytes.max(seen.peak_bytes);
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    cost.wall = started.elapsed();
    ensure!(status.success(), "{shown} failed: {status}");
    Ok(cost)
}

fn look(pid: u32) -> Option<Cost> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): utime and stime are fields 14 and 15; the name before them may hold spaces.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u32 = fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().ok()?;
    Some(Cost {
        wall: Duration::ZERO,
        cpu: Duration::from_secs(1) * ticks / TICKS,
        peak_bytes: kib * 1024,
    })
}

/// The middle one.
///
/// # Errors
/// When there is none.
pub fn median(mut costs: Vec<Cost>) -> Result<Cost> {
    costs.sort_by_key(|cost| cost.wall);
    costs.get(costs.len() / 2).copied().context("nothing was measured")
}
