//! An HTTP proxy before a real S3 server that understands what passes: it counts requests, answers
//! some of them itself with an error, and shows listings as a store does that lags behind.
//!
//! One request a connection to the server, so that an answer ends where the connection does. Signed
//! headers pass as they are: the server sees the client's own request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::Certificate;

mod listing;

/// How requests are answered from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    #[default]
    Pass,
    /// So many of a hundred requests are refused: SlowDown, TooManyRequests, InternalError in turn.
    Storm(u64),
    /// Every request is refused with this status and code.
    Refuse(u16, &'static str),
    /// Listings lack so many of the keys that were created last by now, and have pages of so many
    /// keys.
    Lagging { hidden: usize, page: usize },
}

const STORM: [(u16, &str); 3] =
    [(503, "SlowDown"), (429, "TooManyRequests"), (500, "InternalError")];

#[derive(Debug, Default)]
struct Shared {
    manner: Mutex<Manner>,
    target: u16,
    /// What it shows to clients, if it speaks TLS.
    tls: Mutex<Option<Arc<ServerConfig>>>,
    /// Paths that were created through here, in order.
    created: Mutex<Vec<String>>,
    /// How many there were when the manner was set.
    frozen: AtomicUsize,
    requests: AtomicU64,
    refused: AtomicU64,
    hidden: AtomicU64,
    pages: AtomicU64,
    stop: AtomicBool,
}

/// A running proxy.
#[derive(Debug)]
pub struct S3Front {
    port: u16,
    shared: Arc<Shared>,
}

impl S3Front {
    /// Listens on a free loopback port, for a server on another one.
    pub fn start(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared { target, ..Shared::default() });
        let front = Self { port, shared: shared.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = shared.clone();
                // A client or a server that goes away ends the connection, as it would without us.
                std::thread::spawn(move || shared.welcome(client));
            }
        });
        Ok(front)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds from the next request on.
    pub fn set(&self, manner: Manner) {
        let created = self.shared.created.lock().expect("no panic under this lock").len();
        self.shared.frozen.store(created, Ordering::Relaxed);
        *self.shared.manner.lock().expect("no panic under this lock") = manner;
    }

    /// Speaks TLS from the next connection on, and shows this certificate.
    pub fn show(&self, certificate: &Certificate) -> Result<()> {
        let chain =
            CertificateDer::pem_file_iter(&certificate.certificate)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&certificate.key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        *self.shared.tls.lock().expect("no panic under this lock") = Some(Arc::new(config));
        Ok(())
    }

    /// Requests that came, however they were answered.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Requests that were refused here.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Objects that were created through here.
    pub fn created(&self) -> usize {
        self.shared.created.lock().expect("no panic under this lock").len()
    }

    /// Keys that were left out of listings.
    pub fn hidden(&self) -> u64 {
        self.shared.hidden.load(Ordering::Relaxed)
    }

    /// Listings that were cut into pages.
    pub fn pages(&self) -> u64 {
        self.shared.pages.load(Ordering::Relaxed)
    }
}

impl Drop for S3Front {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener, which then goes.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One request as it came.
struct Request {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Request {
    /// `None` when the client is done.
    fn read(reader: &mut BufReader<impl Read + Write>) -> Result<Option<Self>> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let mut request = Self { head, body: Vec::new() };
        if request.header("transfer-encoding").is_some() {
            bail!("a body without a length: {:?}", request.head);
        }
        if request.header("expect").is_some() {
            reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = request.header("content-length").map_or(Ok(0), str::parse)?;
        request.body.resize(length, 0);
        reader.read_exact(&mut request.body)?;
        Ok(Some(request))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn method(&self) -> &str {
        self.head.first().and_then(|line| line.split(' ').next()).unwrap_or_default()
    }

    /// Path and query.
    fn target(&self) -> (&str, &str) {
        let line = self.head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        line.split_once('?').unwrap_or((line, ""))
    }

    /// What the server answers, whole.
    fn forward(&self, port: u16) -> Result<Vec<u8>> {
        let mut server = TcpStream::connect(("127.0.0.1", port))?;
        let ours = |line: &&String| {
            let name = line.split(':').next().unwrap_or_default();
            !["connection", "expect"].iter().any(|own| name.eq_ignore_ascii_case(own))
        };
        let mut text: String =
            self.head.iter().filter(ours).map(|line| format!("{line}\r\n")).collect();
        text.push_str("Connection: close\r\n\r\n");
        server.write_all(text.as_bytes())?;
        server.write_all(&self.body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

impl Shared {
    fn welcome(&self, client: TcpStream) -> Result<()> {
        let _ = client.set_nodelay(true);
        let tls = self.tls.lock().expect("no panic under this lock").clone();
        match tls {
            Some(tls) => self.serve(StreamOwned::new(ServerConnection::new(tls)?, client)),
            None => self.serve(client),
        }
    }

    fn serve(&self, client: impl Read + Write) -> Result<()> {
        let mut reader = BufReader::new(client);
        while let Some(request) = Request::read(&mut reader)? {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let manner = *self.manner.lock().expect("no panic under this lock");
            let refusal = match manner {
                Manner::Refuse(status, code) => Some((status, code)),
                Manner::Storm(share) if number * 37 % 100 < share => {
                    Some(STORM[usize::try_from(number % 3)?])
                }
                _ => None,
            };
            if let Some((status, code)) = refusal {
                self.refused.fetch_add(1, Ordering::Relaxed);
                reader.get_mut().write_all(refused(status, code, request.method()).as_bytes())?;
                continue;
            }
            let answer = request.forward(self.target)?;
            let answer = self.after(&request, answer, manner)?;
            reader.get_mut().write_all(&answer)?;
            return Ok(reader.get_mut().flush()?);
        }
        Ok(())
    }

    /// Remembers what was created, and shows a listing as the manner says.
    fn after(&self, request: &Request, answer: Vec<u8>, manner: Manner) -> Result<Vec<u8>> {
        let (path, query) = request.target();
        let mut created = self.created.lock().expect("no panic under this lock");
        if request.method() == "PUT" && answer.starts_with(b"HTTP/1.1 200") {
            created.push(path.to_owned());
        }
        let Manner::Lagging { hidden, page } = manner else { return Ok(answer) };
        if !query.contains("list-type=2") {
            return Ok(answer);
        }
        let frozen = self.frozen.load(Ordering::Relaxed);
        let (known, since) = created.split_at(frozen);
        let (older, newest) = known.split_at(frozen - hidden.min(frozen));
        let older = [older, since].concat();
        let bucket = path.trim_end_matches('/');
        let shown = listing::shown(&answer, bucket, &older, newest, page)?;
        self.hidden.fetch_add(shown.hidden, Ordering::Relaxed);
        self.pages.fetch_add(u64::from(shown.cut), Ordering::Relaxed);
        Ok(shown.answer)
    }
}

fn refused(status: u16, code: &str, method: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    let shown = if method == "HEAD" { "" } else { &body };
    format!(
        "HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n\
         {shown}",
        shown.len()
    )
}
