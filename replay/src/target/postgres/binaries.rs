//! The server's programs: of the base's major version, and of no other.
//!
//! Enters: `--pg-bin` or nothing, and the major version. Leaves: the folder of a matching server,
//! or what was found instead.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::RestoreError;

/// Where packages put servers: `{}` is the major version.
const USUAL: [&str; 4] = [
    "/usr/lib/postgresql/{}/bin",
    "/usr/pgsql-{}/bin",
    "/usr/local/pgsql-{}/bin",
    "/usr/local/pgsql/bin",
];

/// A server that can run the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    pub folder: PathBuf,
    /// As the server says it: `15.18`.
    pub version: String,
}

impl Binaries {
    /// # Errors
    /// When no server of that major version is there.
    pub fn find(wanted: Option<&Path>, major: u32) -> Result<Self, RestoreError> {
        let mut others = Vec::new();
        let candidates = match wanted {
            Some(folder) => vec![folder.to_owned()],
            None => candidates(major),
        };
        for folder in candidates {
            let Some(version) = version_of(&folder.join("postgres")) else { continue };
            if major_of(&version) == Some(major) {
                return Ok(Self { folder, version });
            }
            others.push(format!("{version} in {}", folder.display()));
        }
        let nothing = match wanted {
            Some(folder) => format!("no server in {}", folder.display()),
            None => "looked in PATH, PG_CONFIG and the usual folders".to_owned(),
        };
        let found = if others.is_empty() { nothing } else { others.join(", ") };
        Err(RestoreError::NoServer { major, found })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where the server looks for libraries (`$libdir`); found from where the server is, as it does
    /// itself (src/port/path.c).
    pub fn library_folder(&self) -> Option<PathBuf> {
        let told = text_of(Command::new(self.program("pg_config")).arg("--pkglibdir"));
        let above = self.folder.parent()?;
        let usual = ["lib", "lib/postgresql", "lib64", "lib64/pgsql"].map(|name| above.join(name));
        told.map(PathBuf::from)
            .into_iter()
            .chain(usual)
            .find(|folder| folder.join("libpqwalreceiver.so").exists())
    }

    /// The settings that this server takes from a configuration file, with their defaults.
    pub fn settings(&self) -> Option<std::collections::BTreeMap<String, String>> {
        let text = text_of(Command::new(self.program("postgres")).arg("--describe-config"))?;
        // name, context, group, type, default, … (help_config.c)
        let line = |line: &str| {
            let mut fields = line.split('\t');
            let name = fields.next()?.to_lowercase();
            Some((name, fields.nth(3).unwrap_or_default().to_owned()))
        };
        let known: std::collections::BTreeMap<_, _> = text.lines().filter_map(line).collect();
        (known.len() > 100).then_some(known)
    }
}

fn candidates(major: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(config) = std::env::var_os("PG_CONFIG") {
        found.extend(text_of(Command::new(config).arg("--bindir")).map(PathBuf::from));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path));
    // A wrapper in the PATH (Debian's pg_config) names the newest version's folder.
    found.extend(text_of(Command::new("pg_config").arg("--bindir")).map(PathBuf::from));
    found.extend(USUAL.iter().map(|usual| PathBuf::from(usual.replace("{}", &major.to_string()))));
    found.extend(
        (14..=30).rev().map(|other| PathBuf::from(format!("/usr/lib/postgresql/{other}/bin"))),
    );
    let mut seen = BTreeSet::new();
    found.retain(|folder| seen.insert(folder.clone()));
    found
}

fn text_of(command: &mut Command) -> Option<String> {
    let output = command.current_dir("/").stderr(std::process::Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim_end().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-1)` is `15.18`.
fn version_of(postgres: &Path) -> Option<String> {
    if !postgres.exists() {
        return None;
    }
    let text = text_of(Command::new(postgres).arg("--version"))?;
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    Some(version.split(' ').next().unwrap_or(version).to_owned())
}

fn major_of(version: &str) -> Option<u32> {
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_by_their_first_number() {
        for (version, major) in [("15.18", 15), ("18beta1", 18), ("9.6.24", 9)] {
            assert_eq!(major_of(version), Some(major), "{version}");
        }
        assert_eq!(major_of("devel"), None);
    }

    #[test]
    fn another_major_version_is_refused_by_name() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let postgres = folder.path().join("postgres");
        std::fs::write(&postgres, "#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.24'\n")
            .expect("made");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&postgres, mode).expect("executable");
        let error = Binaries::find(Some(folder.path()), 15).expect_err("refused");
        assert!(error.to_string().contains("9.6.24"), "{error}");
        assert_eq!(error.exit(), 4);
    }
}
