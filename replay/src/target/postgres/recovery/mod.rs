//! PostgreSQL's own recovery, driven to the target.
//!
//! Enters: a sealed folder and a running prefetcher. Leaves: a server that stands at the target,
//! and a superuser's connection to it. A server that ends instead gives its own words as the
//! error. After a crash at any line the folder is in recovery, and the same command goes on from
//! the last restart point.

mod ended;
mod prove;
mod finish;

pub use ended::has_ended;
pub use finish::{collations, half_dropped, promote, quiet_subscriptions};
pub use prove::prove;

use std::collections::BTreeMap;
use std::time::Duration;

use proto::position::ByteCount;
use proto::postgres::lsn::{Lsn, Timeline};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::RestoreError;
use super::config::Sources;
use super::server::{Server, Start};
use crate::fetch::prefetch::{Prefetcher, Trouble};
use crate::target::progress::Progress;

const POLL: Duration = Duration::from_millis(200);
/// Each restart raises at least one of five settings.
const RESTARTS_MAX: usize = 6;
const DATABASES: [&str; 2] = ["postgres", "template1"];

/// What drives a recovery.
pub struct Recovery<'a> {
    pub sources: Sources<'a>,
    pub start: Start<'a>,
    pub prefetcher: &'a Prefetcher,
    pub progress: &'a dyn Progress,
    pub interrupted: &'a CancellationToken,
}

/// A server at the target.
pub struct AtTarget {
    pub server: Server,
    pub client: Client,
    /// The superuser that came in.
    pub user: String,
    /// It could not pause (no snapshot for readers), and has ended recovery at the target.
    pub promoted: bool,
    /// Settings that the log asked for on the way.
    pub raised: BTreeMap<String, u64>,
}

enum Watched {
    There {
        client: Client,
        user: String,
        promoted: bool,
    },
    /// The log's server had more of these.
    Insufficient(Vec<(String, u64)>),
}

impl Recovery<'_> {
    /// Runs the server until it stands at the target.
    ///
    /// # Errors
    /// When the server ends before, or on interruption (then it was stopped cleanly).
    pub async fn to_target(&self) -> Result<AtTarget, RestoreError> {
        let mut raised = self.sources.raised.clone();
        for _ in 0..RESTARTS_MAX {
            let mut server = Server::start(&self.start).await?;
            let watched = tokio::select! {
                watched = self.watch(&mut server) => watched,
                () = self.interrupted.cancelled() => Err(RestoreError::Interrupted),
            };
            match watched {
                Ok(Watched::There { client, user, promoted }) => {
                    return Ok(AtTarget { server, client, user, promoted, raised });
                }
                Ok(Watched::Insufficient(more)) => {
                    // Ended already where readers were not let in yet; paused where they were.
                    let _ = server.stop().await;
                    for (name, value) in more {
                        self.progress
                            .say(&format!("{name} is raised to {value}: the log needs it"));
                        raised.insert(name, value);
                    }
                    Sources { raised: &raised, ..self.sources }.configure()?;
                }
                Err(error) => {
                    let _ = server.stop().await;
                    return Err(error);
                }
            }
        }
        let what = "settings were raised again and again, and the log needs more".to_owned();
        Err(RestoreError::Server { what, log: Vec::new() })
    }

    async fn watch(&self, server: &mut Server) -> Result<Watched, RestoreError> {
        let plan = self.sources.plan;
        let (from, to) = (plan.base.start, plan.target.lsn);
        self.progress.begin("recovery", Some(to.since(from)));
        let candidates = super::superuser::candidates(self.start.folder);
        let mut inside = None;
        loop {
            if let Some(status) = server.ended()? {
                let more = server.log.insufficient();
                if !more.is_empty() {
                    return Ok(Watched::Insufficient(more));
                }
                return Err(self.ended(server, status));
            }
            if inside.is_none() {
                inside = enter(server, &candidates).await;
            }
            let mut replayed = None;
            if let Some((client, _)) = &inside {
                match State::of(client).await {
                    // The connection is gone: the loop finds out why.
                    Err(_) => inside = None,
                    Ok(state) => {
                        let more = server.log.insufficient();
                        if !more.is_empty() {
                            return Ok(Watched::Insufficient(more));
                        }
                        if state.paused || !state.in_recovery {
                            self.progress.done(to.since(from), "at the target");
                            self.progress.end();
                            let promoted = !state.in_recovery;
                            if let Some((client, user)) = inside {
                                return Ok(Watched::There { client, user, promoted });
                            }
                        } else {
                            replayed = state.replayed;
                        }
                    }
                }
            }
            let at = replayed.max(self.prefetcher.handed_over()).unwrap_or(from).min(to);
            self.progress.done(ByteCount(at.since(from).0), &format!("at {at} of {to}"));
            tokio::time::sleep(POLL).await;
        }
    }

    fn ended(&self, server: &Server, status: std::process::ExitStatus) -> RestoreError {
        if let Some(Trouble { name, why }) = self.prefetcher.trouble() {
            return RestoreError::NoLog { name, source: why };
        }
        let what = format!("recovery ended before the target ({status})");
        RestoreError::Server { what, log: server.log.failures() }
    }
}

async fn enter(server: &Server, candidates: &[String]) -> Option<(Client, String)> {
    for user in candidates {
        for database in DATABASES {
            let Some(client) = server.connect(user, database).await else { continue };
            let row = client.query_one("SELECT current_setting('is_superuser') = 'on'", &[]).await;
            if row.is_ok_and(|row| row.get(0)) {
                return Some((client, user.clone()));
            }
        }
    }
    None
}

/// A connection to a server that recovers from a crash or not at all, once it takes one.
///
/// # Errors
/// When the server ends, or on interruption.
pub async fn enter_when_up(
    server: &mut Server,
    candidates: &[String],
    interrupted: &CancellationToken,
) -> Result<(Client, String), RestoreError> {
    loop {
        if let Some(status) = server.ended()? {
            let what = format!("the server ended instead of starting ({status})");
            return Err(RestoreError::Server { what, log: server.log.failures() });
        }
        if let Some(entered) = enter(server, candidates).await {
            return Ok(entered);
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = interrupted.cancelled() => return Err(RestoreError::Interrupted),
        }
    }
}

/// The timeline that a server writes on.
///
/// # Errors
/// When the server does not answer.
pub async fn timeline_of(client: &Client) -> Result<Timeline, RestoreError> {
    let text = "SELECT pg_walfile_name(pg_current_wal_lsn())";
    let what = "its timeline";
    let row = client.query_one(text, &[]).await;
    let name: String = row.map_err(|source| RestoreError::Query { what, source })?.get(0);
    let digits = name.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let bad = || RestoreError::Stopped { detail: format!("a segment named {name}") };
    digits.map(Timeline).ok_or_else(bad)
}

/// What a server in recovery says of itself.
struct State {
    in_recovery: bool,
    paused: bool,
    replayed: Option<Lsn>,
}

impl State {
    async fn of(client: &Client) -> Result<Self, tokio_postgres::Error> {
        // The pause state can only be asked while recovery goes on, and a CASE asks only then.
        let text = "SELECT r, CASE WHEN r THEN pg_get_wal_replay_pause_state() = 'paused' \
                    ELSE false END, pg_last_wal_replay_lsn()::text \
                    FROM (SELECT pg_is_in_recovery() AS r OFFSET 0) AS s";
        let row = client.query_one(text, &[]).await?;
        let replayed: Option<String> = row.get(2);
        let replayed = replayed.and_then(|text| text.parse().ok());
        Ok(Self { in_recovery: row.get(0), paused: row.get(1), replayed })
    }
}
