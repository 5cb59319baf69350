//! A connection string, read once. Its password is never shown.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria, ServerAddress, Tls};
use proto::mongodb::SourceMode;

use super::Error;

/// How long a member may take to be there.
const SELECTION: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(5);

/// Which member is read from, if there is a choice (`readPreference` of the connection string).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefer {
    Primary,
    Secondary,
}

/// Everything that a connection string says.
#[derive(Clone)]
pub struct ConnectOptions {
    client: ClientOptions,
    /// Only the one host that it names, whatever set that is of.
    pub direct: bool,
    pub prefer: Prefer,
    /// What of the servers is followed. No part of the address.
    pub mode: SourceMode,
}

impl ConnectOptions {
    /// Reads a `mongodb://` or `mongodb+srv://` string; the latter asks the DNS.
    ///
    /// # Errors
    /// [`Error::Address`]; its text never holds the string.
    pub async fn parse(uri: &str) -> Result<Self, Error> {
        check_escapes(uri)?;
        let mut client = ClientOptions::parse(uri).await.map_err(|error| {
            let reason = error.to_string();
            let hidden = secrets(uri).any(|secret| reason.contains(secret));
            Error::Address { reason: if hidden { "it makes no sense".to_owned() } else { reason } }
        })?;
        if client.load_balanced == Some(true) {
            let reason = "loadBalanced=true hides the members of the set".to_owned();
            return Err(Error::Address { reason });
        }
        client.app_name.get_or_insert_with(|| "pitrd".to_owned());
        client.server_selection_timeout = Some(SELECTION);
        client.connect_timeout.get_or_insert(CONNECT);
        client.retry_reads = Some(false);
        trust_the_machine(&mut client);
        let prefer = match &client.selection_criteria {
            Some(SelectionCriteria::ReadPreference(
                ReadPreference::Secondary { .. } | ReadPreference::SecondaryPreferred { .. },
            )) => Prefer::Secondary,
            _ => Prefer::Primary,
        };
        let direct = client.direct_connection == Some(true);
        Ok(Self { client, direct, prefer, mode: SourceMode::Oplog })
    }

    /// The hosts that it names.
    pub fn hosts(&self) -> &[ServerAddress] {
        &self.client.hosts
    }

    /// The set that it names, if it does.
    pub fn set_name(&self) -> Option<&str> {
        self.client.repl_set_name.as_deref()
    }

    pub const fn has_credentials(&self) -> bool {
        self.client.credential.is_some()
    }

    pub const fn is_tls(&self) -> bool {
        matches!(self.client.tls, Some(Tls::Enabled(_)))
    }

    /// The same for one host alone, without asking it for others. Which set it is of is for us to
    /// look at: the driver would only say that it found no server.
    pub(super) fn of_one(&self, host: &ServerAddress) -> ClientOptions {
        let mut client = self.client.clone();
        client.hosts = vec![host.clone()];
        client.direct_connection = Some(true);
        client.repl_set_name = None;
        client.srv_service_name = None;
        client.srv_max_hosts = None;
        // What a secondary is asked, it shall answer.
        let nearest = ReadPreference::Nearest { options: None };
        client.selection_criteria = Some(SelectionCriteria::ReadPreference(nearest));
        client
    }
}

/// Looking at the two characters behind a `%` the driver cuts a letter of several bytes in two, and panics
/// (mongodb 3.9.1, `validate_and_parse_userinfo`).
fn check_escapes(uri: &str) -> Result<(), Error> {
    let cuts = |behind: &str| behind.len() >= 2 && !behind.is_char_boundary(2);
    if uri.split('%').skip(1).any(cuts) {
        let reason = "a % that no two hexadecimal digits follow: write it as %25".to_owned();
        return Err(Error::Address { reason });
    }
    Ok(())
}

/// Without `tlsCAFile` the driver trusts a list that is compiled in: a certificate authority of the
/// house, installed on the machine, is named by `SSL_CERT_FILE` as for other programs.
fn trust_the_machine(client: &mut ClientOptions) {
    if let Some(Tls::Enabled(tls)) = &mut client.tls
        && tls.ca_file_path.is_none()
    {
        tls.ca_file_path =
            std::env::var_os("SSL_CERT_FILE").map(PathBuf::from).filter(|path| path.is_file());
    }
}

/// Whether a connection string holds something that must not stand on a command line.
pub fn holds_secret(uri: &str) -> bool {
    const SECRET_OPTIONS: [&str; 2] = ["tlscertificatekeyfilepassword=", "aws_session_token:"];
    let lower = uri.to_ascii_lowercase();
    is_address(uri)
        && (secrets(uri).any(|secret| !secret.is_empty())
            || SECRET_OPTIONS.iter().any(|option| lower.contains(option)))
}

/// Whether an address is one of MongoDB's.
pub fn is_address(uri: &str) -> bool {
    uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://")
}

/// What of a connection string is nobody's business: the password, as it stands there.
fn secrets(uri: &str) -> impl Iterator<Item = &str> {
    let authority = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    user.and_then(|user| user.split_once(':')).map(|(_, password)| password).into_iter()
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ConnectOptions {
    /// Hosts and set alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts().iter().map(ToString::to_string).collect();
        write!(f, "mongodb://{}/", hosts.join(","))?;
        self.set_name().map_or(Ok(()), |set| write!(f, "?replicaSet={set}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_shown_never_holds_the_password() {
        let uri = "mongodb://sidecar:hush%40x@a:1,b:2/?replicaSet=rs0&readPreference=secondary";
        let options = ConnectOptions::parse(uri).await.expect("it is right");
        for shown in [options.to_string(), format!("{options:?}")] {
            assert_eq!(shown, "mongodb://a:1,b:2/?replicaSet=rs0");
        }
        assert_eq!(options.prefer, Prefer::Secondary);
        assert!(options.has_credentials() && !options.direct && !options.is_tls());
        for bad in ["mongodb://me:hu sh@x@a", "mongodb://me:hush@", "mongodb://me:hush@a/?x=%"] {
            if let Err(error) = ConnectOptions::parse(bad).await {
                assert!(!error.to_string().contains("hu"), "{error}");
            }
        }
        let error = ConnectOptions::parse("mongodb://me:hush:x@a").await.expect_err("two colons");
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn a_secret_in_an_address_is_noticed() {
        let with = ["mongodb://me:hush@a/", "mongodb+srv://me:h@b/?tls=true"];
        let key = "mongodb://a/?tls=true&tlsCertificateKeyFilePassword=x";
        for uri in with.into_iter().chain([key]) {
            assert!(holds_secret(uri), "{uri}");
        }
        for uri in ["mongodb://a:27017,b:1/?replicaSet=rs0", "mongodb://me@a/", "postgres://u:p@h/"]
        {
            assert!(!holds_secret(uri), "{uri}");
        }
    }

    #[tokio::test]
    async fn a_percent_sign_before_a_letter_of_several_bytes_is_no_panic() {
        for uri in ["mongodb://me:hush%€x@a/", "mongodb://me:hush%1é@a/", "mongodb://%€@a/"] {
            let error = ConnectOptions::parse(uri).await.expect_err("no digits follow");
            assert!(matches!(&error, Error::Address { .. }), "{error}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_address_that_hides_the_members_is_refused() {
        let refused = ConnectOptions::parse("mongodb://a/?loadBalanced=true").await;
        assert!(matches!(refused, Err(Error::Address { .. })));
    }
}
