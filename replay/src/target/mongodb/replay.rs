//! Replaying the oplog onto a base that is loaded, up to a moment, strictly.
//!
//! Enters: the log's entries, in order, from the base's start on. Leaves: every collection as the
//! source had it at the moment, but for the indexes, which are built last. An entry that does not fit
//! what is there ends the replay and is named. After a crash the same entries are given again:
//! what the target's progress says it holds is walked over, so that names, indexes and open
//! transactions are the same again, and not applied a second time.
//!
//! "At T" is: all entries up to T, and transactions whose `commitTimestamp` is not later than T. One
//! that is prepared at T is known to be in or out only when its end is seen, which may stand
//! behind T: the log is read on until then.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bson::RawDocumentBuf;
use bson::raw::RawDocument;

use proto::mongodb::base::{MongodbBase, Uuid};
use proto::mongodb::{Documents, Entry, Kind, OplogTs, Order, Record};

use super::batch::Batch;
use super::error::ReplayError;
use super::indexes::Indexes;
use super::moments::Moments;
use super::names::Names;
use super::operation::Operation;
use super::target::{Confirm, Reached, Target};
use super::transactions::{Held, Key, Step, Transactions};

/// Of what a base does not have because its log could not follow it.
const NOT_CARRIED: &str = "a change stream does not carry it";

/// A replay that is under way.
#[derive(Debug)]
pub struct Replay {
    pub(super) target: Target,
    pub(super) names: Names,
    pub(super) indexes: Indexes,
    pub(super) capped: HashSet<Uuid>,
    pub(super) moments: Moments,
    open: Transactions,
    pub(super) batch: Batch,
    /// The last moment that is in.
    pub(super) until: OplogTs,
    /// The base's: from here on nothing is left out.
    pub(super) stop: OplogTs,
    /// The lowest moment of the base: what took effect up to it, it holds.
    held: OplogTs,
    /// What an earlier run has done.
    pub(super) done: Option<Reached>,
    /// The first change of the catalog behind that may have been done, and not noted.
    pub(super) repeated: bool,
    /// Where the walk is.
    pub(super) here: Reached,
    pub(super) applied: u64,
    /// Of events: their order, a large one as far as it has come, and what they do not carry, with
    /// the reason.
    pub(super) order: Order,
    pub(super) fragments: RawDocumentBuf,
    pub(super) left_out: BTreeMap<String, String>,
    /// Collections with updates by paths that may be names; whether they are taken as paths.
    pub(super) open_paths: BTreeSet<String>,
    pub(super) accepts_open_paths: bool,
}

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// The last entry up to the moment.
    pub at: OplogTs,
    /// Operations that were applied in this run.
    pub operations: u64,
}

impl Replay {
    /// Begins, or goes on where the target's progress stands.
    ///
    /// # Errors
    /// When the target does not answer.
    pub async fn begin(
        client: mongodb::Client,
        base: &MongodbBase,
        until: OplogTs,
    ) -> Result<Self, ReplayError> {
        let target = Target::new(client);
        let done = target.reached().await?;
        let (mut names, mut indexes) = (Names::default(), Indexes::default());
        for collection in &base.collections {
            names.insert(collection.uuid, collection.namespace());
            for index in &collection.indexes {
                let added = indexes.add(collection.uuid, index, None);
                added.map_err(ReplayError::entry(base.start.ts))?;
            }
        }
        let is_capped = |options: &RawDocument| options.get_bool("capped").unwrap_or(false);
        let capped = base.collections.iter().filter(|found| is_capped(&found.options));
        let pieces = base.collections.iter().flat_map(|collection| &collection.pieces);
        Ok(Self {
            target,
            names,
            indexes,
            capped: capped.map(|collection| collection.uuid).collect(),
            moments: Moments::of(&base.collections),
            open: Transactions::default(),
            batch: Batch::default(),
            until,
            stop: base.stop,
            held: pieces.map(|piece| piece.at).min().unwrap_or(base.stop),
            repeated: done.is_some(),
            done,
            here: Reached::default(),
            applied: 0,
            order: Order::default(),
            fragments: RawDocumentBuf::new(),
            left_out: base.left_out.iter().map(|name| (name.clone(), NOT_CARRIED.into())).collect(),
            open_paths: BTreeSet::new(),
            accepts_open_paths: false,
        })
    }

    /// Takes dotted paths of change events that may be names for paths, and lists their collections.
    #[must_use]
    pub const fn accepting_open_paths(mut self, accepts: bool) -> Self {
        self.accepts_open_paths = accepts;
        self
    }

