//! A file system in a file, which loses what was not synced, as at a power cut.
//!
//! Shut down without a flush of its log (`xfs_io -x -c shutdown`, which ext4 understands too), it
//! fails every further call, and mounted again it holds what was on the disk at that moment.
//! Needs root and loop devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::scratch::Folder;

/// File systems whose users fsync for good reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

/// A mounted file system of its own; gone when this value goes.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
    _folder: Folder,
}

impl LoopDisk {
    /// Makes and mounts one. XFS takes no less than 300 MiB; what is not written takes no room.
    pub fn new(system: FileSystem, mebibytes: u64) -> Result<Self> {
        let folder = Folder::new("loop-disk")?;
        let image = folder.path().join("image");
        std::fs::File::create(&image)?.set_len(mebibytes << 20)?;
        let mut make = Command::new(match system {
            FileSystem::Ext4 => "mkfs.ext4",
            FileSystem::Xfs => "mkfs.xfs",
        });
        process::run({
            make.arg("-q").arg(&image);
            make
        })?;
        let disk = Self { image, mount: folder.sub("mount")?, _folder: folder };
        disk.mount()?;
        Ok(disk)
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// From here on nothing reaches the disk, and every call fails.
    pub fn cut_power(&self) -> Result<()> {
        let mut shutdown = Command::new("xfs_io");
        shutdown.args(["-x", "-c", "shutdown"]).arg(&self.mount);
        process::run(shutdown).context("package xfsprogs")?;
        Ok(())
    }

    /// What is left of it. Whoever had files open must have gone.
    pub fn come_back(&self) -> Result<()> {
        let mut unmount = Command::new("umount");
        unmount.arg(&self.mount);
        process::run(unmount)?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&self.image).arg(&self.mount);
        process::run(mount).context("loop devices are mounted by root alone")?;
        Ok(())
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // At once for us, and for the disk when the last file is closed.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}
