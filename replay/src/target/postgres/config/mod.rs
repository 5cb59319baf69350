//! What a restored folder's configuration says: for recovery, and for a copy ever after.
//!
//! Enters: the base's own files, the settings that were saved with it, and the plan. Leaves:
//! `recovery.signal`, two blocks at the end of `postgresql.auto.conf` (one for recovery only, one
//! that stays), and minimal files where the source kept its own outside. Written again, everything
//! comes out the same; after a crash at any line there is no `pg_control` yet, or recovery has
//! everything it needs.

pub mod lines;
mod source;
mod stays;
#[cfg(test)]
mod tests;

pub(super) use lines::quoted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proto::archive::base::Complete;

use super::RestoreError;
use super::binaries::Binaries;
use super::layout::{give, replace};
use crate::fetch::place::Owner;
use crate::fetch::{WORK_FOLDER, command};
use crate::plan::Plan;
use source::{Cleaner, InForce};

const RECOVERY_BEGIN: &str = "# pitr restore: for recovery only, taken out when it has ended";
const STAYS_BEGIN: &str = "# pitr restore: what a copy needs";
const END: &str = "# pitr restore: end";
const AUTO: &str = "postgresql.auto.conf";
/// Authentication while recovery is ours: one socket, in a folder that only its owner enters.
pub(super) const PRIVATE_HBA: &str = "pg_hba.conf";

/// What configuring needs to know.
#[derive(Debug)]
pub struct Sources<'a> {
    pub folder: &'a Path,
    pub base: &'a Complete,
    pub plan: &'a Plan,
    pub binaries: Option<&'a Binaries>,
    pub owner: Option<Owner>,
    /// The program whose `wal-fetch` recovery runs.
    pub program: &'a Path,
    /// Settings that the log turned out to need, beyond what the plan knew.
    pub raised: &'a BTreeMap<String, u64>,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { action, path, source }
}

impl Sources<'_> {
    /// Writes everything; returns what a person should know.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn configure(&self) -> Result<Vec<String>, RestoreError> {
        let mut notes = self.write_missing()?;
        let auto = self.auto_without_blocks()?;
        self.write(AUTO, &auto)?;
        let (in_force, cleaned) = Cleaner::new(self.folder).clean()?;
        notes.extend(cleaned);
        let stays = stays::block(self, &in_force, &mut notes);
        let mut auto = self.auto_without_blocks()?;
        auto.push_str(&in_block(STAYS_BEGIN, &stays));
        auto.push_str(&in_block(RECOVERY_BEGIN, &self.recovery()));
        self.write(AUTO, &auto)?;
        self.write(&format!("{WORK_FOLDER}/{PRIVATE_HBA}"), "local all all trust\n")?;
        self.write(&format!("{WORK_FOLDER}/pg_ident.conf"), "")?;
        // A base of a standby: it must not follow its primary again.
        remove(&self.folder.join("standby.signal"))?;
        Ok(notes)
    }

    /// Makes the next start an archive recovery. Only ever before the folder is sealed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn signal_recovery(&self) -> Result<(), RestoreError> {
        self.write("recovery.signal", "")
    }

    fn write(&self, name: &str, text: &str) -> Result<(), RestoreError> {
        let path = self.folder.join(name);
        replace(&path, text.as_bytes())?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).map_err(io("setting the mode of", &path))?;
        give(&path, self.owner)
    }

    fn auto_without_blocks(&self) -> Result<String, RestoreError> {
        auto_without(self.folder, &[STAYS_BEGIN, RECOVERY_BEGIN])
    }

    /// Files that the source kept outside its data folder.
    fn write_missing(&self) -> Result<Vec<String>, RestoreError> {
        let mut notes = Vec::new();
        let missing = |name: &str| !self.folder.join(name).exists();
        if missing("postgresql.conf") {
            let known = self.binaries.and_then(Binaries::settings);
            let text = stays::minimal_conf(&self.base.postgres().settings, known.as_ref());
            self.write("postgresql.conf", &text)?;
            notes.push(
                "postgresql.conf was kept outside the folder: written from the saved settings"
                    .to_owned(),
            );
        }
        if missing("pg_hba.conf") {
            let saved = self.base.config_files.get("pg_hba.conf").map(String::as_str);
            let text = stays::hba(saved, &mut notes);
            self.write("pg_hba.conf", &text)?;
        }
        if missing("pg_ident.conf") {
            let saved = self.base.config_files.get("pg_ident.conf").cloned().unwrap_or_default();
            self.write("pg_ident.conf", &stays::without_includes(&saved, &mut notes))?;
        }
        Ok(notes)
    }

    /// The settings of the recovery itself.
    fn recovery(&self) -> Vec<(String, String)> {
        let target = &self.plan.target;
        let set = |name: &str, value: String| (name.to_owned(), value);
        vec![
            set("restore_command", restore_command(self.program)),
            // Numeric: "latest" would follow whatever history the archive gains meanwhile.
            set("recovery_target_timeline", target.timeline.to_string()),
            set("recovery_target_lsn", target.lsn.to_string()),
            set("recovery_target_inclusive", on_off(target.inclusive)),
            set("recovery_target_action", "pause".to_owned()),
            set("hot_standby", "on".to_owned()),
            set("primary_conninfo", String::new()),
            set("primary_slot_name", String::new()),
            set("max_logical_replication_workers", "0".to_owned()),
        ]
    }
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

