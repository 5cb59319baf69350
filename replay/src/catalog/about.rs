//! What every archive tells of itself, whatever its engine: where it is, whose it is, who wrote it.

use serde::Serialize;

use super::{Catalog, Damage, OplogArchive};
use proto::archive::identity::Identity;
use proto::archive::layout::Lineage;
use proto::archive::ledger::{Entry, Event};
use proto::timestamp::Timestamp;

/// What was read before the log and the bases, which are the engine's.
#[derive(Debug, Clone)]
pub struct About<'a> {
    /// Without secrets.
    pub address: String,
    pub lineage: Lineage,
    pub identity: &'a Identity,
    pub ledger: &'a [Entry],
    pub damage: &'a [Damage],
}

/// Who wrote last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Writer {
    pub epoch: u64,
    pub host: String,
    pub program: String,
    pub since: Timestamp,
}

impl About<'_> {
    /// The newest writer of the ledger.
    pub fn writer(&self) -> Option<Writer> {
        self.ledger.iter().rev().find_map(|entry| match &entry.event {
            Event::Writer { host, program } => Some(Writer {
                epoch: entry.seq,
                host: host.clone(),
                program: program.clone(),
                since: entry.time,
            }),
            _ => None,
        })
    }
}

impl Catalog {
    pub fn about(&self) -> About<'_> {
        let Self { lineage, identity, ledger, damage, .. } = self;
        About { address: self.address(), lineage: *lineage, identity, ledger, damage }
    }
}

impl OplogArchive {
    pub fn about(&self) -> About<'_> {
        let Self { lineage, identity, ledger, damage, .. } = self;
        About { address: self.address(), lineage: *lineage, identity, ledger, damage }
    }
}
