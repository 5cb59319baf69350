//! Proving who we are: trust, cleartext, MD5, SCRAM-SHA-256 and, over TLS, SCRAM-SHA-256-PLUS.

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message as Backend};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};

use super::conn::{Connection, Message, Purpose};
use super::error::{Error, ServerError};
use super::options::{ChannelBinding, ConnectOptions};

const DOING: &str = "authenticating";

/// Answers whatever the server asks until it is content.
pub(crate) async fn authenticate(
    connection: &mut Connection,
    options: &ConnectOptions,
    purpose: Purpose,
) -> Result<(), Error> {
    let endpoint = connection.endpoint().clone();
    let method = |method| Error::AuthMethod { endpoint: endpoint.clone(), method };
    // Only SCRAM-SHA-256-PLUS ties the password to this TLS connection.
    let bound = options.channel_binding == ChannelBinding::Require;
    let unbound = || Error::NoChannelBinding { endpoint: endpoint.clone() };
    let mut proved = false;
    loop {
        match next(connection).await? {
            Backend::AuthenticationOk if bound && !proved => return Err(unbound()),
            Backend::AuthenticationOk => return Ok(()),
            Backend::AuthenticationCleartextPassword | Backend::AuthenticationMd5Password(_)
                if bound =>
            {
                return Err(unbound());
            }
            Backend::AuthenticationCleartextPassword => {
                let password = password(connection, options, purpose)?;
                send_password(connection, password.expose_secret().as_bytes())?;
            }
            Backend::AuthenticationMd5Password(body) => {
                let password = password(connection, options, purpose)?;
                let secret = password.expose_secret().as_bytes();
                let hash = md5_hash(options.user.as_bytes(), secret, body.salt());
                send_password(connection, hash.as_bytes())?;
            }
            Backend::AuthenticationSasl(body) => {
                let password = password(connection, options, purpose)?;
                scram(connection, options, &body, &password).await?;
                proved = true;
            }
            Backend::AuthenticationGss | Backend::AuthenticationGssContinue(_) => {
                return Err(method("GSSAPI"));
            }
            Backend::AuthenticationSspi => return Err(method("SSPI")),
            Backend::AuthenticationKerberosV5 => return Err(method("Kerberos")),
            _ => return Err(Error::unexpected("a request for authentication", "another message")),
        }
    }
}

/// The next message; a refusal is an error.
async fn next(connection: &mut Connection) -> Result<Backend, Error> {
    match connection.message(DOING).await? {
        Message::Other(Backend::ErrorResponse(body)) => {
            let source = Box::new(ServerError::from_fields(body.fields()));
            Err(Error::Refused { endpoint: connection.endpoint().clone(), source })
        }
        Message::Other(message) => Ok(message),
        Message::CopyBoth => Err(Error::unexpected("a request for authentication", "a copy")),
    }
}

fn password(
    connection: &Connection,
    options: &ConnectOptions,
    purpose: Purpose,
) -> Result<SecretString, Error> {
    let dbname = match purpose {
        Purpose::Replication => "replication",
        Purpose::Sql => options.database(),
    };
    let endpoint = connection.endpoint();
    options
        .password_for(endpoint, dbname)
        .ok_or_else(|| Error::NoPassword { endpoint: endpoint.clone() })
}

fn send_password(connection: &mut Connection, password: &[u8]) -> Result<(), Error> {
    frontend::password_message(password, &mut connection.output)
        .map_err(|source| Error::Io { doing: DOING, source })
}

async fn scram(
    connection: &mut Connection,
    options: &ConnectOptions,
    offer: &AuthenticationSaslBody,
    password: &SecretString,
) -> Result<(), Error> {
    let broken = |source| Error::Io { doing: DOING, source };
    let offered: Vec<&str> = offer.mechanisms().collect().map_err(broken)?;
    let (mechanism, binding) = mechanism(connection, options, &offered)?;
    let mut scram = ScramSha256::new(password.expose_secret().as_bytes(), binding);
    frontend::sasl_initial_response(mechanism, scram.message(), &mut connection.output)
        .map_err(broken)?;
    let Backend::AuthenticationSaslContinue(body) = next(connection).await? else {
        return Err(Error::unexpected("the server's part of SCRAM", "another message"));
    };
    let endpoint = connection.endpoint().clone();
    let unproved = |source| Error::ServerProof { endpoint: endpoint.clone(), source };
    scram.update(body.data()).map_err(unproved)?;
    frontend::sasl_response(scram.message(), &mut connection.output).map_err(broken)?;
    let Backend::AuthenticationSaslFinal(body) = next(connection).await? else {
        return Err(Error::unexpected("the server's proof", "another message"));
    };
    scram.finish(body.data()).map_err(unproved)
}

/// Channel binding when both sides can, as RFC 5802 §6 wants it; saying "the server does not
/// support it" (`y`) when the server did not offer it, so that a stripped offer is noticed.
fn mechanism(
    connection: &Connection,
    options: &ConnectOptions,
    offered: &[&str],
) -> Result<(&'static str, sasl::ChannelBinding), Error> {
    let endpoint = || connection.endpoint().clone();
    let data =
        connection.channel_binding().filter(|_| options.channel_binding != ChannelBinding::Disable);
    if let Some(data) = data.clone().filter(|_| offered.contains(&sasl::SCRAM_SHA_256_PLUS)) {
        return Ok((sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(data)));
    }
    if options.channel_binding == ChannelBinding::Require {
        return Err(Error::NoChannelBinding { endpoint: endpoint() });
    }
    if !offered.contains(&sasl::SCRAM_SHA_256) {
        return Err(Error::AuthMethod { endpoint: endpoint(), method: "another SASL" });
    }
    let binding = match data {
        Some(_) => sasl::ChannelBinding::unrequested(),
        None => sasl::ChannelBinding::unsupported(),
    };
    Ok((sasl::SCRAM_SHA_256, binding))
}
