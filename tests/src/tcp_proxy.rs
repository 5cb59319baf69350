//! A TCP proxy inside the test process that misbehaves on demand: between a program and its store
//! or its database.
//!
//! One runtime of its own, so that it works for tests without one and goes on while a test blocks.
//! It counts what it did: a fault test asserts that its fault happened.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// What happens to bytes from now on. "Up" is from client to server, "down" the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Behaviour {
    #[default]
    Pass,
    /// Each piece waits this long in each direction.
    Latency(Duration),
    /// At most this many bytes a second in each direction.
    Rate(u64),
    /// A long way: what is said waits this long, and goes at so many bytes a second for all
    /// connections together.
    Slow { latency: Duration, rate: u64 },
    /// Existing connections are reset, new ones are closed at once.
    Cut,
    /// Connections open, nothing ever comes through.
    Blackhole,
    /// Each connection passes this many bytes up and is then reset.
    CutAfterUp(u64),
    /// Each connection passes this many bytes down and is then reset.
    CutAfterDown(u64),
    /// Each connection has one bit turned over in the byte at this offset of the answer.
    FlipDown(u64),
    /// Each connection has one bit turned over in the byte at this offset of the request.
    FlipUp(u64),
    /// Requests arrive; answers are thrown away and the connection is reset: done, but not told.
    SwallowAnswer,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    faults: AtomicU64,
    requests: AtomicU64,
    /// When a slow link has carried what it was given.
    busy_until: Mutex<Option<Instant>>,
}

