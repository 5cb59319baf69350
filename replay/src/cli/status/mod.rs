//! `pitr status`: whether a database is protected, from nothing but its archive, so that a sidecar
//! that is dead cannot hide it.
//!
//! Enters: what an engine found in an archive, and this machine's clock. Leaves: a [`Status`] as text
//! or JSON. How an engine shows places of its log, windows and bases stands in its own file.

pub(super) mod mongodb;
pub(super) mod postgres;
mod slot;

use std::fmt::Display;
use std::time::Duration;

use serde::Serialize;

use super::args::StatusArgs;
use super::error::{CliError, Code};
use super::{Context, Outcome, show};
use crate::catalog::{About, Writer};
use proto::archive::identity::Identity;
use proto::position::ByteCount;
use proto::timestamp::Timestamp;

/// An idle database writes a watermark each minute: without a newer proof, nothing is written.
const PROOF_AGE_MAX: f64 = 300.0;

/// What is known of a database's protection. The engine's own: a place in its log (`P`), where a
/// window begins and ends in it (`W`), a base (`B`), and what else there is to be said (`M`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Status<P, W, B, M> {
    pub(super) archive: String,
    pub(super) engine: String,
    pub(super) lineage: u32,
    pub(super) identity: Identity,
    #[serde(flatten)]
    pub(super) more: M,
    pub(super) protected: bool,
    /// Why it is not.
    pub(super) reason: Option<String>,
    pub(super) since: Option<Timestamp>,
    /// The latest moment that can be restored.
    pub(super) restorable_until: Option<Timestamp>,
    /// This machine's clock less the newest proof of the database's: approximate by what the two
    /// clocks differ.
    pub(super) lag_seconds: Option<f64>,
    pub(super) lag_is_approximate: bool,
    pub(super) durable: Durable<P>,
    pub(super) windows: Vec<ShownWindow<W>>,
    pub(super) gaps: Vec<ShownGap<P>>,
    pub(super) bases: Vec<B>,
    pub(super) writer: Option<Writer>,
    /// Objects in the chain of tails of the open segment.
    pub(super) tail_objects: u64,
    pub(super) damaged: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Durable<P> {
    pub(super) position: Option<P>,
    pub(super) time: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ShownWindow<W> {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    #[serde(flatten)]
    pub(super) places: W,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ShownGap<P> {
    pub(super) from: P,
    pub(super) to: P,
    pub(super) reason: String,
    pub(super) recorded: Timestamp,
}

/// What an engine found in its archive.
struct Found<P, W, B> {
    /// Where the log ends, if there is any.
    end: Option<P>,
    /// Everything committed up to this moment of the server's clock is in it.
    proven: Option<Timestamp>,
    windows: Vec<ShownWindow<W>>,
    /// The last of them goes as far as the log.
    reaches_end: bool,
    /// There is a base that the log could lead on from, were it unbroken.
    based: bool,
    /// There is newer log behind a hole that is about to close.
    on_its_way: bool,
    /// Since when and what the log has lost beside its gaps, and no base has yet.
    lacking: Option<(Timestamp, String)>,
    gaps: Vec<ShownGap<P>>,
    bases: Vec<B>,
    tail_objects: u64,
}

impl<P: Display, W, B> Found<P, W, B> {
    /// Since when and why a database is not protected.
    fn trouble(&self, begun: Timestamp, lag: Option<f64>) -> Option<(Timestamp, String)> {
        let hole = || "the log has a hole, and no base follows".to_owned();
        if self.end.is_none() {
            return Some((begun, "no log is archived".to_owned()));
        }
        if !self.reaches_end {
            let since = self.windows.last().map_or(begun, |window| window.to);
            let reason = match (self.gaps.last(), self.based) {
                (Some(ShownGap { from, reason, .. }), true) => {
                    format!("the log is lost from {from} on ({reason}), and no base follows")
                }
                (None, true) => hole(),
                (_, false) => "there is no complete base".to_owned(),
            };
            return Some((since, reason));
        }
        if self.lacking.is_some() {
            return self.lacking.clone();
        }
        match (self.proven, lag) {
            (Some(proven), Some(lag)) if lag > PROOF_AGE_MAX => {
                let old = || format!("the newest proof is {} old", show::duration(lag));
                Some((proven, if self.on_its_way { hole() } else { old() }))
            }
            (None, _) => Some((begun, "the log holds neither a commit nor a watermark".to_owned())),
            _ => None,
        }
    }
}

impl<P: Display, W, B, M> Status<P, W, B, M> {
    fn of(about: &About<'_>, more: M, found: Found<P, W, B>, now: Timestamp) -> Self {
        let lag = found.proven.map(|proven| now.seconds_since(proven).max(0.0));
        let trouble = found.trouble(about.identity.created, lag);
        let (since, reason) = trouble.unzip();
        Self {
            archive: about.address.clone(),
            engine: about.identity.engine.to_string(),
            lineage: about.lineage.0,
            identity: about.identity.clone(),
            more,
            protected: reason.is_none(),
            reason,
            since,
            restorable_until: found.windows.last().map(|window| window.to),
            lag_seconds: lag,
            lag_is_approximate: true,
            durable: Durable { position: found.end, time: found.proven },
            windows: found.windows,
            gaps: found.gaps,
            bases: found.bases,
            writer: about.writer(),
            tail_objects: found.tail_objects,
            damaged: about.damage.iter().map(ToString::to_string).collect(),
        }
    }

    /// The first line says it all.
    fn headline(&self) -> String {
        let until = self.restorable_until.map_or_else(
            || "nothing can be restored".to_owned(),
            |until| format!("restorable until {}", show::time(until)),
        );
        match (self.protected, self.since.zip(self.reason.as_deref())) {
            (true, _) => format!("PROTECTED  {until}"),
            (false, Some((since, reason))) => {
                format!("NOT PROTECTED since {}: {reason}; {until}", show::time(since))
            }
            (false, None) => format!("NOT PROTECTED; {until}"),
        }
    }

    /// The lines that every engine has. `whose`: its version and the database's name.
    fn lines(
        &self,
        whose: &str,
        place: fn(&P) -> String,
        window: fn(&ShownWindow<W>) -> String,
        bytes: fn(&B) -> u64,
    ) -> Vec<String> {
        let mut lines = vec![self.headline()];
        let (archive, lineage, engine) = (&self.archive, self.lineage, &self.engine);
        lines.push(format!("archive  {archive}  lineage {lineage}  {engine} {whose}"));
        let lag = self.lag_seconds.map_or("unknown".to_owned(), show::duration);
        let clocks = "by this machine's clock: approximate where clocks differ";
        lines.push(format!("lag      {lag} ({clocks})"));
        if let (Some(end), Some(time)) = (&self.durable.position, self.durable.time) {
            lines.push(format!("durable  {}, complete up to {}", place(end), show::time(time)));
        }
        lines.extend(self.windows.iter().map(|shown| format!("window   {}", window(shown))));
        let gaps = match self.gaps.len() {
            0 => "no gap".to_owned(),
            1 => "1 gap".to_owned(),
            many => format!("{many} gaps"),
        };
        let stored = ByteCount(self.bases.iter().map(bytes).sum());
        lines.push(format!("bases    {}, {stored}; {gaps}", self.bases.len()));
        if let Some(writer) = &self.writer {
            lines.push(format!(
                "writer   {} on {} since {} (epoch {}); {} objects in the open segment",
                writer.program,
                writer.host,
                show::time(writer.since),
                writer.epoch,
                self.tail_objects
            ));
        }
        lines
    }

    fn damaged_lines(&self) -> impl Iterator<Item = String> {
        self.damaged.iter().map(|damaged| format!("DAMAGED  {damaged}"))
    }
}

impl<W> ShownWindow<W> {
    fn span(&self) -> String {
        format!("{} .. {}", show::time(self.from), show::time(self.to))
    }
}

/// The highest lag that is no error.
fn limit(args: &StatusArgs) -> Result<Option<Duration>, CliError> {
    args.fail_if_lag.as_deref().map(show::parse_duration).transpose()
}

fn told<P, W, B, M>(
    context: &Context,
    status: &Status<P, W, B, M>,
    limit: Option<Duration>,
    text: impl FnOnce() -> String,
) -> Outcome
where
    Status<P, W, B, M>: Serialize,
{
    let output = if context.global.json { show::json(status) } else { text() };
    Outcome { output, error: over(limit, status.lag_seconds) }
}

/// A lag over the limit that was given; one that is unknown is over every limit.
fn over(limit: Option<Duration>, lag: Option<f64>) -> Option<CliError> {
    let max = limit.filter(|max| lag.is_none_or(|lag| lag > max.as_secs_f64()))?;
    let lag = lag.map_or("unknown".to_owned(), show::duration);
    let what = format!("the lag is {lag}, and {} is the limit", show::duration(max.as_secs_f64()));
    let next = "look at pitrd: `systemctl status pitrd`, /metrics";
    Some(CliError::new(Code::LagOver, what, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_which_no_time_is_proved_protects_no_database_whatever_its_engine() {
        let found = |proven| Found::<&str, (), ()> {
            end: Some("here"),
            proven,
            windows: Vec::new(),
            reaches_end: true,
            based: true,
            on_its_way: false,
            lacking: None,
            gaps: Vec::new(),
            bases: Vec::new(),
            tail_objects: 0,
        };
        let begun = Timestamp(7);
        assert_eq!(found(Some(begun)).trouble(begun, Some(1.0)), None);
        let trouble = found(None).trouble(begun, None).expect("it is told");
        assert_eq!(trouble, (begun, "the log holds neither a commit nor a watermark".to_owned()));
    }
}
