//! Whether an earlier run has ended recovery in this folder: told by what the server wrote last.
//!
//! Enters: a laid-out folder. Leaves: yes, when its control file stands on a newer timeline than the
//! target's; else no, with `recovery.signal` in its place.
//!
//! That the signal is gone proves nothing. PostgreSQL 14 removes it (xlog.c, `exitArchiveRecovery`),
//! then runs `restore_command` once more for the parent's history (timeline.c,
//! `writeTimeLineHistory`), and ends there when it is told to stop; any version may lose its power
//! between removing it and the end-of-recovery record. Started without the signal such a folder
//! replays whatever lies in pg_wal, beyond the target, and goes on writing the source's timeline.

use std::process::Command;

use proto::postgres::lsn::Timeline;

use crate::target::postgres::config::Sources;
use crate::target::postgres::server::{self, Start};
use crate::target::postgres::{RestoreError, owner};

/// What pg_controldata calls them: the second one counts once recovery has ended and no checkpoint
/// followed yet.
const TIMELINES: [&str; 2] =
    ["Latest checkpoint's TimeLineID:", "Min recovery ending loc's timeline:"];

/// Waits until no server of an earlier run works in the folder, and tells.
///
/// # Errors
/// When a server goes on running there, or the control file cannot be read.
pub async fn has_ended(start: &Start<'_>, sources: &Sources<'_>) -> Result<bool, RestoreError> {
    server::earlier_has_ended(start.folder).await?;
    if start.folder.join("recovery.signal").exists() {
        return Ok(false);
    }
    if reached(&control_data(start)?) > Some(sources.plan.target.timeline) {
        return Ok(true);
    }
    sources.signal_recovery()?;
    Ok(false)
}

fn control_data(start: &Start<'_>) -> Result<String, RestoreError> {
    let program = start.binaries.program("pg_controldata");
    let mut command = Command::new(&program);
    command.arg("-D").arg(start.folder).current_dir(start.folder).env("LC_ALL", "C");
    owner::as_owner(&mut command, start.owner);
    let failed = |detail: String| RestoreError::Program { program: program.clone(), detail };
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The newest timeline in a control file.
fn reached(text: &str) -> Option<Timeline> {
    let number = |line: &str| {
        let rest = TIMELINES.iter().find_map(|name| line.strip_prefix(name))?;
        rest.trim().parse().ok().map(Timeline)
    };
    text.lines().filter_map(number).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_timeline_of_a_control_file_counts() {
        let text = "Database cluster state:               in archive recovery\n\
                    Latest checkpoint's TimeLineID:       1\n\
                    Latest checkpoint's PrevTimeLineID:   1\n\
                    Min recovery ending loc's timeline:   2\n";
        assert_eq!(reached(text), Some(Timeline(2)));
        assert_eq!(reached("Latest checkpoint's TimeLineID:  7\n"), Some(Timeline(7)));
        assert_eq!(reached("no control file"), None);
    }
}
