//! Connection strings as libpq reads them (src/interfaces/libpq/fe-connect.c), as plain parameters.
//!
//! Enters: `postgresql://…` or `key=value …`. Leaves: a parameter list with known names only.

use std::collections::BTreeMap;
use std::fmt;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

/// Every parameter we act on. libpq knows more; one that we would silently not honour is refused.
const KNOWN: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "passfile",
    "service",
    "channel_binding",
    "connect_timeout",
    "application_name",
    "fallback_application_name",
    "options",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslsni",
    "ssl_min_protocol_version",
    "target_session_attrs",
    "client_encoding",
];

/// Parameters of libpq that would change what is trusted or done, and that we do not implement.
const UNSUPPORTED: &[&str] = &[
    "gssencmode",
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "load_balance_hosts",
    "min_protocol_version",
    "max_protocol_version",
    "oauth_issuer",
    "replication",
    "require_auth",
    "requirepeer",
    "sslcertmode",
    "sslcrl",
    "sslcrldir",
    "sslcompression",
    "sslkeylogfile",
    "sslnegotiation",
    "sslpassword",
    "ssl_max_protocol_version",
];

/// Parameters by name; the password apart, so that nothing can show it.
#[derive(Clone, Default)]
pub struct Parameters {
    values: BTreeMap<&'static str, String>,
    password: Option<SecretString>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriError {
    #[error("unknown connection parameter {name:?}")]
    Unknown { name: String },
    #[error("the connection parameter {name:?} is not supported")]
    Unsupported { name: String },
    #[error("{name} = {value:?} is not valid (expected {expected})")]
    Value { name: &'static str, value: String, expected: &'static str },
    #[error("a connection string is postgresql://… or key=value …: {problem} at byte {at}")]
    Syntax { problem: &'static str, at: usize },
    #[error("{name} has {found} entries for {hosts} hosts")]
    Count { name: &'static str, found: usize, hosts: usize },
    #[error("the service {name:?} is in none of the service files")]
    NoService { name: String },
    #[error("{path}, line {line}: {problem}")]
    ServiceFile { path: String, line: usize, problem: &'static str },
    #[error("cannot read {path}: {kind}")]
    File { path: String, kind: std::io::ErrorKind },
    #[error("there is no user name: give one as user=…, in the URI or as PGUSER")]
    NoUser,
}

impl Parameters {
    /// # Errors
    /// When the text is neither form, or names a parameter that is unknown or not supported.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        match ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme)) {
            Some(rest) => parse_uri(rest, text.len() - rest.len()),
            None => parse_pairs(text),
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref()
    }

    /// Sets a parameter. An empty value counts as not given, as in libpq.
    pub(crate) fn set(&mut self, name: &str, value: String) -> Result<(), UriError> {
        if name == "password" {
            self.password = (!value.is_empty()).then(|| SecretString::from(value));
            return Ok(());
        }
        // JDBC's spelling, which libpq accepts in URIs.
        let (name, value) = if name == "ssl" && value == "true" {
            ("sslmode", "require".to_owned())
        } else {
            (name, value)
        };
        if let Some(known) = KNOWN.iter().find(|known| **known == name) {
            self.values.insert(known, value);
            return Ok(());
        }
        let name = name.to_owned();
        Err(if UNSUPPORTED.contains(&name.as_str()) {
            UriError::Unsupported { name }
        } else {
            UriError::Unknown { name }
        })
    }

    /// Takes from `other` what is not given here.
    pub(crate) fn fill(&mut self, other: Self) {
        for (name, value) in other.values {
            let slot = self.values.entry(name).or_default();
            if slot.is_empty() {
                *slot = value;
            }
        }
        self.password = self.password.take().or(other.password);
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.values).finish()
    }
}

/// `[user[:password]@][host[:port],…][/dbname][?name=value&…]`
fn parse_uri(rest: &str, scheme: usize) -> Result<Parameters, UriError> {
    let mut found = Parameters::default();
    let (head, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = head.split_once('/').unwrap_or((head, ""));
    // A password may hold '@' only percent-encoded, so the last one ends the user part.
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    if let Some(user) = user {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        set_decoded(&mut found, "user", name)?;
        set_decoded(&mut found, "password", password)?;
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for part in hosts.split(',') {
        let (host, port) = split_port(part, scheme)?;
        names.push(decode(host)?);
        ports.push(port);
    }
    if names.iter().any(|name| !name.is_empty()) {
        found.set("host", names.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        found.set("port", ports.join(","))?;
    }
    set_decoded(&mut found, "dbname", dbname)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            let at = scheme + pair.as_ptr() as usize - rest.as_ptr() as usize;
            return Err(UriError::Syntax { problem: "a parameter without '='", at });
        };
        found.set(&decode(name)?, decode(value)?)?;
    }
    Ok(found)
}

fn split_port(part: &str, at: usize) -> Result<(&str, &str), UriError> {
    if let Some(inner) = part.strip_prefix('[') {
        let (host, after) =
            inner.split_once(']').ok_or(UriError::Syntax { problem: "an unclosed '['", at })?;
        let port = match after.strip_prefix(':') {
            Some(port) => port,
            None if after.is_empty() => "",
            None => return Err(UriError::Syntax { problem: "text after ']'", at }),
        };
        return Ok((host, port));
    }
    Ok(part.split_once(':').unwrap_or((part, "")))
}

fn set_decoded(found: &mut Parameters, name: &str, value: &str) -> Result<(), UriError> {
    if value.is_empty() { Ok(()) } else { found.set(name, decode(value)?) }
}

fn decode(text: &str) -> Result<String, UriError> {
    let bad = UriError::Syntax { problem: "a percent-encoding that is not UTF-8", at: 0 };
    percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| bad)
}

/// `name = value …`, values in single quotes when they hold blanks, `\` escapes.
fn parse_pairs(text: &str) -> Result<Parameters, UriError> {
    let mut found = Parameters::default();
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let Some(&(at, _)) = chars.peek() else { return Ok(found) };
        let mut name = String::new();
        while let Some((_, c)) = chars.next_if(|(_, c)| *c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        if chars.next_if(|(_, c)| *c == '=').is_none() || name.is_empty() {
            return Err(UriError::Syntax { problem: "a name without '='", at });
        }
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let value = parse_value(&mut chars, at)?;
        found.set(&name, value)?;
    }
}

fn parse_value(
    chars: &mut std::iter::Peekable<std::str::CharIndices<'_>>,
    at: usize,
) -> Result<String, UriError> {
    let quoted = chars.next_if(|(_, c)| *c == '\'').is_some();
    let mut value = String::new();
    loop {
        match chars.peek() {
            None if quoted => return Err(UriError::Syntax { problem: "an unclosed quote", at }),
            None => return Ok(value),
            Some((_, c)) if !quoted && c.is_whitespace() => return Ok(value),
            _ => {}
        }
        match chars.next() {
            Some((_, '\'')) if quoted => return Ok(value),
            Some((_, '\\')) => value.extend(chars.next().map(|(_, c)| c)),
            Some((_, c)) => value.push(c),
            None => return Ok(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn parse(text: &str) -> Parameters {
        Parameters::parse(text).expect("a valid connection string")
    }

    #[test]
    fn a_uri_names_several_hosts_and_ports() {
        let found = parse(
            "postgresql://u%40x@h1:5432,h2:5433,[::1]/db?sslmode=verify-full&application_name=a%20b",
        );
        assert_eq!(found.get("host"), Some("h1,h2,::1"));
        assert_eq!(found.get("port"), Some("5432,5433,"));
        assert_eq!(found.get("user"), Some("u@x"));
        assert_eq!(found.get("dbname"), Some("db"));
        assert_eq!(found.get("application_name"), Some("a b"));
    }

    #[test]
    fn a_unix_socket_is_a_host_that_is_a_path() {
        assert_eq!(parse("postgres://%2Frun%2Fpg:5433/db").get("host"), Some("/run/pg"));
        assert_eq!(parse("postgresql:///db?host=/run/pg").get("host"), Some("/run/pg"));
        assert_eq!(parse("host=/run/pg port=1").get("host"), Some("/run/pg"));
    }

    #[test]
    fn pairs_may_be_quoted_and_escaped() {
        let found = parse(r"host = a  user='it\'s me' dbname=a\ b options=''");
        assert_eq!(found.get("user"), Some("it's me"));
        assert_eq!(found.get("dbname"), Some("a b"));
        assert_eq!(found.get("options"), Some(""));
    }

    #[test]
    fn an_unknown_parameter_is_named() {
        for text in ["host=a hots=b", "postgresql://a/b?hots=b"] {
            let error = Parameters::parse(text).expect_err("unknown");
            assert_eq!(error, UriError::Unknown { name: "hots".into() }, "{text}");
        }
        let error = Parameters::parse("sslcrl=x").expect_err("unsupported");
        assert_eq!(error, UriError::Unsupported { name: "sslcrl".into() });
    }

    #[test]
    fn a_broken_string_is_refused() {
        for text in ["localhost", "host='a", "=b", "postgresql://h?x", "postgresql://[::1", "host"]
        {
            assert!(matches!(Parameters::parse(text), Err(UriError::Syntax { .. })), "{text}");
        }
    }

    #[test]
    fn a_password_is_found_wherever_it_stands_and_never_shown() {
        for text in
            ["postgresql://u:s%2Fcret@h/", "postgresql://u@h/?password=s/cret", "password='s/cret'"]
        {
            let found = parse(text);
            let password = found.password().expect("a password").expose_secret();
            assert_eq!(password, "s/cret");
            assert!(!format!("{found:?}").contains("cret"), "{text}");
        }
    }
}
