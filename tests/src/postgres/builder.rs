//! From wishes to a cluster on disk. Nothing here starts a server but [`Builder::start`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Cluster, SUPERUSER};
use crate::certificates::Authority;
use crate::fetch;
use crate::ports::Port;
use crate::process;
use crate::scratch::Folder;
use crate::server::Server;

/// What every cluster runs with: small, and everything a replication client needs.
const SETTINGS: &[&str] = &[
    "wal_level = replica",
    "max_wal_senders = 10",
    "max_replication_slots = 10",
    "hot_standby = on",
    "fsync = on",
    "shared_buffers = 32MB",
    "max_wal_size = 1GB",
    "log_line_prefix = '%m [%p] %b '",
    "timezone = UTC",
    "log_timezone = UTC",
    "lc_messages = C",
];

/// The harness itself always comes in by the socket; a test's own lines come before the rest.
const HBA_FIRST: &str = "local all postgres trust\nlocal replication postgres trust\n";
const HBA_LAST: &str = "local all all trust\nlocal replication all trust\n\
     host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";

/// A cluster to be.
#[derive(Debug, Clone)]
pub struct Builder {
    major: u32,
    segment_mb: u32,
    checksums: Option<bool>,
    settings: Vec<String>,
    hba: Vec<String>,
    initdb: Vec<String>,
    tls: bool,
    tablespaces: Vec<String>,
    environment: Vec<(String, String)>,
    faketime: bool,
    wal_disk: Option<u32>,
}

impl Builder {
    pub(super) fn new(major: u32) -> Self {
        Self {
            major,
            segment_mb: 16,
            checksums: None,
            settings: Vec::new(),
            hba: Vec::new(),
            initdb: Vec::new(),
            tls: false,
            tablespaces: Vec::new(),
            environment: Vec::new(),
            faketime: false,
            wal_disk: None,
        }
    }

    /// WAL segments of this many MiB.
    pub fn segment_mb(mut self, mebibytes: u32) -> Self {
        self.segment_mb = mebibytes;
        self
    }

    /// Data checksums, whatever the version's default.
    /// pg_wal on a disk of this size, MiB, that goes when the server stops.
    pub fn wal_disk_mb(mut self, mebibytes: u32) -> Self {
        self.wal_disk = Some(mebibytes);
        self
    }

    pub fn checksums(mut self, on: bool) -> Self {
        self.checksums = Some(on);
        self
    }

