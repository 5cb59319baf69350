//! Free loopback ports that stay ours: below the range that the kernel hands out, and locked
//! across processes, so that a server can be stopped and started again on its own port.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;

use anyhow::{Context, Result, bail};
use rand::Rng;
use rustix::fs::FlockOperation;

use crate::scratch;

/// Below Linux's default ip_local_port_range, which starts at 32768.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port of 127.0.0.1, ours until this value goes.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    pub fn take() -> Result<Self> {
        let uid = rustix::process::getuid().as_raw();
        let folder = scratch::temp().join(format!("pitr-ports-{uid}"));
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        for _ in 0..1000 {
            let number = rand::rng().random_range(RANGE);
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(number.to_string()))?;
            let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
            if locked.is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port between {} and {}", RANGE.start, RANGE.end)
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
