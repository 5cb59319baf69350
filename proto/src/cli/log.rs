//! The log: on the standard error, as text or one JSON object a line.
//!
//! Enters: events. Leaves: lines. A panic is an event too, so that a JSON log stays JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Begins the log; `PITR_LOG` is stronger than `filter`.
pub fn to_stderr(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_env("PITR_LOG").unwrap_or_else(|_| EnvFilter::new(filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Set already when another command of the same process was run: that is as good.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => {
            std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a bug was met")));
            builder.json().try_init()
        }
    };
}
