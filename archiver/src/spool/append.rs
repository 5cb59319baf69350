//! The second half of the spooler: frames that are compressed go into the open file, in order, and
//! a segment that is full is sealed beside the frames that follow it.
//!
//! Enters: compressed frames, in the order in which they were cut. Leaves: [`SpoolEvent`]s, each
//! after an fsync. After a crash at any line the file holds whole frames; the rest comes again.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::StreamExt;
use proto::position::Offset;
use proto::segment::{FRAME_RAW, Frame, Hash, SegmentError, SegmentHead};
use tokio::task::JoinError;

use super::SpoolError;
use super::event::{OpenState, SpoolEvent};
use super::file::{OpenFile, SealedFile};
use super::segmenter::Slot;
use super::spooler::{SpoolSetup, Spooler, blocking};
use crate::seal::SegmentIndexer;

/// Segments that may be in sealing at once.
const SEALING_MAX: usize = 3;

/// A frame's raw bytes, and the frame.
pub(super) type Compressed = (Bytes, Result<Frame, SegmentError>);

/// A sealed file, and how large it was while open.
pub(super) type Seal = (SealedFile, u64);

/// A frame that is in the file, what it was made of, and what it passed through.
#[derive(Debug)]
pub(super) struct Appended {
    open: OpenFile,
    indexer: Box<dyn SegmentIndexer>,
    raw: Bytes,
    frame: Frame,
}

/// A frame in work: the segment it belongs to, and what follows once it is on disk.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub slot: Slot,
    /// The segment ends with it, whatever its size.
    pub ends: bool,
    pub flush: bool,
    pub urgent: bool,
}

impl Spooler {
    pub(super) async fn drain(&mut self) -> Result<(), SpoolError> {
        while self.in_work() > 0 {
            self.advance().await?;
        }
        self.drain_sealing(0).await
    }

    /// Frames between the ring and the file.
    pub(super) fn in_work(&self) -> usize {
        self.working.len() + self.appending.len()
    }

    /// Waits until at most `rest` segments are being sealed.
    pub(super) async fn drain_sealing(&mut self, rest: usize) -> Result<(), SpoolError> {
        while self.sealing.len() > rest {
            let done = self.sealing.next().await.ok_or(SpoolError::Worker)?;
            self.sealed(done)?;
        }
        Ok(())
    }

