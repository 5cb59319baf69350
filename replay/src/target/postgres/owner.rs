//! Whose the data folder is and as whom the server runs: never root.
//!
//! Enters: `--run-as`, or nothing. Leaves: ids that the name service knows, or nothing when we are
//! that user ourselves.

use std::path::Path;
use std::process::Command;

use super::RestoreError;
use crate::fetch::place::Owner;

/// The user that servers run as when root does not say: what packages create.
const DEFAULT_USER: &str = "postgres";

/// The owner of what is restored; `None` is ourselves.
///
/// # Errors
/// When we are root and there is no such user, or not root and asked for another user.
pub fn resolve(run_as: Option<&str>) -> Result<Option<Owner>, RestoreError> {
    let me = rustix::process::geteuid();
    let Some(name) = name(run_as) else { return Ok(None) };
    let owner = lookup(name).filter(|owner| owner.uid != 0);
    match owner {
        Some(owner) if owner.uid == me.as_raw() => Ok(None),
        Some(owner) if me.is_root() => Ok(Some(owner)),
        Some(_) => Err(RestoreError::NotRoot { name: name.to_owned(), uid: me.as_raw() }),
        None => Err(RestoreError::NoUser { name: name.to_owned() }),
    }
}

/// The user that a server is to run as, if that is not plainly ourselves.
pub(super) fn name(run_as: Option<&str>) -> Option<&str> {
    run_as.or(rustix::process::geteuid().is_root().then_some(DEFAULT_USER))
}

/// By `id`, which asks whatever name service the machine uses.
fn lookup(name: &str) -> Option<Owner> {
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, "--", name]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some(Owner { uid: id("-u")?, gid: id("-g")? })
}

/// Whether `owner` may run the program.
pub fn can_run(program: &Path, owner: Option<Owner>) -> bool {
    let mut test = Command::new("test");
    test.arg("-x").arg(program).current_dir("/");
    as_owner(&mut test, owner);
    test.status().is_ok_and(|status| status.success())
}

/// Runs the command as that user, with none of our groups.
pub fn as_owner(command: &mut Command, owner: Option<Owner>) {
    use std::os::unix::process::CommandExt;
    if let Some(owner) = owner {
        command.uid(owner.uid).gid(owner.gid);
    }
}
