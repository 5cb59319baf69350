//! TLS as libpq's `sslmode` means it, on rustls with the aws-lc-rs provider named explicitly.
//!
//! Enters: options and certificate files. Leaves: a connector and, from an established connection,
//! the channel binding data (RFC 5929 §4.1).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::Class;
use super::tls_verify::{AnyServer, ChainOnly, TrustedItself};

/// In ascending order of strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMin {
    V1_2,
    V1_3,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    None,
    File(PathBuf),
    /// The operating system's (`sslrootcert=system`).
    System,
}

#[derive(Clone, Debug)]
pub struct TlsOptions {
    pub mode: SslMode,
    pub roots: RootCertificates,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub min_version: TlsMin,
    pub sni: bool,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error("cannot read {path}")]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error(
        "sslmode={mode:?} needs a root certificate: set sslrootcert, or put one at ~/.postgresql/root.crt"
    )]
    NoRoots { mode: SslMode },
    #[error("a client certificate needs both sslcert and sslkey")]
    HalfIdentity,
    #[error("{path} can be read by others: chmod 0600 (or 0640 when root owns it)")]
    KeyPermissions { path: PathBuf },
    #[error("{name:?} is neither a host name nor an address")]
    Name { name: String },
    #[error("the server does not offer TLS")]
    NotOffered,
    #[error("the server answered the request for TLS with byte {found:#04x}")]
    BadAnswer { found: u8 },
    #[error("the settings for TLS do not fit together")]
    Settings { source: rustls::Error },
    #[error("the TLS handshake failed")]
    Handshake { source: rustls::Error },
    #[error("the connection broke during the TLS handshake")]
    Broken { source: io::Error },
}

impl TlsError {
    pub(crate) const fn class(&self) -> Class {
        match self {
            Self::Broken { .. } => Class::Retry,
            // The server could not start a process (fe-connect.c: 'E' in place of 'S' or 'N').
            Self::BadAnswer { found: b'E' } => Class::Retry,
            _ => Class::Config,
        }
    }

    /// From what a handshake returned.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(source) => Self::Handshake { source: source.clone() },
            None => Self::Broken { source: error },
        }
    }

    /// `Some` when an I/O error carries a TLS error: with TLS 1.3 a refused client certificate is
    /// only told at the first read after the handshake.
    pub(crate) fn inside(error: &io::Error) -> Option<()> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).map(|_| ())
    }
}

/// The one TLS provider of the program.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// # Errors
/// When a certificate or key cannot be used, or the mode needs roots that are not there.
pub fn client_config(options: &TlsOptions) -> Result<ClientConfig, TlsError> {
    let versions: &[&rustls::SupportedProtocolVersion] = match options.min_version {
        TlsMin::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsMin::V1_3 => &[&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|source| TlsError::Settings { source })?
        .dangerous()
        .with_custom_certificate_verifier(verifier(options)?);
    let mut config = match client_identity(options)? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|source| TlsError::Settings { source })?,
    };
    config.enable_sni = options.sni;
    Ok(config)
}

