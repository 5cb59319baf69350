//! What an archive holds: lineages, timelines, log, bases, gaps, and which moments can be restored.
//!
//! Enters: an archive's address. Leaves: a [`Catalog`], a picture of the moment in which it was
//! read: listings and small objects only, never a request per segment. What is damaged is named in
//! it and left out of what can be restored. Nothing is written, so a crash leaves nothing.

mod about;
mod damage;
mod error;
mod patient;
mod load;
mod log;
mod path;
pub mod read;
mod end;
mod index;
mod reindex;
mod search;
mod view;
pub mod mongodb;

pub use about::{About, Writer};
pub use damage::Damage;
pub(crate) use damage::wrong_with;
pub use end::{Commit, LogEnd, Window};
pub use error::CatalogError;
pub(crate) use load::describe;
pub use log::{Stored, TimelineLog};
pub use mongodb::OplogArchive;
pub use path::{Located, LogPath, LogRange};
pub use patient::PatientStore;
pub use reindex::Reindexed;
pub use search::Searching;
pub use view::ArchiveView;

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::archive::base::Complete;
use proto::archive::identity::Identity;
use proto::archive::layout::{Lineage, SegmentName};
use proto::archive::ledger::{Entry, Event};
use proto::position::Position;
use proto::postgres::history::History;
use proto::postgres::lsn::{SegmentId, SegmentSize, Timeline};
use proto::store::Store;
use proto::timestamp::Timestamp;

/// An archive, as it was when it was read.
#[derive(Debug)]
pub struct Catalog {
    store: Arc<dyn Store>,
    pub lineages: Vec<Lineage>,
    pub lineage: Lineage,
    pub identity: Identity,
    pub histories: BTreeMap<Timeline, History>,
    pub ledger: Vec<Entry>,
    /// Oldest first, by where they end.
    pub bases: Vec<Base>,
    /// Folders of bases that are not there yet, or no more: never restored from.
    pub unfinished: Vec<String>,
    pub logs: BTreeMap<Timeline, TimelineLog>,
    /// What was found damaged on the way.
    pub damage: Vec<Damage>,
    cache: read::Cache,
    searched: search::Searched,
}

/// A base with its `complete.json`.
#[derive(Debug, Clone)]
pub struct Base {
    pub complete: Complete,
}

/// A stretch of log that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub from: Position,
    pub to: Position,
    pub reason: String,
    /// When it was recorded, by the writer's clock.
    pub recorded: Timestamp,
}

impl Base {
    pub fn id(&self) -> &str {
        &self.complete.id
    }

    /// Pages of the source had wrong checksums.
    pub fn is_damaged(&self) -> bool {
        !self.complete.damaged.is_empty()
    }
}

impl Catalog {
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn address(&self) -> String {
        self.store.address()
    }

    pub fn segment_size(&self) -> SegmentSize {
        self.identity.postgres().map_or(SegmentSize::DEFAULT, |postgres| postgres.segment_bytes)
    }

    /// The names of a segment in this archive.
    pub fn name_of(&self, id: SegmentId) -> SegmentName {
        SegmentName::postgres(id, self.segment_size())
    }

    /// The timeline that the cluster is on: the highest that is known.
    pub fn timeline(&self) -> Timeline {
        let log = self.logs.keys().next_back();
        let history = self.histories.keys().next_back();
        let first = self.identity.postgres().map_or(Timeline(1), |p| p.first_timeline);
        log.into_iter().chain(history).copied().max().unwrap_or(first)
    }

    /// The history of a timeline; an empty one where the archive has none.
    pub fn history(&self, timeline: Timeline) -> History {
        self.histories.get(&timeline).cloned().unwrap_or_else(|| History::first(timeline))
    }

    pub fn base(&self, id: &str) -> Option<&Base> {
        self.bases.iter().find(|base| base.id() == id)
    }

    /// The ledger's gaps, in the order in which they were recorded.
    pub fn gaps(&self) -> Vec<Gap> {
        let gap = |entry: &Entry| match &entry.event {
            Event::Gap { from, to, reason, .. } => {
                Some(Gap { from: *from, to: *to, reason: reason.clone(), recorded: entry.time })
            }
            _ => None,
        };
        self.ledger.iter().filter_map(gap).collect()
    }
}

#[cfg(test)]
mod tests;
