//! From an endpoint to an open socket, with or without TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::error::Error;
use super::options::{ConnectOptions, Endpoint, Host, Keepalives};
use super::tls::{self, SslMode, TlsError};

/// A connection's bytes, whatever carries them.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One way of opening a connection; `sslmode` allows one or two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Plain,
    /// Ask for TLS; go on without when the server has none.
    TlsOrPlain,
    Tls,
}

impl Attempt {
    /// In the order in which libpq tries them. The next is tried only when the server refuses.
    pub(crate) const fn of(mode: SslMode, host: &Host) -> &'static [Self] {
        match (mode, host) {
            (_, Host::Unix(_)) | (SslMode::Disable, _) => &[Self::Plain],
            (SslMode::Allow, _) => &[Self::Plain, Self::Tls],
            (SslMode::Prefer, _) => &[Self::TlsOrPlain, Self::Plain],
            (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, _) => &[Self::Tls],
        }
    }
}

impl Socket {
    /// Opens one connection. The caller bounds the time.
    pub(crate) async fn open(
        options: &ConnectOptions,
        endpoint: &Endpoint,
        attempt: Attempt,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Connect { endpoint: endpoint.clone(), source };
        let (name, address) = match &endpoint.host {
            Host::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", endpoint.port));
                return UnixStream::connect(path).await.map(Self::Unix).map_err(failed);
            }
            Host::Tcp { name, address } => (name, address),
        };
        let addresses: Vec<SocketAddr> = match address {
            Some(address) => vec![(*address, endpoint.port).into()],
            None => tokio::net::lookup_host((name.as_str(), endpoint.port))
                .await
                .map_err(failed)?
                .collect(),
        };
        let stream = connect_first(&addresses, endpoint).await?;
        prepare(&stream, options.keepalives).map_err(failed)?;
        let result = match attempt {
            Attempt::Plain => Ok(Self::Tcp(stream)),
            Attempt::Tls | Attempt::TlsOrPlain => upgrade(stream, name, attempt, tls).await,
        };
        result.map_err(|source| Error::Tls { endpoint: endpoint.clone(), source: Box::new(source) })
    }

    /// The `tls-server-end-point` channel binding data, when there is TLS and it is defined.
    pub(crate) fn channel_binding(&self) -> Option<Vec<u8>> {
        match self {
            Self::Tls(stream) => tls::server_end_point(stream),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    pub(crate) const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

async fn connect_first(addresses: &[SocketAddr], endpoint: &Endpoint) -> Result<TcpStream, Error> {
    let mut last = Error::NoAddress { endpoint: endpoint.clone() };
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => last = Error::Connect { endpoint: endpoint.clone(), source },
        }
    }
    Err(last)
}

fn prepare(stream: &TcpStream, keepalives: Keepalives) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, keepalives.enabled)?;
    if keepalives.enabled {
        sockopt::set_tcp_keepidle(stream, keepalives.idle)?;
        sockopt::set_tcp_keepintvl(stream, keepalives.interval)?;
        sockopt::set_tcp_keepcnt(stream, keepalives.count)?;
    }
    let millis = u32::try_from(keepalives.user_timeout.as_millis()).unwrap_or(u32::MAX);
    if millis > 0 {
        sockopt::set_tcp_user_timeout(stream, millis)?;
    }
    Ok(())
}

/// SSLRequest and its one-byte answer. Exactly one byte is read before the handshake, so nothing a
/// third party put in front of it is ever taken for the server's word (CVE-2021-23222).
async fn upgrade(
    mut stream: TcpStream,
    name: &str,
    attempt: Attempt,
    tls: &Arc<ClientConfig>,
) -> Result<Socket, TlsError> {
    let broken = |source| TlsError::Broken { source };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(broken)?;
    match stream.read_u8().await.map_err(broken)? {
        b'S' => {
            tls::handshake(Arc::clone(tls), name, stream).await.map(|s| Socket::Tls(Box::new(s)))
        }
        b'N' if attempt == Attempt::TlsOrPlain => Ok(Socket::Tcp(stream)),
        b'N' => Err(TlsError::NotOffered),
        found => Err(TlsError::BadAnswer { found }),
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
