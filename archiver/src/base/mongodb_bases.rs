//! The bases of a MongoDB lineage, beside its capture or on their own.
//!
//! Enters: the archive's bases and gaps, and a replica set. Leaves: when the next base is due, and
//! that base. Its `complete.json` is created last, when the log from its start to the earliest moment
//! that it can be restored to is in the store, without a gap.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::archive::base::Complete;
use proto::archive::identity::FORMAT_VERSION;
use proto::archive::ledger::{self, Event};
use proto::archive::{ArchiveError, from_json};
use proto::clock::{Clock, SystemClock};
use proto::mongodb::OpTime;
use proto::mongodb::base::MongodbBase;
use proto::segment::Engine;
use proto::store::{Key, Range, Store};
use proto::timestamp::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use super::error::{Class, LogError, SourceError};
use super::mongodb::{self, Copied};
use super::parts::Destination;
use super::schedule::{Due, Known, due_of};
use super::{BaseError, BaseOptions};
use crate::pipeline::{Ground, Opened};
use crate::ship::DurableWatch;
use crate::ship::chained;
use crate::source::mongodb::goal::Newest;
use crate::source::mongodb::{self as mongo, ConnectOptions, preflight};
use crate::source::{Asked, Bases, Beside, Goal};
use crate::spool::OplogSegments;
use crate::watch::state::State;

const PROGRAM: &str = concat!("pitrd ", env!("CARGO_PKG_VERSION"));
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// An idle set's archive proves once a minute that it is complete. Where nothing moves for so long,
/// nobody writes it.
const PATIENCE: Duration = Duration::from_secs(180);

/// A replica set's bases, beside the capture of this process.
#[derive(Debug)]
pub struct MongodbBases {
    pub options: ConnectOptions,
    /// Tells how far that capture has come; what it stands for is set for each base.
    pub newest: Newest,
    pub beside: Beside,
}

/// The part of `complete.json` that is needed here.
#[derive(Deserialize)]
struct Brief {
    finished: Timestamp,
    mongodb: BriefMongodb,
}

#[derive(Deserialize)]
struct BriefMongodb {
    start: OpTime,
}

#[async_trait]
impl Bases for MongodbBases {
    async fn due(&self, asked: Asked) -> Result<Due, ArchiveError> {
        let (store, lineage) = (&*self.beside.ground.store, self.beside.opened.lineage);
        let entries = ledger::read(store, lineage).await?.entries;
        let gaps = entries.iter().filter_map(|entry| match &entry.event {
            Event::Gap { oplog: Some([_, first]), .. } => Some(first.ts),
            _ => None,
        });
        let behind_gaps = gaps.max();
        let lacking = entries.iter().filter_map(|entry| match &entry.event {
            Event::NotCarried { at, .. } => Some(*at),
            _ => None,
        });
        let lacking = lacking.max();
        let mut known = Known { any: false, usable: None, lacking: false };
        for id in store.folders(&lineage.bases()).await?.iter().rev() {
            let Some(brief) = brief(store, &lineage.base_complete(id)).await? else { continue };
            known.any = true;
            if behind_gaps.is_none_or(|first| brief.mongodb.start.ts >= first) {
                known.usable = Some(brief.finished);
                known.lacking = lacking.is_some_and(|at| brief.mongodb.start.ts < at);
                self.beside.state.based(brief.finished);
                break;
            }
        }
        Ok(due_of(known, asked.now, Some(asked.every), asked.failed))
    }

    async fn take(&self, options: &BaseOptions) -> Result<Complete, BaseError> {
        let Beside { ground, opened, durable, state } = &self.beside;
        let log = Log { newest: &self.newest, durable: Some(durable), state: Some(&**state) };
        take_mongodb(&self.options, ground, opened, &log, options).await
    }
}

