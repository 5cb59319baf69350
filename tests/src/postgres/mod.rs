//! Real PostgreSQL servers. A [`Builder`] makes a cluster in a private folder; a [`Cluster`] is
//! started, asked, stopped, killed and promoted; [`Pgbench`] loads it; a [`Moment`] is what its
//! tables held at one position. All goes when the value goes.

mod builder;
mod control;
mod query;
mod moment;
mod standby;
mod load;
mod fill;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

pub use builder::Builder;
pub use control::Stop;
pub use load::Pgbench;
pub use moment::Moment;

use crate::certificates::Authority;
use crate::ports::Port;
use crate::process::{self, Death};
use crate::scratch::Folder;
use crate::server::Server;
use crate::user;

/// The superuser of every cluster; it needs no password on the unix socket.
pub const SUPERUSER: &str = "postgres";

/// One cluster: its data folder, and its server while that runs.
#[derive(Debug)]
pub struct Cluster {
    major: u32,
    prefix: PathBuf,
    data: PathBuf,
    environment: Vec<(String, String)>,
    authority: Option<Authority>,
    tablespaces: BTreeMap<String, PathBuf>,
    /// The size of a disk of its own for pg_wal, MiB.
    wal_disk: Option<u32>,
    server: Server,
    port: Port,
    // Last: the folder goes after everything in it.
    folder: Folder,
}

impl Cluster {
    /// A cluster of this major version; `.start()` makes it and starts it.
    pub fn builder(major: u32) -> Builder {
        Builder::new(major)
    }

    /// A plain running cluster.
    pub fn start_new(major: u32) -> Result<Self> {
        Builder::new(major).start()
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn wal_dir(&self) -> PathBuf {
        self.data.join("pg_wal")
    }

    /// Where the server's unix socket lies: a host for libpq.
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// A folder beside the data that the server's user may write to.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        self.folder.sub(name)
    }

    /// Where a tablespace lies.
    pub fn tablespace(&self, name: &str) -> Option<&Path> {
        self.tablespaces.get(name).map(PathBuf::as_path)
    }

    /// The authority behind the server's certificate, if it speaks TLS.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// The folder of this version's programs.
    pub fn bin_dir(&self) -> PathBuf {
        self.prefix.join("bin")
    }

    /// The path of one of this version's programs.
    pub fn bin(&self, tool: &str) -> PathBuf {
        self.prefix.join("bin").join(tool)
    }

    /// One of this version's programs, run as the server's user, dying with us.
    pub fn tool(&self, tool: &str) -> Command {
        let mut command = process::command(self.bin(tool), user::server_user(), Death::Kill);
        self.prepare(&mut command);
        command
    }

    /// `HOME` must be a folder that the user can enter: libpq looks there for TLS files. The
    /// packages' modules (libpqwalreceiver) name no folder for libpq, and must not find another.
    fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("LC_ALL", "C")
            .env("LD_LIBRARY_PATH", self.prefix.join("lib"))
            .env_remove("LANG");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
    }

    /// A libpq URI over loopback.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.port())
    }

    /// [`Self::url`] with more parameters, such as `("sslmode", "verify-full")`.
    pub fn url_with(&self, user: &str, database: &str, parameters: &[(&str, &str)]) -> String {
        let mut url = self.url(user, database);
        for (index, (name, value)) in parameters.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(&format!("{name}={}", value.replace('/', "%2F")));
        }
        url
    }

    /// A libpq URI over the unix socket.
    pub fn socket_url(&self, user: &str, database: &str) -> String {
        let host = self.socket_dir().display().to_string().replace('/', "%2F");
        format!("postgresql://{user}@/{database}?host={host}&port={}", self.port())
    }

    /// What `pitrd --source` is given: the superuser on loopback.
    pub fn replication_url(&self) -> String {
        self.url(SUPERUSER, "postgres")
    }
}
