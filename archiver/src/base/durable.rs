//! Waiting until the log that a base needs is durable, without a gap.
//!
//! Enters: where the base starts and stops. Leaves: the certainty that recovery from the base
//! reaches its stop from the archive alone; or why it never will. Only reads.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use proto::archive::layout::{self, Lineage, SegmentName};
use proto::archive::ledger::{self, Event};
use proto::archive::{ArchiveError, chain};
use proto::position::Position;
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize, Timeline};
use proto::segment::{FOOTER_READ, Footer};
use proto::store::{Range, Store, list_after};

use super::error::LogError;

/// The log that a base needs: from the first byte of the segment of its start, because recovery
/// asks for whole segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    pub start: Lsn,
    pub timeline: Timeline,
    pub stop: Lsn,
    pub stop_timeline: Timeline,
}

#[async_trait]
pub trait DurableLog: Send + Sync {
    /// Returns when the log is durable.
    ///
    /// # Errors
    /// [`LogError`] when it never will be, or does not become so.
    async fn wait_until(&self, needed: &Needed) -> Result<(), LogError>;
}

/// The archive itself: the proof, by whomever it is written.
#[derive(Debug)]
pub struct ArchivedLog<'a> {
    pub store: &'a dyn Store,
    pub lineage: Lineage,
    pub segment_size: SegmentSize,
    /// Between two looks.
    pub every: Duration,
    /// Without any progress for so long: give up.
    pub patience: Duration,
}

/// The pipeline of this process says when to look.
#[derive(Debug)]
pub struct PipelineLog<'a> {
    pub durable: watch::Receiver<Option<Position>>,
    pub archive: ArchivedLog<'a>,
}

#[async_trait]
impl DurableLog for PipelineLog<'_> {
    async fn wait_until(&self, needed: &Needed) -> Result<(), LogError> {
        let stop = needed.stop.at(needed.stop_timeline);
        let mut durable = self.durable.clone();
        let reached = |position: &Option<Position>| position.is_some_and(|p| p >= stop);
        let gone = durable.wait_for(reached).await.is_err();
        if gone {
            return Err(LogError::WriterGone { stop: needed.stop });
        }
        self.archive.wait_until(needed).await
    }
}

#[async_trait]
impl DurableLog for ArchivedLog<'_> {
    async fn wait_until(&self, needed: &Needed) -> Result<(), LogError> {
        let mut reached = self.segment_size.floor(needed.start);
        let mut since = Instant::now();
        loop {
            let (now, beyond) = self.reach(needed, reached).await?;
            if now >= needed.stop {
                return self.check_gaps(needed).await;
            }
            if now > reached {
                (reached, since) = (now, Instant::now());
            } else if beyond {
                self.check_gaps(needed).await?;
            }
            let stood = since.elapsed();
            if stood >= self.patience {
                let (timeline, number) = (needed.timeline, self.segment_size.segment_of(reached));
                let segment = SegmentId { timeline, number }.name(self.segment_size);
                let stalled = LogError::Stalled { reached, stop: needed.stop, stood };
                return Err(if beyond { LogError::Missing { segment } } else { stalled });
            }
            tokio::time::sleep(self.every).await;
        }
    }
}

impl ArchivedLog<'_> {
    pub const fn new(store: &dyn Store, lineage: Lineage, size: SegmentSize) -> ArchivedLog<'_> {
        ArchivedLog {
            store,
            lineage,
            segment_size: size,
            every: Duration::from_secs(1),
            patience: Duration::from_secs(120),
        }
    }

    /// How far the log is durable without a hole, from `from` (where it is known to be) on; and
    /// whether there is a sealed segment behind the hole. Segments are uploaded in parallel: a hole
    /// may be one that is still on its way.
    async fn reach(&self, needed: &Needed, from: Lsn) -> Result<(Lsn, bool), LogError> {
        let size = self.segment_size;
        let (mut number, last) = (size.segment_of(from), size.segment_of(needed.stop));
        let mut beyond = false;
        while number <= last {
            let run = self.sealed_run(needed, number).await?;
            beyond |= run.beyond;
            if run.next == number {
                break;
            }
            number = run.next;
        }
        let mut reached = from.max(size.start_of(number));
        if reached < needed.stop {
            reached = reached.max(self.by_tails(needed, number).await?);
        }
        if reached < needed.stop {
            reached = reached.max(self.by_partial(needed, number).await?);
        }
        Ok((reached, beyond))
    }

    /// The sealed segments that follow each other from `number` on, within one group of names.
    async fn sealed_run(&self, needed: &Needed, number: u64) -> Result<Run, LogError> {
        let mut sealed = BTreeSet::new();
        for timeline in timelines(needed) {
            let first = SegmentId { timeline, number };
            let folder = self.lineage.log_group(timeline.into(), &first.group(self.segment_size));
            let before = format!("{folder}{}", first.name(self.segment_size));
            for object in list_after(self.store, &folder, Some(&before)).await? {
                match layout::postgres_segment_of(object.key.name(), self.segment_size) {
                    Some((id, false)) => sealed.insert(id.number),
                    _ => continue,
                };
            }
        }
        let mut next = number;
        while sealed.contains(&next) {
            next += 1;
        }
        Ok(Run { next, beyond: sealed.last().is_some_and(|last| *last > next) })
    }

    async fn by_tails(&self, needed: &Needed, number: u64) -> Result<Lsn, LogError> {
        let mut reached = self.segment_size.start_of(number);
        for timeline in timelines(needed) {
            let name = SegmentId { timeline, number }.name(self.segment_size);
            match chain::follow(self.store, self.lineage, &name).await {
                Ok(chain) => {
                    let end = self.segment_size.start_of(number).0 + chain.raw_len();
                    reached = reached.max(Lsn(end));
                }
                // Tails that go while they are read: the next look finds the segment sealed.
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(reached)
    }

    /// A timeline's last segment, sealed at its branch.
    async fn by_partial(&self, needed: &Needed, number: u64) -> Result<Lsn, LogError> {
        let mut reached = self.segment_size.start_of(number);
        for timeline in timelines(needed) {
            let id = SegmentId { timeline, number };
            let key = self.lineage.partial(&SegmentName::postgres(id, self.segment_size));
            match self.store.get(&key, Range::Last(FOOTER_READ)).await {
                Ok(suffix) => {
                    let footer = Footer::decode_suffix(&suffix)
                        .map_err(|source| ArchiveError::Segment { key, source })?;
                    let end = self.segment_size.start_of(number).0 + footer.raw_len;
                    reached = reached.max(Lsn(end));
                }
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(reached)
    }

    async fn check_gaps(&self, needed: &Needed) -> Result<(), LogError> {
        let from = self.segment_size.floor(needed.start);
        for entry in ledger::read(self.store, self.lineage).await?.entries {
            if let Event::Gap { from: gap, to, reason, .. } = entry.event
                && timelines(needed).any(|timeline| timeline == gap.epoch.into())
                && Lsn::from(to.offset) > from
                && Lsn::from(gap.offset) < needed.stop
            {
                let (from, to) = (gap.offset.into(), to.offset.into());
                return Err(LogError::Gap { from, to, reason });
            }
        }
        Ok(())
    }
}

struct Run {
    /// The first segment that is not sealed.
    next: u64,
    /// Whether one behind it is.
    beyond: bool,
}

fn timelines(needed: &Needed) -> impl Iterator<Item = Timeline> + use<> {
    (needed.timeline.0..=needed.stop_timeline.0).rev().map(Timeline)
}

fn is_absent(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Store(error) if error.is_absent())
}