/// How much of the server's certificate is checked. As in libpq, a root certificate that is there
/// is used even when the mode does not ask for it.
fn verifier(options: &TlsOptions) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let certificates = match &options.roots {
        RootCertificates::None if options.mode >= SslMode::VerifyCa => {
            return Err(TlsError::NoRoots { mode: options.mode });
        }
        RootCertificates::None => return Ok(Arc::new(AnyServer::new(provider()))),
        RootCertificates::File(path) => read_certificates(path)?,
        RootCertificates::System => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if usable == 0 {
        return Err(match &options.roots {
            RootCertificates::File(path) => TlsError::NoCertificate { path: path.clone() },
            _ => TlsError::NoRoots { mode: options.mode },
        });
    }
    let chain = TrustedItself::new(roots, certificates, provider());
    Ok(if options.mode == SslMode::VerifyFull {
        Arc::new(chain)
    } else {
        Arc::new(ChainOnly::new(chain))
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |source| TlsError::Pem { path: path.to_owned(), source };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(fail)?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_identity(options: &TlsOptions) -> Result<Option<ClientIdentity>, TlsError> {
    match (&options.certificate, &options.key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            check_key_permissions(key)?;
            let chain = read_certificates(certificate)?;
            let read = PrivateKeyDer::from_pem_file(key);
            let key = read.map_err(|source| TlsError::Pem { path: key.clone(), source })?;
            Ok(Some((chain, key)))
        }
        _ => Err(TlsError::HalfIdentity),
    }
}

/// As fe-secure-openssl.c: our own key 0600, or root's key 0640.
fn check_key_permissions(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::MetadataExt;
    let fail = |error| TlsError::Pem { path: path.to_owned(), source: pem::Error::Io(error) };
    let metadata = std::fs::metadata(path).map_err(fail)?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden == 0 {
        Ok(())
    } else {
        Err(TlsError::KeyPermissions { path: path.to_owned() })
    }
}

/// Performs the handshake on a connection whose server has answered `S`.
pub(crate) async fn handshake(
    config: Arc<ClientConfig>,
    name: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, TlsError> {
    let server = ServerName::try_from(name.to_owned())
        .map_err(|_| TlsError::Name { name: name.to_owned() })?;
    TlsConnector::from(config).connect(server, stream).await.map_err(TlsError::from_io)
}

/// The `tls-server-end-point` data of a connection, when its certificate's signature algorithm
/// names a hash (an Ed25519 signature names none, and RFC 5929 leaves that case undefined).
pub(crate) fn server_end_point(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    certificate_hash(certificate)
}

/// Signature algorithms by the contents of their DER object identifiers (RFC 5912).
const SHA256: &[&[u8]] = &[
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", // md5WithRSAEncryption: RFC 5929 says SHA-256
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", // sha1WithRSAEncryption: likewise
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", // sha256WithRSAEncryption
    b"\x2a\x86\x48\xce\x3d\x04\x01",         // ecdsa-with-SHA1: likewise
    b"\x2a\x86\x48\xce\x3d\x04\x03\x02",     // ecdsa-with-SHA256
];
const SHA384: &[&[u8]] = &[
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", // sha384WithRSAEncryption
    b"\x2a\x86\x48\xce\x3d\x04\x03\x03",     // ecdsa-with-SHA384
];
const SHA512: &[&[u8]] = &[
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", // sha512WithRSAEncryption
    b"\x2a\x86\x48\xce\x3d\x04\x03\x04",     // ecdsa-with-SHA512
];

fn certificate_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = signature_algorithm(certificate)?;
    if SHA256.contains(&algorithm) {
        Some(Sha256::digest(certificate).to_vec())
    } else if SHA384.contains(&algorithm) {
        Some(Sha384::digest(certificate).to_vec())
    } else if SHA512.contains(&algorithm) {
        Some(Sha512::digest(certificate).to_vec())
    } else {
        None
    }
}

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, … }, … }`
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (body, _) = der_value(certificate, SEQUENCE)?;
    let (_, after_tbs) = der_value(body, SEQUENCE)?;
    let (algorithm, _) = der_value(after_tbs, SEQUENCE)?;
    der_value(algorithm, OBJECT_IDENTIFIER).map(|(oid, _)| oid)
}

/// The contents of the DER value at the front, and what follows it.
fn der_value(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(count)?;
        (digits.iter().fold(0, |value, digit| value << 8 | usize::from(*digit)), rest)
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_the_channel_binding_follows_the_certificates_signature() {
        let certificate = |oid: &[u8]| {
            let mut algorithm = vec![0x06, oid.len() as u8];
            algorithm.extend(oid);
            let mut body = vec![0x30, 0x00, 0x30, algorithm.len() as u8];
            body.extend(algorithm);
            let mut whole = vec![0x30, 0x81, body.len() as u8];
            whole.extend(body);
            whole
        };
        for (oids, length) in [(SHA256, 32), (SHA384, 48), (SHA512, 64)] {
            for oid in oids {
                assert_eq!(certificate_hash(&certificate(oid)).expect("a hash").len(), length);
            }
        }
        let ed25519 = certificate(b"\x2b\x65\x70");
        assert_eq!(certificate_hash(&ed25519), None);
        for end in 0..ed25519.len() {
            assert_eq!(certificate_hash(&ed25519[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn full_verification_without_a_root_is_refused() {
        let options = TlsOptions {
            mode: SslMode::VerifyFull,
            roots: RootCertificates::None,
            certificate: None,
            key: None,
            min_version: TlsMin::V1_3,
            sni: true,
        };
        assert!(matches!(client_config(&options), Err(TlsError::NoRoots { .. })));
        assert!(client_config(&TlsOptions { mode: SslMode::Require, ..options }).is_ok());
    }
}
