//! How long work tells where it stands: bars on a terminal, a plain line every few seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use proto::clock::{Clock, SystemClock};
use proto::position::ByteCount;

/// Where work tells what it does. Calls are cheap and may come often.
pub trait Progress: Send + Sync {
    /// A stretch of work begins: `total` bytes, when that is known.
    fn begin(&self, what: &str, total: Option<ByteCount>);
    /// So many of its bytes are done, in all.
    fn done(&self, bytes: ByteCount, detail: &str);
    /// The stretch has ended.
    fn end(&self);
    /// Something a person should read, whatever else is shown.
    fn say(&self, line: &str);
}

/// Tells nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: Option<ByteCount>) {}
    fn done(&self, _bytes: ByteCount, _detail: &str) {}
    fn end(&self) {}
    fn say(&self, _line: &str) {}
}

/// What suits standard error: a bar on a terminal, lines elsewhere.
pub fn for_stderr() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() {
        Box::new(Bars::default())
    } else {
        Box::new(Lines::new(Duration::from_secs(5)))
    }
}

/// A bar with rate and time left.
#[derive(Debug, Default)]
pub struct Bars(Mutex<Option<ProgressBar>>);

impl Bars {
    fn with(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        act(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, total: Option<ByteCount>) {
        let template = match total {
            Some(_) => "{prefix:12} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
            None => "{prefix:12} {spinner} {bytes} {bytes_per_sec} {msg}",
        };
        let bar = total.map_or_else(ProgressBar::new_spinner, |total| ProgressBar::new(total.0));
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what.to_owned());
        self.with(|slot| {
            if let Some(old) = slot.replace(bar) {
                old.finish();
            }
        });
    }

    fn done(&self, bytes: ByteCount, detail: &str) {
        self.with(|slot| {
            if let Some(bar) = slot {
                bar.set_position(bytes.0);
                bar.set_message(detail.to_owned());
            }
        });
    }

    fn end(&self) {
        self.with(|slot| {
            if let Some(bar) = slot.take() {
                bar.finish();
            }
        });
    }

    fn say(&self, line: &str) {
        self.with(|slot| match slot {
            Some(bar) => bar.println(line),
            None => write_line(line),
        });
    }
}

/// A line every few seconds.
#[derive(Debug)]
pub struct Lines {
    every: Duration,
    clock: SystemClock,
    state: Mutex<LineState>,
}

#[derive(Debug, Default)]
struct LineState {
    what: String,
    total: Option<ByteCount>,
    began: Duration,
    last: Duration,
    done: ByteCount,
}

impl Lines {
    pub fn new(every: Duration) -> Self {
        Self { every, clock: SystemClock::new(), state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Progress for Lines {
    fn begin(&self, what: &str, total: Option<ByteCount>) {
        let now = self.clock.monotonic();
        let what = what.to_owned();
        *self.state() = LineState { what, total, began: now, last: now, done: ByteCount(0) };
    }

    fn done(&self, bytes: ByteCount, detail: &str) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.done = bytes;
        if now.saturating_sub(state.last) >= self.every {
            state.last = now;
            write_line(&told(&state, now, detail));
        }
    }

    fn end(&self) {
        let now = self.clock.monotonic();
        let state = self.state();
        if !state.what.is_empty() {
            write_line(&told(&state, now, "done"));
        }
    }

    fn say(&self, line: &str) {
        write_line(line);
    }
}

fn told(state: &LineState, now: Duration, detail: &str) -> String {
    let seconds = now.saturating_sub(state.began).as_secs_f64();
    let rate = state.done.0 as f64 / seconds.max(0.001);
    let rate_text = ByteCount(rate as u64);
    let mut line = format!("{}: {}", state.what, state.done);
    if let Some(total) = state.total {
        line.push_str(&format!(" of {total}"));
        let left = total.0.saturating_sub(state.done.0) as f64 / rate.max(1.0);
        if state.done.0 > 0 && left >= 1.0 {
            line.push_str(&format!(", {left:.0} s left"));
        }
    }
    format!("{line}, {rate_text}/s, {detail}")
}

fn write_line(line: &str) {
    // A closed stderr must not end a restore.
    let _ = writeln!(std::io::stderr(), "{line}");
}
