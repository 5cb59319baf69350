//! The parts of a base, several at once: fetched, decoded, written, proved, noted.
//!
//! Enters: parts that the journal does not have. Leaves: their files' bytes on the disk and a line
//! in the journal for each, written only once a sync has made the bytes durable.

use std::sync::Arc;
use std::time::Duration;

use proto::archive::base::{Complete, TarPart};
use proto::archive::layout::Lineage;
use proto::position::ByteCount;
use proto::segment::{FrameKind, Hash, RunningHash, SegmentError, decompress, first_frame};
use proto::store::{Range, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::files::{Files, Root, UnpackError};
use super::tar::PartReader;
use super::{Layout, sync_all};
use crate::target::postgres::RestoreError;
use crate::target::progress::Progress;

/// Finished parts are made durable and noted together: after so many raw bytes,
const NOTE_BYTES: u64 = 1 << 30;
/// or after this long. Both bound what a killed restore does again.
const NOTE_EVERY: Duration = Duration::from_secs(10);

struct Work {
    part: TarPart,
    root: Root,
    last: bool,
}

struct Tally {
    done: u64,
    fetched: u64,
    pending: Vec<(String, Hash)>,
    pending_bytes: u64,
}

impl Tally {
    fn add(&mut self, part: TarPart) {
        self.done += part.raw_bytes;
        self.fetched += part.bytes;
        self.pending_bytes += part.raw_bytes;
        self.pending.push((part.object, part.hash));
    }

    fn take(&mut self) -> Vec<(String, Hash)> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.pending)
    }
}

impl Layout {
    /// Unpacks what is missing, with `jobs` parts at once.
    ///
    /// # Errors
    /// When the store fails, a part is damaged, a file cannot be written, or on interruption.
    pub async fn unpack(
        &mut self,
        store: Arc<dyn Store>,
        base: &Complete,
        jobs: usize,
        progress: &dyn Progress,
        interrupted: &CancellationToken,
    ) -> Result<u64, RestoreError> {
        check_streams(base)?;
        let total = base.archives.iter().map(|stream| stream.raw_bytes).sum();
        let mut todo = self.missing(base)?;
        let had: u64 = total - todo.iter().map(|work| work.part.raw_bytes).sum::<u64>();
        progress.begin("base", Some(ByteCount(total)));
        progress.done(ByteCount(had), "");
        todo.reverse();
        let mut tally = Tally { done: had, fetched: 0, pending: Vec::new(), pending_bytes: 0 };
        let mut running = JoinSet::new();
        let (mut noted, mut failure) = (tokio::time::Instant::now(), None);
        loop {
            while running.len() < jobs.max(1) && failure.is_none() && !interrupted.is_cancelled() {
                let Some(work) = todo.pop() else { break };
                let (store, id) = (store.clone(), base.id.clone());
                let lineage = Lineage(self.journal.state.lineage);
                running.spawn(one_part(store, lineage, id, work));
            }
            let finished = tokio::select! {
                finished = running.join_next() => finished,
                () = interrupted.cancelled() => break,
            };
            let Some(finished) = finished else { break };
            match finished.unwrap_or_else(|e| Err(RestoreError::Stopped { detail: e.to_string() }))
            {
                Ok(part) => tally.add(part),
                // Those that run are let finish: a resumed restore has less to do.
                Err(error) => failure = failure.or(Some(error)),
            }
            progress.done(ByteCount(tally.done), "");
            if tally.pending_bytes >= NOTE_BYTES || noted.elapsed() >= NOTE_EVERY {
                self.note(tally.take()).await?;
                noted = tokio::time::Instant::now();
            }
        }
        self.note(tally.take()).await?;
        progress.end();
        match failure {
            Some(error) => Err(error),
            None if interrupted.is_cancelled() => Err(RestoreError::Interrupted),
            None => Ok(tally.fetched),
        }
    }

    fn missing(&self, base: &Complete) -> Result<Vec<Work>, RestoreError> {
        let mut todo = Vec::new();
        for stream in &base.archives {
            let root = self.root_of(stream)?;
            for (at, part) in stream.parts.iter().enumerate() {
                if !self.journal.has(part) {
                    let last = at + 1 == stream.parts.len();
                    todo.push(Work { part: part.clone(), root: root.clone(), last });
                }
            }
        }
        Ok(todo)
    }

    async fn note(&mut self, parts: Vec<(String, Hash)>) -> Result<(), RestoreError> {
        if parts.is_empty() {
            return Ok(());
        }
        let roots = self.roots();
        let synced = tokio::task::spawn_blocking(move || sync_all(&roots)).await;
        synced.map_err(|e| RestoreError::Stopped { detail: e.to_string() })??;
        self.journal.note(&parts)
    }
}

/// A stream's parts must follow each other without a hole: a list with one missing would unpack
/// into a folder with a file missing.
fn check_streams(base: &Complete) -> Result<(), RestoreError> {
    for stream in &base.archives {
        let mut at = 0;
        for part in &stream.parts {
            if part.raw_start != at {
                let detail = format!("{} begins at {}, not at {at}", part.object, part.raw_start);
                return Err(RestoreError::Base { id: base.id.clone(), detail });
            }
            at += part.raw_bytes;
        }
        if at != stream.raw_bytes {
            let detail =
                format!("the parts of {} have {at} bytes of {}", stream.name, stream.raw_bytes);
            return Err(RestoreError::Base { id: base.id.clone(), detail });
        }
    }
    Ok(())
}

async fn one_part(
    store: Arc<dyn Store>,
    lineage: Lineage,
    base: String,
    work: Work,
) -> Result<TarPart, RestoreError> {
    let key = lineage.base_object(&base, &work.part.object);
    let object = store.get(&key, Range::All).await.map_err(crate::fetch::FetchError::from)?;
    let part = work.part.clone();
    let unpacked = tokio::task::spawn_blocking(move || unpack_part(&object, work)).await;
    match unpacked.map_err(|e| RestoreError::Stopped { detail: e.to_string() })? {
        Ok(()) => Ok(part),
        Err(source) => Err(RestoreError::Part { key, source }),
    }
}

fn unpack_part(object: &[u8], work: Work) -> Result<(), UnpackError> {
    let part = &work.part;
    let length = |what, expected, found| SegmentError::Length { what, expected, found };
    if object.len() as u64 != part.bytes {
        return Err(length("list of parts", part.bytes, object.len() as u64).into());
    }
    let mut files = Files::new(work.root);
    let mut reader = PartReader::new(part.raw_start, part.within.as_ref(), &mut files)?;
    let mut hash = RunningHash::default();
    let mut rest = object;
    while !rest.is_empty() {
        let offset = (object.len() - rest.len()) as u64;
        let torn = || SegmentError::Frame { offset, detail: "torn".to_owned() };
        let span = first_frame(rest)?.ok_or_else(torn)?;
        let (frame, behind) = rest.split_at(span.len);
        rest = behind;
        if span.kind == FrameKind::Skippable {
            continue;
        }
        let raw = decompress(frame)?;
        hash.update(&raw);
        if hash.bytes() > part.raw_bytes {
            return Err(length("list of parts", part.raw_bytes, hash.bytes()).into());
        }
        reader.feed(&raw, &mut files)?;
    }
    if work.last {
        reader.check_end()?;
    }
    reader.end_part(&mut files)?;
    if hash.bytes() != part.raw_bytes {
        return Err(length("list of parts", part.raw_bytes, hash.bytes()).into());
    }
    proto::segment::check_hash("list of parts", part.hash, hash.now())?;
    Ok(())
}
