//! What a connection string is completed from: `PG*` variables, the home folder, service files.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::secret_files;
use super::uri::{Parameters, UriError};

/// `PG*` variables and the parameters they stand for (fe-connect.c, `PQconninfoOptions`).
const VARIABLES: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGAPPNAME", "application_name"),
    ("PGOPTIONS", "options"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLSNI", "sslsni"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
];

/// The environment a connection string is completed from.
#[derive(Clone, Default)]
pub struct Environment {
    pub variables: HashMap<String, String>,
    /// The operating system's name for the user, the last resort for `user`.
    pub user: Option<String>,
}

impl Environment {
    /// This process's own.
    pub fn process() -> Self {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables: HashMap<_, _> = std::env::vars_os().filter_map(text).collect();
        let uid = rustix::process::geteuid().as_raw().to_string();
        let user = std::fs::read_to_string("/etc/passwd").ok().and_then(|text| {
            text.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)? == uid).then(|| name.to_owned())
            })
        });
        let user = user.or_else(|| variables.get("USER").cloned());
        Self { variables, user }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn home(&self, file: &str) -> Option<PathBuf> {
        self.get("HOME").map(|home| Path::new(home).join(file))
    }

    pub(super) fn service(&self, name: &str) -> Result<Parameters, UriError> {
        let own =
            self.get("PGSERVICEFILE").map(PathBuf::from).or_else(|| self.home(".pg_service.conf"));
        let shared = self.get("PGSYSCONFDIR").unwrap_or("/etc/postgresql-common");
        let shared = Path::new(shared).join("pg_service.conf");
        for path in own.into_iter().chain([shared]) {
            if let Some(found) = secret_files::read_service(&path, name)? {
                return Ok(found);
            }
        }
        Err(UriError::NoService { name: name.to_owned() })
    }

    /// What the `PG*` variables give.
    pub(super) fn parameters(&self) -> Result<Parameters, UriError> {
        let mut found = Parameters::default();
        for (variable, name) in VARIABLES {
            if let Some(value) = self.get(variable) {
                found.set(name, value.to_owned())?;
            }
        }
        Ok(found)
    }
}
