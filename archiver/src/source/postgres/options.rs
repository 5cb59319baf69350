//! From parameters to what a connection needs, in libpq's order: the string itself, the service,
//! the `PG*` environment, the defaults.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proto::postgres::lsn::Timeline;
use secrecy::SecretString;

use super::environment::Environment;
use super::secret_files::{self, PasswordQuery};
use super::tls::{RootCertificates, SslMode, TlsMin, TlsOptions};
use super::uri::{Parameters, UriError};

const PORT_DEFAULT: u16 = 5432;
/// libpq waits for ever by default; an archiver has other hosts to try and a lag to report.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const APPLICATION_NAME_DEFAULT: &str = "pitr";
/// Where distributions put the socket, and where PostgreSQL itself does.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// A server to try.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: Host,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name (checked against the certificate) and, if given, the address to use for it.
    Tcp { name: String, address: Option<IpAddr> },
    /// The folder that holds the socket `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

#[derive(Clone, Copy, Debug)]
pub struct Keepalives {
    pub enabled: bool,
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
    /// Zero leaves the system's own limit.
    pub user_timeout: Duration,
}

/// A complete description of how to reach a server. Nothing that shows it shows a secret.
#[derive(Clone)]
pub struct ConnectOptions {
    pub endpoints: Vec<Endpoint>,
    pub user: String,
    pub dbname: Option<String>,
    pub application_name: String,
    pub options: Option<String>,
    pub connect_timeout: Duration,
    pub target: TargetSession,
    pub keepalives: Keepalives,
    pub channel_binding: ChannelBinding,
    pub tls: TlsOptions,
    /// Shared by all clones.
    pub newest: NewestTimeline,
    password: Option<SecretString>,
    password_in_text: bool,
    passfile: Option<PathBuf>,
}

/// The newest timeline that is known: of several hosts, one on an older timeline was left behind by
/// a promotion, however much of a primary it is.
#[derive(Clone, Debug, Default)]
pub struct NewestTimeline(Arc<AtomicU32>);

impl NewestTimeline {
    pub fn know(&self, timeline: Timeline) {
        self.0.fetch_max(timeline.0, Ordering::Relaxed);
    }

    pub fn get(&self) -> Timeline {
        Timeline(self.0.load(Ordering::Relaxed))
    }
}

impl ConnectOptions {
    /// # Errors
    /// When the text, a service or a `PG*` variable cannot be understood.
    pub fn parse(text: &str, env: &Environment) -> Result<Self, UriError> {
        let mut given = Parameters::parse(text)?;
        let password_in_text = given.password().is_some();
        let service = given.get("service").map(str::to_owned);
        if let Some(name) = service.as_deref().or_else(|| env.get("PGSERVICE")) {
            given.fill(env.service(name)?);
        }
        given.fill(env.parameters()?);
        Self::complete(&given, env, password_in_text)
    }

    fn complete(
        given: &Parameters,
        env: &Environment,
        password_in_text: bool,
    ) -> Result<Self, UriError> {
        let get = |name| given.get(name).filter(|value| !value.is_empty());
        let user =
            get("user").map(str::to_owned).or_else(|| env.user.clone()).ok_or(UriError::NoUser)?;
        let passfile = get("passfile").map(PathBuf::from).or_else(|| env.home(".pgpass"));
        let application_name = get("application_name").or_else(|| get("fallback_application_name"));
        Ok(Self {
            endpoints: endpoints(given)?,
            user,
            dbname: get("dbname").map(str::to_owned),
            application_name: application_name.unwrap_or(APPLICATION_NAME_DEFAULT).to_owned(),
            options: get("options").map(str::to_owned),
            connect_timeout: match number(given, "connect_timeout")? {
                None | Some(0) => CONNECT_TIMEOUT_DEFAULT,
                Some(seconds) => Duration::from_secs(u64::from(seconds)),
            },
            target: choice(
                given,
                "target_session_attrs",
                TARGETS,
                "any, read-write, read-only, primary or standby",
            )?
            .unwrap_or(TargetSession::Any),
            keepalives: keepalives(given)?,
            channel_binding: choice(
                given,
                "channel_binding",
                BINDINGS,
                "disable, prefer or require",
            )?
            .unwrap_or(ChannelBinding::Prefer),
            tls: tls_options(given, env)?,
            newest: NewestTimeline::default(),
            password: given.password().cloned(),
            password_in_text,
            passfile,
        })
    }

    /// Whether the connection string itself carried a password. On a command line everybody on
    /// the machine could read it.
    pub const fn has_password(&self) -> bool {
        self.password_in_text
    }

    /// The password for one server: the one given, else the password file's.
    pub fn password_for(&self, endpoint: &Endpoint, dbname: &str) -> Option<SecretString> {
        if self.password.is_some() {
            return self.password.clone();
        }
        let text = secret_files::read_password_file(self.passfile.as_deref()?)?;
        let host = match &endpoint.host {
            Host::Tcp { name, .. } => name.clone(),
            Host::Unix(folder) if SOCKET_FOLDERS.iter().any(|f| Path::new(f) == folder) => {
                "localhost".to_owned()
            }
            Host::Unix(folder) => folder.display().to_string(),
        };
        let query = PasswordQuery { host: &host, port: endpoint.port, dbname, user: &self.user };
        secret_files::find_password(&text, query)
    }

    /// The database for plain SQL beside the stream.
    pub fn database(&self) -> &str {
        self.dbname.as_deref().unwrap_or("postgres")
    }
}