    /// Takes a run of whole entries. Whether nothing more is needed.
    ///
    /// # Errors
    /// [`ReplayError`]: the entry that does not fit, or the target.
    pub async fn take(&mut self, run: &[u8]) -> Result<bool, ReplayError> {
        for document in Documents::new(run) {
            let (_, raw) = document.map_err(ReplayError::log(self.here.at))?;
            let enough = match Record::read(raw).map_err(ReplayError::entry(self.here.at))? {
                Record::Entry(entry) => self.entry(&entry).await?,
                Record::Event(event) => self.event(&event).await?,
            };
            if enough {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Applies what is gathered, and makes sure that all is safe. Call it when [`Self::take`] needs
    /// no more, or the log has ended.
    ///
    /// # Errors
    /// When a transaction is open of which it cannot be known yet whether it belongs to the moment.
    pub async fn finish(&mut self) -> Result<Replayed, ReplayError> {
        if let Some(prepared) = self.open.prepared() {
            return Err(ReplayError::Unended { prepared, until: self.until });
        }
        let at = self.here.at;
        if at < self.stop {
            return Err(ReplayError::Short { reached: at, until: self.stop });
        }
        self.batch.flush(&self.target).await?;
        if self.done.is_none_or(|done| done < Reached::whole(at)) {
            self.target.set_reached(Reached::whole(at), Confirm::Majority).await?;
        }
        Ok(Replayed { at, operations: self.applied })
    }

    /// Builds the indexes that the collections have at the moment. Building one that is there is
    /// nothing, so that this can be repeated.
    ///
    /// # Errors
    /// When the target refuses one: what was restored is not what the source had, or the target is
    /// full.
    pub async fn build_indexes(&self, mut tell: impl FnMut(&str)) -> Result<(), ReplayError> {
        for (uuid, name) in self.names.iter() {
            let indexes = self.indexes.of(uuid);
            if !indexes.is_empty() {
                tell(name);
                self.target.build_indexes(name, indexes).await?;
            }
        }
        Ok(())
    }

    /// The last entry that was taken.
    pub const fn reached(&self) -> OplogTs {
        self.here.at
    }

    /// How many collections there are, and from which of them documents expire.
    pub fn made(&self) -> (usize, Vec<String>) {
        let expires = |(uuid, _): &(Uuid, &str)| {
            let mut indexes = self.indexes.of(*uuid).iter();
            indexes.any(|index| matches!(index.get("expireAfterSeconds"), Ok(Some(_))))
        };
        let expiring = self.names.iter().filter(expires).map(|(_, name)| name.to_owned());
        (self.names.iter().count(), expiring.collect())
    }

    /// Whether the last moment that is needed has been passed.
    async fn entry(&mut self, entry: &Entry<'_>) -> Result<bool, ReplayError> {
        let at = entry.at.ts;
        if at <= self.here.at {
            return Err(ReplayError::Order { found: at, after: self.here.at });
        }
        if at > self.until {
            return self.behind(entry).await;
        }
        self.here = Reached { at, operations: 0 };
        match entry.kind().map_err(ReplayError::entry(at))? {
            Kind::Noop => {}
            Kind::Write | Kind::Command(_) | Kind::Unknown => {
                self.operation(&Operation::of(entry), at).await?;
            }
            Kind::ApplyOps(ops) => match Key::of(entry) {
                None => self.all_of(entry.raw, at).await?,
                Some(key) => {
                    match self.open.step(key, entry, &ops).map_err(ReplayError::spilling)? {
                        Step::Open => {}
                        Step::Commit(held) => self.transaction(held, at).await?,
                        // The base holds it: what took effect before it was read.
                        Step::CommitHeadless if at <= self.held => {}
                        Step::CommitHeadless => return Err(ReplayError::NoBeginning { at }),
                    }
                }
            },
            Kind::CommitTransaction { commit } => self.commit(entry, commit).await?,
            Kind::AbortTransaction => self.abort(entry)?,
        }
        Ok(false)
    }

    /// Behind the moment nothing counts but the ends of transactions that were prepared before it.
    async fn behind(&mut self, entry: &Entry<'_>) -> Result<bool, ReplayError> {
        if self.open.prepared().is_none() {
            return Ok(true);
        }
        match entry.kind().map_err(ReplayError::entry(entry.at.ts))? {
            Kind::CommitTransaction { commit } if commit <= self.until => {
                self.commit(entry, commit).await?;
            }
            Kind::CommitTransaction { .. } | Kind::AbortTransaction => self.abort(entry)?,
            _ => {}
        }
        Ok(self.open.prepared().is_none())
    }

    /// It comes to nothing, or to nothing up to the moment.
    fn abort(&mut self, entry: &Entry<'_>) -> Result<(), ReplayError> {
        let Some(key) = Key::of(entry) else { return Ok(()) };
        let ended = self.open.end(&key).map_err(ReplayError::spilling)?;
        ended.map_or(Ok(()), |held| self.open.forget(&held)).map_err(ReplayError::spilling)
    }

    async fn commit(&mut self, entry: &Entry<'_>, commit: OplogTs) -> Result<(), ReplayError> {
        let Some(key) = Key::of(entry) else { return Ok(()) };
        match self.open.end(&key).map_err(ReplayError::spilling)? {
            Some(held) => {
                // The progress goes by places in the log.
                let here =
                    std::mem::replace(&mut self.here, Reached { at: entry.at.ts, operations: 0 });
                self.transaction(held, commit).await?;
                if entry.at.ts > self.until {
                    self.here = here;
                }
                Ok(())
            }
            None if commit <= self.held => Ok(()),
            None => Err(ReplayError::NoBeginning { at: entry.at.ts }),
        }
    }

    async fn transaction(&mut self, mut held: Held, effective: OplogTs) -> Result<(), ReplayError> {
        while let Some(raw) = self.open.next(&mut held).map_err(ReplayError::spilling)? {
            self.all_of(&raw, effective).await?;
        }
        Ok(())
    }

    /// All operations of an `applyOps` entry.
    async fn all_of(&mut self, raw: &RawDocument, effective: OplogTs) -> Result<(), ReplayError> {
        let at = self.here.at;
        let entry = Entry::read(raw).map_err(ReplayError::entry(at))?;
        let Kind::ApplyOps(ops) = entry.kind().map_err(ReplayError::entry(at))? else {
            return Ok(());
        };
        for element in ops.ops {
            let element = element.map_err(ReplayError::entry(at))?;
            let Some(raw) = element.as_document() else { continue };
            let operation = Operation::within(raw).map_err(ReplayError::entry(at))?;
            self.operation(&operation, effective).await?;
        }
        Ok(())
    }
}
