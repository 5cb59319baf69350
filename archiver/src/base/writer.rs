//! Takes one base: from the server's stream to `complete.json`.
//!
//! Enters: a source, a store, and whoever knows how far the log is durable. Leaves: a base that
//! can be restored, or an error and parts that nothing reads. `complete.json` is created last, when
//! every part, the manifest and the log from the start's segment to the stop are durable.

use std::sync::Arc;

use proto::archive::base::{Complete, DamagedPage, ObjectRef, PostgresBase, TarStream};
use proto::archive::ends;
use proto::archive::identity::FORMAT_VERSION;
use proto::archive::layout::Lineage;
use proto::archive::ledger::{self, Event as LedgerEvent};
use proto::clock::Clock;
use proto::postgres::lsn::{Lsn, Timeline};
use proto::segment::{Codec, Engine};
use proto::store::Store;
use proto::store::retry::Policy;
use proto::timestamp::Timestamp;

use super::durable::{DurableLog, Needed};
use super::error::BaseError;
use super::label::BackupLabel;
use super::manifest::Manifest;
use super::parts::{Destination, PartWriter};
use super::progress::{Meter, OnProgress};
use super::source::{Checkpoint, Event, Facts, Request, Source, Start};
use super::split::{Seen, Splitter};

const PROGRAM: &str = concat!("pitrd ", env!("CARGO_PKG_VERSION"));
/// Ledger entries that one damaged base adds; all pages stand in its `complete.json`.
const DAMAGE_ENTRIES_MAX: usize = 20;

#[derive(Clone)]
pub struct BaseOptions {
    pub label: String,
    pub checkpoint: Checkpoint,
    /// kB/s.
    pub max_rate: Option<u32>,
    pub codec: Codec,
    /// How long a failing store is asked again; a source waits meanwhile.
    pub policy: Policy,
    pub progress: Option<OnProgress>,
}

impl Default for BaseOptions {
    fn default() -> Self {
        Self {
            label: "pitr".to_owned(),
            checkpoint: Checkpoint::Fast,
            max_rate: None,
            codec: Codec::default(),
            policy: Policy::Attempts(60),
            progress: None,
        }
    }
}

/// Takes a base and returns what its `complete.json` says. Damaged pages do not fail it: they are
/// named in the result, in the ledger and in the log, and the caller waits for the next regular
/// attempt.
///
/// # Errors
/// [`BaseError`], by whose class the caller decides when to try again.
pub async fn take(
    source: &mut dyn Source,
    store: Arc<dyn Store>,
    lineage: Lineage,
    durable: &dyn DurableLog,
    options: &BaseOptions,
    clock: &dyn Clock,
) -> Result<Complete, BaseError> {
    // On the heap: hash states and events make it some tens of kilobytes.
    Box::pin(take_unboxed(source, store, lineage, durable, options, clock)).await
}

async fn take_unboxed(
    source: &mut dyn Source,
    store: Arc<dyn Store>,
    lineage: Lineage,
    durable: &dyn DurableLog,
    options: &BaseOptions,
    clock: &dyn Clock,
) -> Result<Complete, BaseError> {
    let facts = source.facts().await?;
    if let Some(identity) = ends::identity(&*store, lineage).await?
        && identity.cluster != facts.system_identifier
    {
        let (archived, found) = (identity.cluster, facts.system_identifier);
        return Err(BaseError::WrongCluster { archived, found });
    }
    let started = source.clock().await?;
    let label = options.label.clone();
    let request = Request { label, checkpoint: options.checkpoint, max_rate: options.max_rate };
    let mut backup = source.begin(&request).await?;
    let start = match backup.next().await? {
        Some(Event::Start(start)) => start,
        other => return Err(order("the start", other.as_ref())),
    };
    let id = base_id(started, &start);
    tracing::info!(base = %id, start = %start.start, timeline = %start.timeline, "a base begins");
    let to = Destination { store, lineage, id, codec: options.codec, policy: options.policy };
    let meter = Meter::new(clock, start.expected_bytes, options.progress.clone());
    let mut copy = Copy::new(to.clone(), meter);
    while let Some(event) = backup.next().await? {
        copy.take(event).await?;
    }
    drop(backup);
    copy.meter.tell(true);
    let copied = Box::pin(copy.finish(&start)).await?;
    let finished = source.clock().await?;
    let complete = describe(&to, options, facts, start, copied, (started, finished));
    finish(&to, durable, &complete, clock).await?;
    Ok(complete)
}

