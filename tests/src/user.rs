//! Which user servers run as. PostgreSQL refuses to run as root, so as root they get another user;
//! otherwise they run as ourselves.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result};

/// The unprivileged user that servers run as when the tests run as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl ServerUser {
    /// Whether this user could enter the folder: every ancestor must be searchable by it.
    pub fn reaches(&self, folder: &Path) -> bool {
        folder.ancestors().all(|ancestor| match std::fs::metadata(ancestor) {
            Ok(meta) => {
                let shift = match () {
                    () if meta.uid() == self.uid => 6,
                    () if meta.gid() == self.gid => 3,
                    () => 0,
                };
                (meta.mode() >> shift) & 0o1 != 0
            }
            // What does not exist yet will be made by us, open to others.
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        })
    }
}

/// `None`: servers run as ourselves, because we are not root.
pub fn server_user() -> Option<&'static ServerUser> {
    static USER: OnceLock<Option<ServerUser>> = OnceLock::new();
    USER.get_or_init(|| {
        if !rustix::process::getuid().is_root() {
            return None;
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Some(pick(&passwd).unwrap_or(ServerUser { name: "nobody".into(), uid: 65534, gid: 65534 }))
    })
    .as_ref()
}

fn pick(passwd: &str) -> Option<ServerUser> {
    ["postgres", "nobody"].iter().find_map(|wanted| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let mut fields = line.split(':').skip(2);
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(ServerUser { name: (*wanted).into(), uid, gid })
    })
}

/// The name to give to `--run-as`, if one is needed.
pub fn run_as() -> Option<&'static str> {
    server_user().map(|user| user.name.as_str())
}

/// Gives a path to the user that servers run as.
pub fn hand_over(path: &Path) -> Result<()> {
    if let Some(user) = server_user() {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), user.name))?;
    }
    Ok(())
}
