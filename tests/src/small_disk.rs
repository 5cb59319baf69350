//! A small disk of its own for one folder of a process: a tmpfs that it alone sees, and that goes with
//! it, however it ends.

use std::path::Path;
use std::process::Command;

/// The same command, seeing `folder`'s content on a disk of so many MiB. What is written there is
/// gone when it ends. Only root may mount.
pub fn under(command: &Command, folder: &Path, mebibytes: u32) -> Command {
    let script = "kept=$(mktemp -d) && cp -a \"$1/.\" \"$kept\" && owner=$(stat -c %u:%g \"$1\") \
         && mode=$(stat -c %a \"$1\") && mount -t tmpfs -o size=\"$2\" tmpfs \"$1\" \
         && cp -a \"$kept/.\" \"$1\" && rm -rf \"$kept\" && chown \"$owner\" \"$1\" \
         && chmod \"$mode\" \"$1\" && shift 2 && exec \"$@\"";
    let mut small = Command::new("unshare");
    small.args(["-m", "sh", "-c", script, "sh"]).arg(folder).arg(format!("{mebibytes}m"));
    small.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => small.env(name, value),
            None => small.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        small.current_dir(folder);
    }
    small
}