    /// A frame's buffers serve again: fresh megabytes would cost a page fault every 4 KiB.
    fn keep_buffers(&mut self, raw: Bytes, frame: Frame) {
        if self.spare_frames.len() < self.ahead {
            self.spare_frames.push(frame.bytes);
        }
        if let Ok(mut buffer) = raw.try_into_mut()
            && buffer.capacity() >= FRAME_RAW
            && self.spare.len() <= self.ahead
        {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Waits for one step of the oldest frame in work.
    pub(super) async fn advance(&mut self) -> Result<(), SpoolError> {
        if let Some(done) = self.appending.next().await {
            return self.appended(done).await;
        }
        match self.working.next().await {
            Some(done) => self.append(done),
            None => Ok(()),
        }
    }

    /// Begins to append the oldest frame; what comes meanwhile is taken in and compressed.
    pub(super) fn append(&mut self, done: Result<Compressed, JoinError>) -> Result<(), SpoolError> {
        let (raw, frame) = done.map_err(|_| SpoolError::Worker)?;
        let cut = self.cuts.front().expect("a cut for each frame in work");
        let path = self.setup.dir.clone();
        let frame = frame.map_err(|source| SpoolError::Segment { path, source })?;
        self.setup.level.add(frame.bytes.len() as u64);
        let (slot, head) = (cut.slot.clone(), self.head(&cut.slot));
        let SpoolSetup { disk, dir, level, .. } = self.setup.clone();
        let open = self.open.take();
        let mut indexer = self.indexer.take().ok_or(SpoolError::Worker)?;
        self.appending.push_back(crate::work::spawn(move || {
            let mut open = match open {
                Some(open) => open,
                None => OpenFile::create(disk, &dir, slot, head)?,
            };
            level.look();
            indexer.feed(&open.slot, open.segment.raw_len(), &raw);
            open.append(&frame, &raw)?;
            Ok(Appended { open, indexer, raw, frame })
        }));
        Ok(())
    }

    pub(super) async fn appended(
        &mut self,
        done: Result<Result<Appended, SpoolError>, JoinError>,
    ) -> Result<(), SpoolError> {
        let Appended { mut open, indexer, raw, frame } = done.map_err(|_| SpoolError::Worker)??;
        let cut = self.cuts.pop_front().expect("a cut for each frame in work");
        self.indexer = Some(indexer);
        self.keep_buffers(raw, frame);
        if open.is_full() || cut.ends {
            return self.seal(open, false).await;
        }
        if cut.flush {
            open = blocking(move || open.sync().map(|()| open)).await?;
            self.drain_sealing(0).await?;
            self.announce(&open, cut.urgent);
        }
        self.open = Some(open);
        Ok(())
    }

    fn head(&self, slot: &Slot) -> SegmentHead {
        SegmentHead {
            engine: self.setup.segmenter.engine(),
            lineage: self.setup.lineage,
            epoch: slot.name.epoch,
            number: slot.number,
            writer: self.setup.writer,
            start: slot.start,
            previous: self.previous,
        }
    }

    /// Seals a segment beside the frames that follow it.
    pub(super) async fn seal(&mut self, open: OpenFile, partial: bool) -> Result<(), SpoolError> {
        self.drain_sealing(SEALING_MAX - 1).await?;
        if !partial {
            self.previous = open.segment.hash();
        }
        let codec = self.setup.codec;
        let indexer = self.indexer.as_mut();
        let index = indexer.and_then(|indexer| indexer.finish(&open.slot, open.segment.raw_len()));
        self.sealing.push_back(crate::work::spawn(move || {
            let before = open.segment.file_len();
            open.seal(partial, codec).map(|sealed| (SealedFile { index, ..sealed }, before))
        }));
        Ok(())
    }

    pub(super) fn sealed(
        &self,
        done: Result<Result<Seal, SpoolError>, JoinError>,
    ) -> Result<(), SpoolError> {
        let (sealed, before) = done.map_err(|_| SpoolError::Worker)??;
        self.setup.level.add(sealed.file_len);
        self.setup.level.remove(before);
        self.send(SpoolEvent::Sealed(sealed));
        Ok(())
    }

    pub(super) fn announce(&self, open: &OpenFile, urgent: bool) {
        if self.is_unproved(open) {
            return;
        }
        let end = Offset(open.slot.start.0 + open.segment.raw_len());
        let mark = self.mark.filter(|mark| mark.offset <= end);
        self.send(SpoolEvent::Flushed(open.state(mark, urgent)));
    }

    /// Whether everything handed on so far is on disk and announced.
    pub(super) fn is_flushed(&self) -> bool {
        self.pending.is_empty()
            && self.in_work() == 0
            && self.sealing.is_empty()
            && self.flush_at.is_none()
            && self.compare.is_none()
    }

    /// The open segment, or the one that comes next while it is empty, if it is known.
    pub(super) fn state(&self) -> Option<OpenState> {
        let slot = self.slot_at(self.next)?;
        if let Some(open) = &self.open {
            return Some(OpenState { slot, ..open.state(self.mark, false) });
        }
        Some(OpenState {
            head: self.head(&slot),
            path: PathBuf::new(),
            raw_len: 0,
            file_len: 0,
            hash: Hash::of(b""),
            stops: Vec::new(),
            slot,
            mark: self.mark,
            urgent: false,
        })
    }

    pub(super) fn send(&self, event: SpoolEvent) {
        // Nobody listens any more only when the whole pipeline is being taken down.
        let _ = self.events.send(event);
    }
}
