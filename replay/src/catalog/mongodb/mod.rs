//! What an archive of a MongoDB replica set holds: bases, and the oplog in segments.
//!
//! Enters: a store. Leaves: an [`OplogArchive`], a picture of the moment in which it was read, and
//! entries in the order of the log, each segment proved to continue the one before it. Nothing is
//! written.

mod log;
mod index;
mod windows;
#[cfg(test)]
mod tests;

pub use index::Summaries;
pub use log::{Head, LogReader};
pub use windows::{Lack, OplogGap, OplogWindow};

use std::sync::Arc;

use proto::archive::base::Complete;
use proto::archive::chain::{self, Chain, Prefix};
use proto::archive::identity::Identity;
use proto::archive::layout::{Lineage, mongodb_first, mongodb_segment_of};
use proto::archive::ledger::Entry;
use proto::mongodb::OplogTs;
use proto::position::Epoch;
use proto::segment::{Engine, Watermark};
use proto::store::{Object, Store, list_all};

use super::damage::damaged;
use super::load::{bases, choose, ledger, patient};
use super::{CatalogError, Damage};

/// MongoDB's log has one epoch.
const EPOCH: Epoch = Epoch(1);

/// An archive, as it was when it was read.
#[derive(Debug)]
pub struct OplogArchive {
    pub(crate) store: Arc<dyn Store>,
    pub lineages: Vec<Lineage>,
    pub lineage: Lineage,
    pub identity: Identity,
    pub ledger: Vec<Entry>,
    /// Oldest first.
    pub bases: Vec<Complete>,
    pub unfinished: Vec<String>,
    /// In the order of the log.
    pub segments: Vec<Segment>,
    /// The latest proof of completeness in the tails.
    pub watermark: Option<Watermark>,
    pub damage: Vec<Damage>,
}

/// A segment of the oplog.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Its first entry, which names it.
    pub first: OplogTs,
    pub stored: Stored,
}

#[derive(Debug, Clone)]
pub enum Stored {
    Sealed {
        bytes: u64,
    },
    /// Still open when it was read.
    Tails(Box<Chain>),
}

impl Stored {
    /// Bytes in the store.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Sealed { bytes } => *bytes,
            Self::Tails(chain) => chain.links.iter().map(|link| link.bytes).sum(),
        }
    }
}

impl OplogArchive {
    /// Opens the archive at `address`, for reading only; `None` when it is another engine's.
    ///
    /// # Errors
    /// When there is no archive there, or it cannot be read.
    pub async fn open(address: &str, lineage: Option<u32>) -> Result<Option<Self>, CatalogError> {
        Self::read(patient(address).await?, lineage).await
    }

    /// Reads the archive in `store`; `None` when it is not wholly MongoDB's: one that calls itself so
    /// without saying which set it is of belongs to nobody.
    ///
    /// # Errors
    /// When there is no archive there, or it cannot be read.
    pub async fn read(
        store: Arc<dyn Store>,
        lineage: Option<u32>,
    ) -> Result<Option<Self>, CatalogError> {
        let lineages = proto::archive::ends::lineages(&*store).await?;
        let (lineage, identity) = choose(&*store, &lineages, lineage).await?;
        if identity.engine != Engine::Mongodb || identity.mongodb().is_none() {
            return Ok(None);
        }
        let mut damage = Vec::new();
        let ledger = ledger(&*store, lineage, &mut damage).await?;
        let (bases, unfinished) = bases(&*store, lineage, identity.engine, &mut damage).await?;
        let mut bases: Vec<Complete> = bases.into_iter().map(|base| base.complete).collect();
        bases.sort_by_key(|base| base.mongodb().stop);
        // Tails before the log: what is sealed in between is then seen sealed.
        let chains = chains(&*store, lineage).await?;
        let mut segments = sealed(&*store, lineage).await?;
        let watermark = chains.iter().filter_map(|(_, prefix)| prefix.chain.watermark());
        let watermark = watermark.max_by_key(|mark| mark.clock);
        for (first, Prefix { chain, broken }) in chains {
            if segments.iter().any(|segment| segment.first == first) {
                continue;
            }
            if let Some(error) = broken {
                damage.push(damaged(error.into())?);
            }
            if chain.raw_len() > 0 {
                segments.push(Segment { first, stored: Stored::Tails(Box::new(chain)) });
            }
        }
        segments.sort_by_key(|segment| segment.first);
        let found = Self {
            store,
            lineages,
            lineage,
            identity,
            ledger,
            bases,
            unfinished,
            segments,
            watermark,
            damage,
        };
        Ok(Some(found))
    }

    pub fn address(&self) -> String {
        self.store.address()
    }

    /// The place among the segments of the one that holds an entry of this timestamp, if any does.
    pub fn segment_of(&self, at: OplogTs) -> usize {
        self.segments.partition_point(|segment| segment.first <= at).saturating_sub(1)
    }
}

async fn sealed(store: &dyn Store, lineage: Lineage) -> Result<Vec<Segment>, CatalogError> {
    // All hours in one listing: there are thousands in a year, most with a segment or two.
    let listed = list_all(store, &lineage.log_epoch(EPOCH)).await?;
    let segment = |object: Object| {
        let (first, _) = mongodb_segment_of(object.key.name())?;
        Some(Segment { first, stored: Stored::Sealed { bytes: object.bytes } })
    };
    Ok(listed.into_iter().filter_map(segment).collect())
}

/// The chains that there are, as far as they are good: damage costs what lies behind it, and nothing
/// else. Those of sealed segments go after a day.
async fn chains(
    store: &dyn Store,
    lineage: Lineage,
) -> Result<Vec<(OplogTs, Prefix)>, CatalogError> {
    /// The open segment, and the one that is perhaps being sealed.
    const NEWEST: usize = 4;
    let mut named: Vec<(OplogTs, String)> = store
        .folders(&lineage.tails())
        .await?
        .into_iter()
        .filter_map(|name| Some((mongodb_first(&name)?, name)))
        .collect();
    named.sort();
    let mut chains = Vec::new();
    for (first, name) in named.into_iter().rev().take(NEWEST) {
        chains.push((first, chain::follow_good(store, lineage, &name).await?));
    }
    Ok(chains)
}