/// `None` for one that was interrupted, or is being taken.
async fn brief(store: &dyn Store, key: &Key) -> Result<Option<Brief>, ArchiveError> {
    match store.get(key, Range::All).await {
        Ok(json) => from_json(key, &json).map(Some),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Who brings the log into the store: the capture of this process, or somebody else.
pub(super) struct Log<'a> {
    pub newest: &'a Newest,
    pub durable: Option<&'a DurableWatch>,
    pub state: Option<&'a State>,
}

/// Takes a base of a replica set and returns what its `complete.json` says.
///
/// # Errors
/// [`BaseError`], by whose class the caller decides when to try again.
pub(super) async fn take_mongodb(
    options: &ConnectOptions,
    ground: &Ground,
    opened: &Opened,
    log: &Log<'_>,
    wanted: &BaseOptions,
) -> Result<Complete, BaseError> {
    let mode = opened.identity.mongodb().map(|mongodb| mongodb.source_mode).unwrap_or_default();
    let mut options = options.clone();
    options.mode = mode;
    let found = preflight::connect(&options).await?;
    let (archived, set) = (opened.identity.cluster.clone(), found.facts.id.clone());
    if archived != set {
        found.member.close().await;
        return Err(BaseError::WrongCluster { archived, found: set });
    }
    let taken = Box::pin(copy(&found, ground, opened, wanted)).await;
    found.member.close().await;
    let (to, copied) = taken?;
    tracing::info!(base = %to.id, stop = %copied.base.stop, "everything is copied, waiting for the log");
    log.wait_until(ground, opened, &copied.base).await?;
    check_gaps(ground, opened, &copied.base).await?;
    let complete = describe(&to, wanted, copied);
    let event = Event::Base { id: to.id.clone() };
    ledger::append(&*to.store, to.lineage, ground.clock.wall(), event).await?;
    to.put("complete.json", complete.encode().into()).await?;
    tracing::info!(base = %to.id, raw = complete.raw_bytes, stored = complete.stored_bytes, "a base is complete");
    Ok(complete)
}

async fn copy(
    found: &preflight::Found,
    ground: &Ground,
    opened: &Opened,
    wanted: &BaseOptions,
) -> Result<(Destination, Copied), BaseError> {
    let (store, lineage) = (ground.store.clone(), opened.lineage);
    let id = base_id(found);
    tracing::info!(base = %id, member = found.member.name(), "a base begins");
    let to = Destination { store, lineage, id, codec: wanted.codec, policy: wanted.policy };
    let client = found.member.client();
    let mode = opened.identity.mongodb().map(|mongodb| mongodb.source_mode).unwrap_or_default();
    let progress = wanted.progress.clone();
    let copied = mongodb::copy_for(mode, client, &to, progress, &*ground.clock).await?;
    Ok((to, copied))
}

/// `<UTC time>_<T>_<I>`, of the entry that the majority had: sorts by time, and a retry never meets
/// an earlier attempt.
fn base_id(found: &preflight::Found) -> String {
    let (time, at) = (found.hello.local_time.to_string(), found.hello.majority.ts);
    let digits: String = time.chars().take(19).filter(|c| *c != '-' && *c != ':').collect();
    format!("{digits}Z_{:010}_{:010}", at.seconds(), at.increment())
}

fn describe(to: &Destination, wanted: &BaseOptions, copied: Copied) -> Complete {
    let Copied { base, started, finished } = copied;
    Complete {
        format: FORMAT_VERSION,
        id: to.id.clone(),
        engine: Engine::Mongodb,
        label: wanted.label.clone(),
        kind: "full".to_owned(),
        started,
        finished,
        program: PROGRAM.to_owned(),
        raw_bytes: base.raw_bytes(),
        stored_bytes: base.stored_bytes(),
        postgres: None,
        mongodb: Some(base),
        archives: Vec::new(),
        manifest: None,
        manifest_more: Vec::new(),
        config_files: std::collections::BTreeMap::new(),
        damaged: Vec::new(),
    }
}

impl Log<'_> {
    /// Waits until the store holds the log up to the base's stop.
    async fn wait_until(
        &self,
        ground: &Ground,
        opened: &Opened,
        base: &MongodbBase,
    ) -> Result<(), LogError> {
        let store = &*ground.store;
        if let Some(state) = self.state {
            state.await_moment(base.stop.0);
        }
        let goal = Newest { ts: base.stop, reached: self.newest.reached.clone() };
        let (mut seen, mut since) = (None, Instant::now());
        // Where the capture was when it had come so far: it goes on, and this does not.
        let mut position = None;
        loop {
            position = position.or_else(|| goal.position());
            let stored = self.durable.and_then(|durable| *durable.stored.borrow());
            if position.is_some_and(|at| stored.is_some_and(|stored| stored >= at)) {
                return Ok(());
            }
            let now = if self.durable.is_some() {
                (stored, 0)
            } else {
                let (lineage, epoch) = (opened.lineage, mongo::capture::EPOCH);
                let end = chained::find_end(store, lineage, epoch, &OplogSegments).await?;
                if goal.is_stored(store, opened, &end).await? {
                    return Ok(());
                }
                (end.durable, end.chain.next_seq())
            };
            if seen != Some(now) {
                (seen, since) = (Some(now), Instant::now());
            }
            let stood = since.elapsed();
            if stood >= PATIENCE {
                return Err(LogError::NotStored { stop: base.stop, stood });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// # Errors
/// [`LogError::OplogGap`] when log is lost between the base's start and its stop.
async fn check_gaps(ground: &Ground, opened: &Opened, base: &MongodbBase) -> Result<(), BaseError> {
    for entry in ledger::read(&*ground.store, opened.lineage).await?.entries {
        if let Event::Gap { oplog: Some([last, first]), reason, .. } = entry.event
            && first.ts > base.start.ts
            && last.ts < base.stop
        {
            return Err(LogError::OplogGap { last, first, reason }.into());
        }
    }
    Ok(())
}

/// What a base joins: an archive that somebody else writes.
pub(super) fn joined(store: Arc<dyn Store>) -> Ground {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    Ground {
        store,
        disk: Arc::new(proto::disk::SystemDisk),
        clock: clock.clone(),
        health: Arc::new(crate::ship::health::Health::new(clock)),
        level: Arc::new(crate::spool::SpoolLevel::new(proto::position::ByteCount(0))),
    }
}

impl From<mongo::Error> for BaseError {
    fn from(error: mongo::Error) -> Self {
        let class = match error.class() {
            mongo::Class::Retry | mongo::Class::LogRemoved | mongo::Class::Protocol => Class::Retry,
            _ => Class::Config,
        };
        SourceError { class, source: Box::new(error) }.into()
    }
}