/// `<UTC time>_<timeline>_<start>`: sorts by time, and a retry never meets an earlier attempt.
fn base_id(started: Timestamp, start: &Start) -> String {
    let time = started.to_string();
    let digits: String = time.chars().take(19).filter(|c| *c != '-' && *c != ':').collect();
    format!("{digits}Z_{:08X}_{:016X}", start.timeline.0, start.start.0)
}

fn order(expected: &'static str, found: Option<&Event>) -> BaseError {
    let found = match found {
        Some(Event::Start(_)) => "a start",
        Some(Event::Archive { .. }) => "a tar stream",
        Some(Event::Data(_)) => "data",
        Some(Event::Manifest(_)) => "the manifest",
        Some(Event::Progress(_)) => "progress",
        Some(Event::End { .. }) => "the end",
        Some(Event::Damaged(_)) => "damaged pages",
        None => "nothing more",
    };
    BaseError::Order { expected, found }
}

/// What was copied, before the log is waited for.
struct Copied {
    archives: Vec<TarStream>,
    manifest: Vec<ObjectRef>,
    damaged: Vec<DamagedPage>,
    stop: Lsn,
    stop_timeline: Timeline,
}

/// The state of a copy between two events.
struct Copy<'a> {
    to: Destination,
    meter: Meter<'a>,
    open: Option<(Splitter, PartWriter, Option<u32>)>,
    archives: Vec<TarStream>,
    seen_base: Option<Seen>,
    manifest: Manifest,
    damaged: Vec<DamagedPage>,
    end: Option<(Lsn, Timeline)>,
}

impl<'a> Copy<'a> {
    fn new(to: Destination, meter: Meter<'a>) -> Self {
        let manifest = Manifest::new(to.clone());
        let (archives, damaged) = (Vec::new(), Vec::new());
        let (open, seen_base, end) = (None, None, None);
        Self { to, meter, open, archives, seen_base, manifest, damaged, end }
    }

    async fn take(&mut self, event: Event) -> Result<(), BaseError> {
        if self.end.is_some() && !matches!(event, Event::Damaged(_) | Event::Progress(_)) {
            return Err(order("nothing more", Some(&event)));
        }
        match event {
            Event::Start(_) => return Err(order("a tar stream", Some(&event))),
            Event::Archive { tablespace } => {
                self.close().await?;
                let name = tablespace.map_or_else(|| "base".to_owned(), |oid| oid.to_string());
                let parts = PartWriter::new(self.to.clone(), name);
                self.open = Some((Splitter::default(), parts, tablespace));
            }
            Event::Data(bytes) => self.data(&bytes).await?,
            Event::Manifest(bytes) => {
                self.close().await?;
                self.manifest.push(&bytes).await?;
            }
            Event::Progress(_) => {}
            Event::End { stop, timeline } => {
                self.close().await?;
                self.end = Some((stop, timeline));
            }
            Event::Damaged(pages) => self.damaged.extend(pages),
        }
        Ok(())
    }

    async fn data(&mut self, bytes: &[u8]) -> Result<(), BaseError> {
        let Some((splitter, parts, _)) = &mut self.open else {
            return Err(BaseError::Order { expected: "a tar stream", found: "data" });
        };
        let mut pieces = Vec::new();
        splitter.push(bytes, &mut pieces).map_err(|source| split_error(parts, source))?;
        for piece in pieces {
            parts.push(piece).await?;
        }
        self.meter.add(bytes.len() as u64, parts.stored_bytes());
        Ok(())
    }

    /// Ends the open tar stream; returns when its parts are durable.
    async fn close(&mut self) -> Result<(), BaseError> {
        let Some((splitter, mut parts, tablespace)) = self.open.take() else { return Ok(()) };
        let mut pieces = Vec::new();
        let finished = splitter.finish(&mut pieces);
        let (raw_bytes, seen) = finished.map_err(|source| split_error(&parts, source))?;
        for piece in pieces {
            parts.push(piece).await?;
        }
        let archive = parts.finish(tablespace, raw_bytes).await?;
        self.meter.archive_done(archive.parts.iter().map(|part| part.bytes).sum());
        self.archives.push(archive);
        if tablespace.is_none() {
            self.seen_base = Some(seen);
        }
        Ok(())
    }