const TARGETS: &[(&str, TargetSession)] = &[
    ("any", TargetSession::Any),
    ("read-write", TargetSession::ReadWrite),
    ("read-only", TargetSession::ReadOnly),
    ("primary", TargetSession::Primary),
    ("standby", TargetSession::Standby),
];
const BINDINGS: &[(&str, ChannelBinding)] = &[
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];
const MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];
const VERSIONS: &[(&str, TlsMin)] = &[("TLSv1.2", TlsMin::V1_2), ("TLSv1.3", TlsMin::V1_3)];

fn choice<T: Copy>(
    given: &Parameters,
    name: &'static str,
    known: &[(&str, T)],
    expected: &'static str,
) -> Result<Option<T>, UriError> {
    let Some(value) = given.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    match known.iter().find(|(text, _)| text.eq_ignore_ascii_case(value)) {
        Some((_, found)) => Ok(Some(*found)),
        None => Err(UriError::Value { name, value: value.to_owned(), expected }),
    }
}

fn number(given: &Parameters, name: &'static str) -> Result<Option<u32>, UriError> {
    let Some(value) = given.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let bad = || UriError::Value { name, value: value.to_owned(), expected: "a whole number" };
    value.trim().parse().map(Some).map_err(|_| bad())
}

fn keepalives(given: &Parameters) -> Result<Keepalives, UriError> {
    let seconds = |name, default| {
        let value = number(given, name)?.filter(|seconds| *seconds > 0).unwrap_or(default);
        Ok(Duration::from_secs(u64::from(value)))
    };
    Ok(Keepalives {
        enabled: number(given, "keepalives")? != Some(0),
        idle: seconds("keepalives_idle", 30)?,
        interval: seconds("keepalives_interval", 10)?,
        count: number(given, "keepalives_count")?.filter(|count| *count > 0).unwrap_or(3),
        user_timeout: Duration::from_millis(u64::from(
            number(given, "tcp_user_timeout")?.unwrap_or(0),
        )),
    })
}

fn tls_options(given: &Parameters, env: &Environment) -> Result<TlsOptions, UriError> {
    let get = |name| given.get(name).filter(|value| !value.is_empty());
    let existing = |file| env.home(file).filter(|path| path.exists());
    let roots = match get("sslrootcert") {
        Some("system") => RootCertificates::System,
        Some(path) => RootCertificates::File(path.into()),
        None => {
            existing(".postgresql/root.crt").map_or(RootCertificates::None, RootCertificates::File)
        }
    };
    let expected = "disable, allow, prefer, require, verify-ca or verify-full";
    let mode = choice(given, "sslmode", MODES, expected)?;
    // libpq: certificates of public authorities say nothing without the host name.
    let mode = match (mode, &roots) {
        (None, RootCertificates::System) => SslMode::VerifyFull,
        (Some(mode), RootCertificates::System) if mode != SslMode::VerifyFull => {
            let value = get("sslmode").unwrap_or_default().to_owned();
            return Err(UriError::Value {
                name: "sslmode",
                value,
                expected: "verify-full with sslrootcert=system",
            });
        }
        (mode, _) => mode.unwrap_or(SslMode::Prefer),
    };
    Ok(TlsOptions {
        mode,
        roots,
        certificate: get("sslcert")
            .map(PathBuf::from)
            .or_else(|| existing(".postgresql/postgresql.crt")),
        key: get("sslkey").map(PathBuf::from).or_else(|| existing(".postgresql/postgresql.key")),
        min_version: choice(given, "ssl_min_protocol_version", VERSIONS, "TLSv1.2 or TLSv1.3")?
            .unwrap_or(TlsMin::V1_3),
        sni: number(given, "sslsni")? != Some(0),
    })
}

fn endpoints(given: &Parameters) -> Result<Vec<Endpoint>, UriError> {
    let list = |name| -> Vec<&str> {
        given
            .get(name)
            .filter(|v| !v.is_empty())
            .map(|v| v.split(',').collect())
            .unwrap_or_default()
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let hosts = names.len().max(addresses.len()).max(1);
    for (name, found) in
        [("host", names.len()), ("hostaddr", addresses.len()), ("port", ports.len())]
    {
        let one_for_all = name == "port" && found == 1;
        if found != 0 && found != hosts && !one_for_all {
            return Err(UriError::Count { name, found, hosts });
        }
    }
    (0..hosts)
        .map(|index| {
            let port = ports.get(if ports.len() == 1 { 0 } else { index }).copied().unwrap_or("");
            let port = match port.trim() {
                "" => PORT_DEFAULT,
                text => text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                    UriError::Value { name: "port", value: text.to_owned(), expected: "1 to 65535" }
                })?,
            };
            let name = names.get(index).copied().unwrap_or("");
            let address = addresses.get(index).copied().unwrap_or("");
            Ok(Endpoint { host: host(name, address)?, port })
        })
        .collect()
}

fn host(name: &str, address: &str) -> Result<Host, UriError> {
    if !address.is_empty() {
        let parsed = address.parse().map_err(|_| UriError::Value {
            name: "hostaddr",
            value: address.to_owned(),
            expected: "an IP address",
        })?;
        let name = if name.is_empty() { address } else { name };
        return Ok(Host::Tcp { name: name.to_owned(), address: Some(parsed) });
    }
    if name.is_empty() {
        let folder = SOCKET_FOLDERS.iter().find(|folder| Path::new(folder).is_dir());
        return Ok(Host::Unix(folder.unwrap_or(&"/tmp").into()));
    }
    if name.starts_with('/') {
        return Ok(Host::Unix(name.into()));
    }
    Ok(Host::Tcp { name: name.to_owned(), address: name.parse().ok() })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            Host::Unix(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL at ")?;
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if index == 0 { "" } else { ", " })?;
        }
        write!(f, " as {}", self.user)
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