fn in_block(begin: &str, settings: &[(String, String)]) -> String {
    let lines: String =
        settings.iter().map(|(name, value)| format!("{name} = {}\n", quoted(value))).collect();
    format!("{begin}\n{lines}{END}\n")
}

fn auto_without(folder: &Path, blocks: &[&str]) -> Result<String, RestoreError> {
    let path = folder.join(AUTO);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(io("reading", &path)(e)),
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(blocks.iter().fold(text, |text, begin| lines::without_block(&text, begin, END)))
}

fn remove(path: &Path) -> Result<(), RestoreError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("removing", path)(e)),
        _ => Ok(()),
    }
}

/// Takes out what was for recovery only: from here on the folder needs neither archive nor us.
///
/// # Errors
/// When a file cannot be written or removed.
pub fn end_recovery(folder: &Path, owner: Option<Owner>) -> Result<(), RestoreError> {
    let text = auto_without(folder, &[RECOVERY_BEGIN])?;
    let path = folder.join(AUTO);
    replace(&path, text.as_bytes())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode).map_err(io("setting the mode of", &path))?;
    give(&path, owner)?;
    // Of the files as they were copied: recovery has changed them.
    remove(&folder.join("backup_manifest"))
}

/// What PostgreSQL runs, through `sh -c`: the program's path quoted for the shell, and its percent
/// signs for PostgreSQL (percentrepl.c). `exec`, so that the server is the program's own parent.
pub(super) fn restore_command(program: &Path) -> String {
    let path = shell_quoted(&program.display().to_string()).replace('%', "%%");
    format!("exec {path} {} \"%f\" \"%p\"", command::NAME)
}

/// One word for a shell.
pub(super) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// From here on the copy's own rules say who comes in; the socket stays private.
///
/// # Errors
/// When a file cannot be read or written.
pub fn open_to_readers(folder: &Path, owner: Option<Owner>) -> Result<(), RestoreError> {
    for name in ["pg_hba.conf", "pg_ident.conf"] {
        let own = folder.join(name);
        let text = std::fs::read(&own).map_err(io("reading", &own))?;
        let used = folder.join(WORK_FOLDER).join(name);
        replace(&used, &text)?;
        give(&used, owner)?;
    }
    Ok(())
}

/// The program that recovery can run: ourselves, or a copy in the work folder where the server's
/// user may not reach us.
///
/// # Errors
/// When the copy cannot be made.
pub fn reachable_program(
    program: &Path,
    folder: &Path,
    owner: Option<Owner>,
) -> Result<PathBuf, RestoreError> {
    if super::owner::can_run(program, owner) {
        return Ok(program.to_owned());
    }
    let copy = folder.join(WORK_FOLDER).join("pitr");
    remove(&copy)?;
    std::fs::copy(program, &copy).map_err(io("copying", program))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&copy, mode).map_err(io("setting the mode of", &copy))?;
    give(&copy, owner)?;
    Ok(copy)
}
