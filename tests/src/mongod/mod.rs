//! Real MongoDB servers. A [`Builder`] makes a replica set (or a standalone server) in private
//! folders; a [`Node`] is started, asked, stopped, killed and frozen; a [`ReplicaSet`] knows its
//! primary; a [`Load`] writes to it; a [`Moment`] is what its collections held at one timestamp. All
//! goes when the value goes.

mod runtime;
mod builder;
mod control;
mod ask;
mod set;
mod load;
mod moment;
mod archived;
mod events;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ::mongodb::Client;

pub use archived::ArchivedOplog;
pub use builder::Builder;
pub use load::{Load, Written};
pub use moment::Moment;
pub use runtime::blocking;
pub use set::ReplicaSet;

use crate::certificates::Authority;
use crate::ports::Port;
use crate::scratch::Folder;
use crate::server::Server;

/// Who may do everything, on servers made with [`Builder::auth`].
pub const ROOT: &str = "root";
pub const ROOT_PASSWORD: &str = "of-the-root";

/// One server: its data folder, and its process while that runs.
#[derive(Debug)]
pub struct Node {
    program: PathBuf,
    arguments: Vec<String>,
    access: Access,
    server: Server,
    client: Mutex<Option<Client>>,
    data: PathBuf,
    port: Port,
    // Last: the folder goes after everything in it.
    folder: Folder,
}

/// What a client of the harness needs beside an address.
#[derive(Debug, Clone, Default)]
struct Access {
    root: bool,
    certificate_authority: Option<PathBuf>,
}

impl Access {
    /// A URI of these hosts, as the user given.
    fn url(&self, user: Option<(&str, &str)>, hosts: &str, more: &[(&str, &str)]) -> String {
        let user = user.map(|(name, password)| format!("{name}:{password}@")).unwrap_or_default();
        let mut parameters: Vec<String> =
            more.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if let Some(authority) = &self.certificate_authority {
            let path = authority.display().to_string().replace('/', "%2F");
            parameters.push(format!("tls=true&tlsCAFile={path}"));
        }
        format!("mongodb://{user}{hosts}/?{}", parameters.join("&"))
    }

    fn root(&self) -> Option<(&'static str, &'static str)> {
        self.root.then_some((ROOT, ROOT_PASSWORD))
    }
}

impl Node {
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// As the members of its set know it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    fn log_tail(&self) -> String {
        self.server.log_tail()
    }

    /// This server alone, whatever set it is of, as one who may do everything.
    pub fn url(&self) -> String {
        self.url_of(self.access.root())
    }

    /// This server alone, as this user and password; `None`: as nobody.
    pub fn url_of(&self, user: Option<(&str, &str)>) -> String {
        self.access.url(user, &self.host(), &[("directConnection", "true")])
    }

    /// A folder beside the data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The authority behind the certificates of servers that speak TLS.
pub(crate) fn authority(folder: &Path) -> anyhow::Result<Authority> {
    Authority::new(folder, "pitr test authority")
}
