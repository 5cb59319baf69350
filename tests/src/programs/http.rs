//! The least of HTTP/1.1 that reading metrics on loopback takes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The body of a GET that is answered with 200.
pub(super) fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .with_context(|| format!("nobody listens on port {port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    // HTTP/1.0: the body then ends with the connection, and comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{path} was answered with {}: {body}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