/// A running proxy.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    target: Arc<Mutex<SocketAddr>>,
    counters: Arc<Counters>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TcpProxy {
    /// Listens on a free loopback port, for a server on another one.
    pub fn start(target_port: u16) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime
            .block_on_anywhere(TcpListener::bind(("127.0.0.1", 0)))
            .context("cannot listen for the proxy")?;
        let address = listener.local_addr()?;
        let (behaviour, seen) = watch::channel(Behaviour::Pass);
        let target = Arc::new(Mutex::new(SocketAddr::from(([127, 0, 0, 1], target_port))));
        let counters = Arc::new(Counters::default());
        runtime.spawn(accept(listener, target.clone(), seen, counters.clone()));
        Ok(Self { address, behaviour, target, counters, runtime: Some(runtime) })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Holds for open connections too, from their next byte.
    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Where new connections go, as when a name comes to mean another server.
    pub fn set_target(&self, port: u16) {
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        *self.target.lock().expect("no panic under this lock") = target;
    }

    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// Bytes that went from clients to the server.
    pub fn bytes_up(&self) -> u64 {
        self.counters.up.load(Ordering::Relaxed)
    }

    /// Bytes that went from the server to clients.
    pub fn bytes_down(&self) -> u64 {
        self.counters.down.load(Ordering::Relaxed)
    }

    /// Requests of HTTP/1.1 that went up: each begins a piece, as no client of ours sends the next
    /// one before it has the answer.
    pub fn requests(&self) -> u64 {
        self.counters.requests.load(Ordering::Relaxed)
    }

    /// How often a fault was done: a connection cut or refused, a bit turned, a piece held.
    pub fn faults(&self) -> u64 {
        self.counters.faults.load(Ordering::Relaxed)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        // Inside a runtime the usual, waiting drop would panic.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

trait BlockOnAnywhere {
    fn block_on_anywhere<T: Send>(&self, future: impl Future<Output = T> + Send) -> T;
}

impl BlockOnAnywhere for tokio::runtime::Runtime {
    /// `block_on` panics on a thread that already drives a runtime; a fresh thread drives none.
    fn block_on_anywhere<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        std::thread::scope(|scope| match scope.spawn(|| self.block_on(future)).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<Mutex<SocketAddr>>,
    behaviour: watch::Receiver<Behaviour>,
    counters: Arc<Counters>,
) {
    while let Ok((client, _)) = listener.accept().await {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        let target = *target.lock().expect("no panic under this lock");
        tokio::spawn(serve(client, target, behaviour.clone(), counters.clone()));
    }
}

async fn serve(
    mut client: TcpStream,
    target: SocketAddr,
    behaviour: watch::Receiver<Behaviour>,
    counters: Arc<Counters>,
) {
    let now = *behaviour.borrow();
    if now == Behaviour::Cut {
        counters.faults.fetch_add(1, Ordering::Relaxed);
        reset(&client);
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return reset(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let up = Pump {
        up: true,
        passed: 0,
        last: None,
        behaviour: behaviour.clone(),
        counters: counters.clone(),
    };
    let down = Pump { up: false, passed: 0, last: None, behaviour, counters };
    let end = {
        // Borrowed halves: owned ones would end their direction in order when dropped.
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let mut up = std::pin::pin!(up.carry(from_client, to_server));
        let mut down = std::pin::pin!(down.carry(from_server, to_client));
        // The end of one direction leaves the other its say; a break ends both.
        tokio::select! {
            end = &mut up => if end == End::Closed { down.await } else { end },
            end = &mut down => if end == End::Closed { up.await } else { end },
        }
    };
    if end == End::Broken {
        reset(&client);
        reset(&server);
    }
}

/// How a direction ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    Broken,
}

/// Closed after this, a connection is reset instead of ended in order.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// One direction of one connection.
struct Pump {
    up: bool,
    passed: u64,
    /// When a slow link carried its last piece.
    last: Option<Instant>,
    behaviour: watch::Receiver<Behaviour>,
    counters: Arc<Counters>,
}

/// What becomes of a piece.
enum Fate {
    /// Send this many of its bytes and go on.
    Pass(usize),
    /// Send this many of its bytes, then reset the connection.
    Cut(usize),
}

impl Pump {
    async fn carry(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> End {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                changed = self.behaviour.changed() => {
                    if changed.is_err() || *self.behaviour.borrow_and_update() == Behaviour::Cut {
                        self.fault();
                        return End::Broken;
                    }
                    continue;
                }
            };
            let length = match read {
                Ok(0) => {
                    let _ = to.shutdown().await;
                    return End::Closed;
                }
                Ok(length) => length,
                Err(_) => return End::Broken,
            };
            self.count_request(&buffer[..length]);
            let (keep, ends) = match self.decide(&mut buffer[..length]).await {
                Fate::Pass(keep) => (keep, false),
                Fate::Cut(keep) => (keep, true),
            };
            if to.write_all(&buffer[..keep]).await.is_err() || ends {
                return End::Broken;
            }
            self.count(keep as u64);
        }
    }

    async fn decide(&mut self, piece: &mut [u8]) -> Fate {
        let length = piece.len();
        let behaviour = *self.behaviour.borrow_and_update();
        match (behaviour, self.up) {
            (Behaviour::Latency(wait), _) => tokio::time::sleep(wait).await,
            (Behaviour::Rate(rate), _) => {
                let micros = (length as u64).saturating_mul(1_000_000) / rate.max(1);
                tokio::time::sleep(Duration::from_micros(micros)).await;
            }
            (Behaviour::Slow { latency, rate }, _) => self.slow(length, latency, rate).await,
            (Behaviour::Cut, _) | (Behaviour::SwallowAnswer, false) => return self.cut(0),
            (Behaviour::Blackhole, _) => return self.hold().await,
            (Behaviour::CutAfterUp(limit), true) | (Behaviour::CutAfterDown(limit), false) => {
                let left = usize::try_from(limit.saturating_sub(self.passed)).unwrap_or(length);
                if left < length {
                    return self.cut(left);
                }
            }
            (Behaviour::FlipUp(at), true) | (Behaviour::FlipDown(at), false) => {
                let inside = at.checked_sub(self.passed).and_then(|at| usize::try_from(at).ok());
                if let Some(byte) = inside.and_then(|at| piece.get_mut(at)) {
                    *byte ^= 0x10;
                    self.fault();
                }
            }
            _ => {}
        }
        Fate::Pass(length)
    }

    /// The first piece behind a pause is on its way for as long as the way is; those that follow it
    /// are right behind it. All share the link.
    async fn slow(&mut self, length: usize, latency: Duration, rate: u64) {
        let paused = self.last.is_none_or(|last| last.elapsed() >= latency);
        if paused {
            self.fault();
            tokio::time::sleep(latency).await;
        }
        let takes = Duration::from_micros((length as u64).saturating_mul(1_000_000) / rate.max(1));
        let free = {
            let mut busy = self.counters.busy_until.lock().expect("no panic under this lock");
            let now = Instant::now();
            let free = busy.map_or(now, |busy| busy.max(now)) + takes;
            *busy = Some(free);
            free
        };
        tokio::time::sleep_until(free).await;
        self.last = Some(Instant::now());
    }

    /// Holds until something else is wanted; what was swallowed meanwhile would be a hole in the
    /// stream, so the connection ends then.
    async fn hold(&mut self) -> Fate {
        self.fault();
        while *self.behaviour.borrow_and_update() == Behaviour::Blackhole {
            if self.behaviour.changed().await.is_err() {
                break;
            }
        }
        Fate::Cut(0)
    }

    fn cut(&self, keep: usize) -> Fate {
        self.fault();
        Fate::Cut(keep)
    }

    fn fault(&self) {
        self.counters.faults.fetch_add(1, Ordering::Relaxed);
    }

    fn count_request(&self, piece: &[u8]) {
        let begins = ["GET /", "HEAD /", "PUT /", "POST /", "DELETE /"];
        if self.up && begins.iter().any(|begin| piece.starts_with(begin.as_bytes())) {
            self.counters.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&mut self, bytes: u64) {
        self.passed += bytes;
        let total = if self.up { &self.counters.up } else { &self.counters.down };
        total.fetch_add(bytes, Ordering::Relaxed);
    }
}