    /// A line for postgresql.conf.
    pub fn conf(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("{name} = '{}'", value.replace('\'', "''")));
        self
    }

    /// A line for pg_hba.conf, before those that trust everybody on loopback.
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// A further argument for initdb.
    pub fn initdb(mut self, argument: &str) -> Self {
        self.initdb.push(argument.to_owned());
        self
    }

    /// Speaks TLS with a certificate for `localhost` and 127.0.0.1, and knows client certificates.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// A tablespace in a folder of its own beside the data.
    pub fn tablespace(mut self, name: &str) -> Self {
        self.tablespaces.push(name.to_owned());
        self
    }

    /// A variable of the server's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs under libfaketime, to be steered by [`Cluster::set_clock`].
    pub fn faketime(mut self) -> Self {
        self.faketime = true;
        self
    }

    /// Makes it and starts it.
    pub fn start(self) -> Result<Cluster> {
        let tablespaces = self.tablespaces.clone();
        let mut cluster = self.create()?;
        cluster.start()?;
        for name in tablespaces {
            let folder = cluster.folder.sub(&format!("tablespace-{name}"))?;
            cluster.sql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", folder.display()))?;
            cluster.tablespaces.insert(name, folder);
        }
        Ok(cluster)
    }

    /// Makes it and leaves it stopped, without its tablespaces.
    pub fn create(self) -> Result<Cluster> {
        let mut cluster = self.bare()?;
        let mut initdb = cluster.tool("initdb");
        initdb
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .arg(format!("--username={SUPERUSER}"))
            .arg(format!("--wal-segsize={}", self.segment_mb))
            .args(self.checksums_flag())
            .args(&self.initdb)
            .arg("--pgdata")
            .arg(&cluster.data);
        process::run(initdb).context("initdb failed")?;
        let mut settings: Vec<String> = SETTINGS.iter().map(|&line| line.to_owned()).collect();
        if self.tls {
            settings.extend(self.certify(&mut cluster)?);
        }
        settings.extend(self.settings.iter().cloned());
        append(&cluster.data.join("postgresql.conf"), &settings.join("\n"))?;
        let own: String = self.hba.iter().map(|line| format!("{line}\n")).collect();
        let hba = format!("{HBA_FIRST}{own}{HBA_LAST}");
        std::fs::write(cluster.data.join("pg_hba.conf"), hba)?;
        Ok(cluster)
    }

    /// A folder, a port and the programs, but no data yet.
    pub(super) fn bare(&self) -> Result<Cluster> {
        let prefix = fetch::postgres(self.major)?;
        let folder = Folder::new(&format!("pg{}", self.major))?;
        let mut environment = self.environment.clone();
        if self.faketime {
            environment.extend(faketime(folder.path())?);
        }
        Ok(Cluster {
            major: self.major,
            prefix,
            data: folder.path().join("data"),
            environment,
            authority: None,
            tablespaces: BTreeMap::new(),
            wal_disk: self.wal_disk,
            server: Server::new("PostgreSQL", folder.path()),
            port: Port::take()?,
            folder,
        })
    }

    fn checksums_flag(&self) -> Option<&'static str> {
        match self.checksums {
            Some(true) => Some("--data-checksums"),
            // Off is the default, and has no flag, before 18.
            Some(false) if self.major >= 18 => Some("--no-data-checksums"),
            _ => None,
        }
    }

    fn certify(&self, cluster: &mut Cluster) -> Result<Vec<String>> {
        let folder = cluster.folder.sub("tls")?;
        let authority = Authority::new(&folder, "pitr test authority")?;
        let server = authority.server("server")?;
        let lines = vec![
            "ssl = on".to_owned(),
            format!("ssl_ca_file = '{}'", authority.certificate().display()),
            format!("ssl_cert_file = '{}'", server.certificate.display()),
            format!("ssl_key_file = '{}'", server.key.display()),
        ];
        cluster.authority = Some(authority);
        Ok(lines)
    }
}

impl Cluster {
    /// A server for a folder that exists, such as a restored one. Its files stay as they are: port
    /// and socket are given on the command line. The folder itself stays when this value goes.
    pub fn open(major: u32, data: &Path) -> Result<Self> {
        let mut cluster = Builder::new(major).bare()?;
        cluster.data = data.to_path_buf();
        Ok(cluster)
    }

    /// Sets the clock of a server made with [`Builder::faketime`]: `-1h`, `+0`, or a moment
    /// (`2026-11-20 10:00:00`) at which it stands still.
    pub fn set_clock(&self, setting: &str) -> Result<()> {
        Ok(std::fs::write(clock_file(self.folder.path()), format!("{setting}\n"))?)
    }
}

fn clock_file(folder: &Path) -> PathBuf {
    folder.join("clock")
}

/// Monotonic time stays real, or the server's own waits would break.
fn faketime(folder: &Path) -> Result<Vec<(String, String)>> {
    let library = std::fs::read_dir("/usr/lib")?
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file())
        .context("libfaketimeMT.so.1 is missing: install the package faketime")?;
    std::fs::write(clock_file(folder), "+0\n")?;
    let pairs = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock_file(folder).display().to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
    ];
    Ok(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn append(file: &Path, text: &str) -> Result<()> {
    let mut all = std::fs::read_to_string(file)?;
    all.push_str(text);
    all.push('\n');
    Ok(std::fs::write(file, all)?)
}