    async fn finish(self, start: &Start) -> Result<Copied, BaseError> {
        let Some((stop, stop_timeline)) = self.end else {
            return Err(order("the end", None));
        };
        check_label(self.seen_base.as_ref(), start)?;
        let manifest = self.manifest.finish().await?;
        let (archives, damaged) = (self.archives, self.damaged);
        Ok(Copied { archives, manifest, damaged, stop, stop_timeline })
    }
}

fn split_error(parts: &PartWriter, source: super::split::SplitError) -> BaseError {
    BaseError::Split { stream: parts.name().to_owned(), source }
}

fn check_label(seen: Option<&Seen>, start: &Start) -> Result<(), BaseError> {
    let text = seen.and_then(|seen| seen.backup_label.as_deref()).unwrap_or_default();
    let good = BackupLabel::parse(text).is_some_and(|label| {
        label.start == start.start && label.timeline.is_none_or(|t| t == start.timeline)
    });
    if good {
        return Ok(());
    }
    let found = text.lines().next().unwrap_or("nothing").to_owned();
    Err(BaseError::Label { start: start.start, timeline: start.timeline, found })
}

fn describe(
    to: &Destination,
    options: &BaseOptions,
    facts: Facts,
    start: Start,
    copied: Copied,
    (started, finished): (Timestamp, Timestamp),
) -> Complete {
    let manifest_bytes: u64 = copied.manifest.iter().map(|object| object.bytes).sum();
    let mut manifest = copied.manifest.into_iter();
    let parts = copied.archives.iter().flat_map(|archive| &archive.parts);
    Complete {
        format: FORMAT_VERSION,
        id: to.id.clone(),
        engine: Engine::Postgresql,
        label: options.label.clone(),
        kind: "full".to_owned(),
        started,
        finished,
        program: PROGRAM.to_owned(),
        raw_bytes: copied.archives.iter().map(|archive| archive.raw_bytes).sum(),
        stored_bytes: parts.map(|part| part.bytes).sum::<u64>() + manifest_bytes,
        postgres: Some(PostgresBase {
            version_num: facts.version_num,
            system_identifier: facts.system_identifier,
            timeline: start.timeline,
            start: start.start,
            stop: copied.stop,
            stop_timeline: copied.stop_timeline,
            checksums: facts.checksums,
            settings: facts.settings,
            tablespaces: start.tablespaces,
        }),
        mongodb: None,
        archives: copied.archives,
        manifest: manifest.next(),
        manifest_more: manifest.collect(),
        config_files: facts.config_files,
        damaged: copied.damaged,
    }
}

/// Waits for the log, then makes the base exist.
async fn finish(
    to: &Destination,
    durable: &dyn DurableLog,
    complete: &Complete,
    clock: &dyn Clock,
) -> Result<(), BaseError> {
    let postgres = complete.postgres();
    let needed = Needed {
        start: postgres.start,
        timeline: postgres.timeline,
        stop: postgres.stop,
        stop_timeline: postgres.stop_timeline,
    };
    tracing::info!(base = %to.id, stop = %needed.stop, "everything is copied, waiting for the log");
    durable.wait_until(&needed).await?;
    for page in complete.damaged.iter().take(DAMAGE_ENTRIES_MAX) {
        tracing::error!(base = %to.id, file = %page.file, block = ?page.block, detail = %page.detail,
            "the database has a damaged page");
        let (base, file, detail) = (to.id.clone(), page.file.clone(), page.detail.clone());
        let event = LedgerEvent::DamagedPage { base, file, detail };
        ledger::append(&*to.store, to.lineage, clock.wall(), event).await?;
    }
    metrics::counter!("pitr_base_damaged_pages_total").increment(complete.damaged.len() as u64);
    let event = LedgerEvent::Base { id: to.id.clone() };
    ledger::append(&*to.store, to.lineage, clock.wall(), event).await?;
    to.put("complete.json", complete.encode().into()).await?;
    tracing::info!(base = %to.id, raw = complete.raw_bytes, stored = complete.stored_bytes, "a base is complete");
    Ok(())
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
