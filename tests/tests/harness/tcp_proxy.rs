//! Each misbehaviour of the proxy, seen from a client of an echo server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;
use tests::tcp_proxy::{Behaviour, TcpProxy};

/// Answers every byte with itself, on one thread a connection.
fn echo() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    Ok(port)
}

fn ask(proxy: &TcpProxy, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(bytes)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

#[test]
fn it_passes_everything_and_counts_it() -> Result<()> {
    let proxy = TcpProxy::start(echo()?)?;
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    proxy.set(Behaviour::Latency(Duration::from_millis(1)));
    assert_eq!(ask(&proxy, &bytes)?, bytes);
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (1_000_000, 1_000_000));
    assert_eq!((proxy.connections(), proxy.faults()), (1, 0));
    Ok(())
}

#[test]
fn it_cuts_and_turns_bits_where_it_is_told() -> Result<()> {
    let proxy = TcpProxy::start(echo()?)?;
    proxy.set(Behaviour::FlipDown(2));
    assert_eq!(ask(&proxy, b"abcdef")?, b"absdef");
    proxy.set(Behaviour::FlipUp(0));
    assert_eq!(ask(&proxy, b"abcdef")?, b"qbcdef");
    let before = proxy.faults();
    for cut in [Behaviour::Cut, Behaviour::CutAfterUp(3), Behaviour::CutAfterDown(3)] {
        proxy.set(cut);
        assert!(ask(&proxy, b"abcdef").is_err(), "{cut:?}");
    }
    assert!(proxy.faults() >= before + 3);
    proxy.set(Behaviour::Pass);
    assert_eq!(ask(&proxy, b"abcdef")?, b"abcdef");
    Ok(())
}

#[test]
fn a_swallowed_answer_leaves_the_request_done() -> Result<()> {
    let proxy = TcpProxy::start(echo()?)?;
    proxy.set(Behaviour::SwallowAnswer);
    assert!(ask(&proxy, b"abcdef").is_err());
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (6, 0));
    Ok(())
}

#[test]
fn a_black_hole_says_nothing_and_a_cut_ends_open_connections() -> Result<()> {
    let proxy = TcpProxy::start(echo()?)?;
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
    stream.write_all(b"x")?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    proxy.set(Behaviour::Blackhole);
    stream.write_all(b"y")?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    let silence = stream.read(&mut byte).expect_err("nothing may come");
    assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock);
    proxy.set(Behaviour::Cut);
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    assert!(matches!(stream.read(&mut byte), Ok(0) | Err(_)));
    Ok(())
}
