//! What systemd is told (sd_notify(3)): ready, where we stand, and that we are alive.
//!
//! Enters: the state. Leaves: datagrams to `$NOTIFY_SOCKET`, if there is one. The watchdog is fed
//! only while something moves: a sidecar that hangs is then started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::clock::Clock;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::line;
use super::state::{Phase, State};

/// Nothing that is tried may take longer than this between two signs of life.
const STUCK: Duration = Duration::from_secs(120);
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Begun, or waiting for a source or store that is away: both are what was asked for.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Without a supervisor nobody listens, which is no error.
fn tell(states: &[NotifyState]) {
    let _ = sd_notify::notify(states);
}

/// Tells status and life until stopped; `stuck` is what `/health` answers by.
pub async fn tend(
    current: watch::Receiver<Option<Arc<State>>>,
    clock: Arc<dyn Clock>,
    stuck: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    // Half of what systemd waits, as sd_watchdog_enabled(3) advises.
    let watchdog = sd_notify::watchdog_enabled().map(|timeout| timeout / 2);
    let every = watchdog.map_or(STATUS_EVERY, |half| half.min(STATUS_EVERY));
    let mut pulse = Pulse::default();
    loop {
        let state = current.borrow().clone();
        let alive = pulse.look(state.as_deref(), &*clock, &stuck);
        if let Some(state) = &state {
            tell(&[NotifyState::Status(&line::short(state))]);
        }
        if watchdog.is_some() && alive {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// When each half of the pipeline last moved.
#[derive(Debug, Default)]
struct Pulse {
    capture: (u64, Duration),
    store: (u64, Duration),
}

impl Pulse {
    /// Whether it moves; tells `stuck`, and the log when that changes. Before the first pipeline
    /// there is nothing that could hang.
    pub(super) fn look(
        &mut self,
        state: Option<&State>,
        clock: &dyn Clock,
        stuck: &AtomicBool,
    ) -> bool {
        let alive = state.is_none_or(|state| self.moves(state, clock.monotonic()));
        match (stuck.swap(!alive, Ordering::Relaxed), alive) {
            (false, false) => tracing::error!(seconds = STUCK.as_secs(), "stuck: nothing moves"),
            (true, true) => tracing::warn!("moving again"),
            _ => {}
        }
        alive
    }

    fn moves(&mut self, state: &State, now: Duration) -> bool {
        let idle = state.positions().0.is_none_or(|received| Some(received) <= state.stored());
        // Who waits for its turn has nothing to bring up, whatever it had received before.
        let idle = idle || matches!(state.phase(), Phase::Waiting | Phase::Fenced);
        let moved = |last: &mut (u64, Duration), count: u64, at_rest: bool| {
            if count != last.0 || at_rest {
                *last = (count, now);
            }
            now.saturating_sub(last.1) < STUCK
        };
        let capture = moved(&mut self.capture, state.beats(), false);
        let store = moved(&mut self.store, state.health.attempts(), idle);
        capture && store
    }
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;
    use std::net::SocketAddr;

    use proto::clock::SystemClock;
    use proto::position::{ByteCount, Epoch, Offset, Position};
    use proto::segment::Engine;

    use super::*;
    use crate::ship::health::Health;
    use crate::source::postgres::commits::WalCommits;
    use crate::spool::SpoolLevel;
    use crate::watch::lag::LagProbe;
    use crate::watch::repeat::tests::Hand;

    fn state() -> State {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let commits = Arc::new(WalCommits(proto::postgres::lsn::SegmentSize::DEFAULT));
        let lag = Arc::new(LagProbe::new(clock.clone(), commits));
        let (health, level) = (Health::new(clock), SpoolLevel::new(ByteCount(1 << 30)));
        State::new(Engine::Postgresql, lag, Arc::new(health), Arc::new(level))
    }

    #[test]
    fn the_watchdog_is_fed_only_while_both_halves_move() {
        let (state, mut pulse) = (state(), Pulse::default());
        let at = Duration::from_secs;
        state.beat();
        assert!(pulse.moves(&state, at(0)));
        assert!(pulse.moves(&state, at(100)), "a pause is no hang");
        assert!(!pulse.moves(&state, at(121)), "nothing is heard or tried");
        state.beat();
        assert!(pulse.moves(&state, at(122)));
        // Bytes were received, and no request to the store ends.
        let end = Position::new(Epoch(1), Offset(100));
        state.received(end, end);
        for second in (130..=240).step_by(10) {
            state.beat();
            assert!(pulse.moves(&state, at(second)), "{second}");
        }
        state.beat();
        assert!(!pulse.moves(&state, at(250)));
        // Fenced, it looks now and then whether the other one stands still.
        state.enter(Phase::Fenced);
        for second in (260..=900).step_by(10) {
            state.beat();
            assert!(pulse.moves(&state, at(second)), "{second}");
        }
        assert!(!pulse.moves(&state, at(1021)), "it does not look any more");
    }

    async fn health(address: SocketAddr) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        format!("{} {}", head.split(' ').nth(1).expect("a status"), body.trim_end())
    }

    #[tokio::test]
    async fn health_is_503_while_nothing_moves_and_200_again_when_something_does() {
        let (state, clock, mut pulse) = (state(), Hand::default(), Pulse::default());
        let stuck = Arc::new(AtomicBool::new(false));
        let handle =
            metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
        let current = watch::channel(None).1;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let pages = crate::watch::metrics::pages(handle, current, stuck.clone());
        tokio::spawn(axum::serve(listener, pages).into_future());
        let mut at = |second, beats: bool| {
            *clock.0.lock().expect("no holder panics") = Duration::from_secs(second);
            if beats {
                state.beat();
            }
            pulse.look(Some(&state), &clock, &stuck)
        };
        for (second, beats, said) in [
            (0, true, "200 ok"),
            (100, false, "200 ok"),
            (121, false, "503 stuck"),
            (300, false, "503 stuck"),
            (301, true, "200 ok"),
        ] {
            assert_eq!(at(second, beats), said.starts_with("200"));
            assert_eq!(health(address).await, said, "after {second} s");
        }
    }
}
