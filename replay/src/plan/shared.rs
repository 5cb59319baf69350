//! What the plans of both engines say alike.
//!
//! Enters: an archive, and what only an engine can say of its plan. Leaves: of which archive a plan
//! is, how much is fetched, and the lines that a person reads.

use serde::{Deserialize, Serialize};

use crate::catalog::About;
use proto::archive::identity::Identity;
use proto::position::ByteCount;
use proto::timestamp::Timestamp;

/// The version of the plan's own JSON.
pub const PLAN_FORMAT: u32 = 1;

/// Which archive a plan is of, and who made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub format: u32,
    /// `pitr 0.1.0`.
    pub program: String,
    /// By this machine's clock: for people only.
    pub made: Timestamp,
    /// The archive's address, without secrets.
    pub archive: String,
    pub lineage: u32,
    pub identity: Identity,
}

/// Bytes to fetch from the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchBytes {
    pub base: u64,
    pub log: u64,
}

/// What stands in the lines of a plan.
pub(super) struct Summary<'a> {
    pub(super) head: &'a Head,
    pub(super) asked: &'a str,
    /// Where it stops, with its title.
    pub(super) stop: String,
    pub(super) last_kept: Option<String>,
    pub(super) left_out: Option<String>,
    pub(super) base: &'a str,
    pub(super) finished: Timestamp,
    /// Name and version of the base's server.
    pub(super) server: String,
    pub(super) segments: usize,
    /// Which these are.
    pub(super) log: String,
    pub(super) fetch: FetchBytes,
    /// What the disk needs beside.
    pub(super) disk: Option<String>,
    /// What the engine calls a database.
    pub(super) kind: &'static str,
    pub(super) warnings: &'a [String],
}

impl Head {
    pub(super) fn of(about: &About<'_>, now: Timestamp) -> Self {
        Self {
            format: PLAN_FORMAT,
            program: concat!("pitr ", env!("CARGO_PKG_VERSION")).to_owned(),
            made: now,
            archive: about.address.clone(),
            lineage: about.lineage.0,
            identity: about.identity.clone(),
        }
    }
}

impl FetchBytes {
    pub const fn total(self) -> u64 {
        self.base.saturating_add(self.log)
    }
}

impl Summary<'_> {
    pub(super) fn text(&self) -> String {
        let mut lines = vec![format!("target     {}", self.asked), self.stop.clone()];
        lines.extend(self.last_kept.iter().map(|kept| format!("last kept  {kept}")));
        lines.extend(self.left_out.iter().map(|left| format!("left out   {left}")));
        let Self { head, base, finished, server, log, kind, .. } = self;
        lines.push(format!("base       {base} (finished {finished}, {server})"));
        let count = self.segments;
        let counted = if count == 1 { "1 segment".to_owned() } else { format!("{count} segments") };
        lines.push(format!("log        {counted}, {log}"));
        let (all, base, log) = (self.fetch.total(), self.fetch.base, self.fetch.log);
        let (all, base, log) = (ByteCount(all), ByteCount(base), ByteCount(log));
        let disk = self.disk.as_ref().map_or_else(String::new, |disk| format!("; disk {disk}"));
        lines.push(format!("fetch      {all} ({base} base, {log} log){disk}"));
        let (archive, lineage, whose) = (&head.archive, head.lineage, &head.identity.cluster);
        lines.push(format!("archive    {archive}  lineage {lineage}  {kind} {whose}"));
        lines.extend(self.warnings.iter().map(|warning| format!("note       {warning}")));
        lines.join("\n") + "\n"
    }
}
