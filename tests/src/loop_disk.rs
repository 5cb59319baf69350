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
use crate::wait::{self, Deadline};

/// File systems whose users fsync for good reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

/// A mounted file system of its own; gone when this value goes.
#[derive(Debug)]
pub struct LoopDisk {
    system: FileSystem,
    image: PathBuf,
    mount: PathBuf,
    /// What the image lies on, if it is smaller than the image says.
    below: Option<PathBuf>,
    _folder: Folder,
}

impl LoopDisk {
    /// Makes and mounts one. XFS takes no less than 300 MiB; what is not written takes no room.
    pub fn new(system: FileSystem, mebibytes: u64) -> Result<Self> {
        Self::made(system, mebibytes, None)
    }

    /// One that has less room below it than it believes: pages are lost on their way to it, and fsync
    /// says so once.
    pub fn over_promised(system: FileSystem, mebibytes: u64, below: u64) -> Result<Self> {
        Self::made(system, mebibytes, Some(below))
    }

    fn made(system: FileSystem, mebibytes: u64, below: Option<u64>) -> Result<Self> {
        let folder = Folder::new("loop-disk")?;
        let mut image = folder.path().join("image");
        let mut lower = None;
        if let Some(mebibytes) = below {
            let path = folder.sub("below")?;
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(&path);
            process::run(mount)?;
            image = path.join("image");
            lower = Some(path);
        }
        std::fs::File::create(&image)?.set_len(mebibytes << 20)?;
        let mut make = Command::new(match system {
            FileSystem::Ext4 => "mkfs.ext4",
            FileSystem::Xfs => "mkfs.xfs",
        });
        process::run({
            make.arg("-q").arg(&image);
            make
        })?;
        let disk =
            Self { system, image, mount: folder.sub("mount")?, below: lower, _folder: folder };
        disk.mount()?;
        Ok(disk)
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Gives what is below it as much room as this.
    pub fn make_room(&self, mebibytes: u64) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={mebibytes}m")]);
        mount.arg(self.below.as_ref().context("nothing is below it")?);
        process::run(mount).map(drop)
    }

    /// From here on nothing reaches the disk, and every call fails.
    pub fn cut_power(&self) -> Result<()> {
        let mut shutdown = Command::new("xfs_io");
        shutdown.args(["-x", "-c", "shutdown"]).arg(&self.mount);
        process::run(shutdown).context("package xfsprogs")?;
        Ok(())
    }

    /// An error in its metadata, after which ext4 is read-only until it is mounted again
    /// (Documentation/ABI/testing/sysfs-fs-ext4: `trigger_fs_error`).
    pub fn break_down(&self) -> Result<()> {
        let mut find = Command::new("findmnt");
        find.args(["-n", "-o", "SOURCE"]).arg(&self.mount);
        let device = String::from_utf8(process::run(find)?.stdout)?;
        let name = device.trim().trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        std::fs::write(&trigger, "1").with_context(|| trigger.clone())
    }

    /// What is left of it. Whoever had files open must have gone.
    pub fn come_back(&self) -> Result<()> {
        let mut unmount = Command::new("umount");
        unmount.arg(&self.mount);
        process::run(unmount)?;
        self.await_release()?;
        self.mount()
    }

    /// A process with mounts of its own (`unshare -m`) holds a copy of this one too: the same device
    /// would be mounted again, in the state that it is in.
    fn await_release(&self) -> Result<()> {
        wait::until(&Deadline::seconds(300), "the loop device to be let go", || {
            let mut list = Command::new("losetup");
            list.arg("-j").arg(&self.image);
            Ok(process::run(list)?.stdout.is_empty().then_some(()))
        })
    }

    fn mount(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        let options = match self.system {
            FileSystem::Ext4 => "loop,errors=remount-ro",
            FileSystem::Xfs => "loop",
        };
        mount.args(["-o", options]).arg(&self.image).arg(&self.mount);
        process::run(mount).context("loop devices are mounted by root alone")?;
        Ok(())
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // At once for us, and for the disk when the last file is closed.
        for path in std::iter::once(&self.mount).chain(&self.below) {
            let _ = Command::new("umount").arg("-l").arg(path).status();
        }
    }
}
