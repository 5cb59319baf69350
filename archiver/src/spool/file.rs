//! One spool file: the frames of the segment that is being filled, and its seal.
//!
//! Enters: frames in order. Leaves: a file that *is* the sealed object. After a crash at any line
//! the file holds a run of whole frames and perhaps a torn one, which [`OpenFile::recover`] cuts.
//! A failed fsync ends the file: the caller abandons it and asks the source again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::archive::layout;
use proto::disk::{Disk, DiskFile};
use proto::position::Offset;
use proto::segment::{
    Codec, FRAME_RAW, Footer, Frame, FrameEntry, FrameKind, Hash, OpenSegment, SegmentHead,
    Watermark, decompress, decompress_onto, first_frame,
};

use super::error::io_error;
use super::event::{FrameEnd, OpenState, STOP_EVERY};
use super::{Slot, SpoolError};

/// The file of the segment that is being filled.
#[derive(Debug)]
pub struct OpenFile {
    pub slot: Slot,
    pub segment: OpenSegment,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    /// Raw bytes that an fsync has confirmed.
    synced: u64,
    /// Whether every frame carries a checksum of its own (a stored one does not).
    checked: bool,
    stops: Vec<FrameEnd>,
}

/// A whole segment on the local disk, waiting for the store.
#[derive(Debug, Clone)]
pub struct SealedFile {
    pub slot: Slot,
    pub footer: Footer,
    pub path: PathBuf,
    pub file_len: u64,
    /// Its index, if it was seen whole on its way.
    pub index: Option<Vec<u8>>,
}

pub(super) const OPEN: &str = "open";
pub(super) const SEALED: &str = "sealed";

pub(super) fn path_of(dir: &Path, slot: &Slot, kind: &str) -> PathBuf {
    dir.join(format!("{}.{kind}", slot.name.name))
}

/// The open file of the segment with this head. Where the name does not tell the place, the place
/// and what stands before it are a part of it: frames behind a hole would look like the next ones.
pub(super) fn open_path(dir: &Path, slot: &Slot, head: &SegmentHead) -> PathBuf {
    match slot.end {
        Some(_) => path_of(dir, slot, OPEN),
        None => dir.join(format!("{}@{}-{}.{OPEN}", slot.name.name, head.start.0, head.previous)),
    }
}

/// The number of the segment whose open file has this name, if it begins at `start` behind
/// `previous`.
pub(super) fn number_of_open(name: &str, start: Offset, previous: Hash) -> Option<u64> {
    let (segment, place) = name.strip_suffix(".open")?.split_once('@')?;
    let continues = place == format!("{}-{previous}", start.0);
    continues.then(|| layout::mongodb_segment_of(&format!("{segment}.zst")))?.map(|(ts, _)| ts.0)
}

impl OpenFile {
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        slot: Slot,
        head: SegmentHead,
    ) -> Result<Self, SpoolError> {
        let path = open_path(dir, &slot, &head);
        if disk.len(&path).is_ok() {
            disk.remove(&path).map_err(io_error("remove", &path))?;
        }
        let file = disk.create_new(&path).map_err(io_error("create", &path))?;
        disk.sync_dir(dir).map_err(io_error("sync", dir))?;
        Ok(Self {
            slot,
            segment: OpenSegment::new(head),
            path,
            disk,
            file,
            synced: 0,
            checked: true,
            stops: Vec::new(),
        })
    }

    /// Reads a file that an earlier run left: whole frames are kept, the rest is cut off. Tells too
    /// whether its raw bytes begin with `known`, which stands in the store.
    pub fn recover(
        disk: Arc<dyn Disk>,
        dir: &Path,
        slot: Slot,
        head: SegmentHead,
        known: &[u8],
    ) -> Result<(Self, bool), SpoolError> {
        let path = open_path(dir, &slot, &head);
        let bytes = disk.read(&path).map_err(io_error("read", &path))?;
        let mut segment = OpenSegment::new(head);
        let mut stops = Vec::new();
        let (mut at, mut checked) = (0, true);
        let (mut unseen, mut same) = (known, true);
        // The first frame that is torn, flipped or foreign ends the run: the source sends it again.
        while let Ok(Some(span)) = first_frame(&bytes[at..]) {
            let frame = &bytes[at..at + span.len];
            let Ok(raw) = decompress(frame) else { break };
            if span.kind == FrameKind::Skippable || raw.len() as u64 > slot.room(segment.raw_len())
            {
                break;
            }
            checked &= has_checksum(frame);
            let (piece, rest) = unseen.split_at(raw.len().min(unseen.len()));
            same &= raw.starts_with(piece);
            unseen = rest;
            let entry = FrameEntry {
                raw_len: u32::try_from(raw.len()).expect("bounded by FRAME_RAW_MAX"),
                file_len: u32::try_from(span.len).expect("bounded by FRAME_RAW_MAX"),
                crc: crc32fast::hash(frame),
            };
            segment.push(entry, &raw);
            stop_at(&mut stops, &segment);
            at += span.len;
        }
        let mut file = disk.append(&path).map_err(io_error("open", &path))?;
        file.truncate(at as u64).map_err(io_error("cut", &path))?;
        let mut open = Self { slot, segment, path, disk, file, synced: 0, checked, stops };
        open.sync()?;
        Ok((open, same && unseen.is_empty()))
    }

    /// Appends a frame; durable after the next [`Self::sync`].
    ///
    /// # Panics
    /// When the frame does not fit into the segment.
    pub fn append(&mut self, frame: &Frame, raw: &[u8]) -> Result<(), SpoolError> {
        let room = self.slot.room(self.segment.raw_len());
        assert!(raw.len() as u64 <= room, "a segment never holds more than its size");
        self.file.write_all(&frame.bytes).map_err(io_error("write", &self.path))?;
        self.segment.push(frame.entry, raw);
        stop_at(&mut self.stops, &self.segment);
        Ok(())
    }

    pub fn sync(&mut self) -> Result<(), SpoolError> {
        if self.synced < self.segment.raw_len() {
            self.sync_or_abandon()?;
            self.synced = self.segment.raw_len();
        }
        Ok(())
    }

    /// After a failed fsync the kernel calls the lost pages clean, and a second one would succeed
    /// (Rebello et al., ATC'20): the file goes, and the source sends its bytes again.
    fn sync_or_abandon(&mut self) -> Result<(), SpoolError> {
        let failed = match self.file.sync() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        metrics::counter!("pitr_spool_io_errors_total").increment(1);
        tracing::error!(
            error = %failed, file = %self.path.display(),
            "fsync failed: the file is abandoned, its bytes come again from the source"
        );
        // One that cannot be removed stays damaged: compared with the source before it is used.
        let _ = self.disk.remove(&self.path);
        Err(io_error("sync", &self.path)(failed))
    }

    /// The frames that hold the raw bytes from `raw_start` on, as they stand in the file.
    /// `raw_start` is a frame's start.
    pub fn frames_from(&self, raw_start: u64) -> FrameRange {
        let (mut raw, mut offset) = (0, 0);
        for entry in &self.segment.frames {
            if raw >= raw_start {
                break;
            }
            raw += u64::from(entry.raw_len);
            offset += u64::from(entry.file_len);
        }
        debug_assert_eq!(raw, raw_start, "tails end where frames end");
        let len = self.segment.file_len() - offset;
        FrameRange { path: self.path.clone(), offset, len }
    }

    /// Whether a flipped bit in what was found would have been seen.
    pub const fn is_checked(&self) -> bool {
        self.checked
    }

    pub fn is_full(&self) -> bool {
        self.slot.room(self.segment.raw_len()) == 0
    }

    /// Writes the footer, fsyncs and gives the file its sealed name. Many small frames (a slow
    /// database's) are joined first.
    pub fn seal(self, partial: bool, codec: Codec) -> Result<SealedFile, SpoolError> {
        let wanted = self.segment.raw_len().div_ceil(FRAME_RAW as u64) as usize;
        let many = self.segment.frames.len() > wanted * 2 + 8;
        let (mut whole, small) = match many {
            true => (self.joined(codec)?, Some(self)),
            false => (self, None),
        };
        let (footer, bytes) = whole.segment.clone().seal(partial);
        whole.file.write_all(&bytes).map_err(io_error("write", &whole.path))?;
        whole.sync_or_abandon()?;
        let dir = whole.path.parent().expect("a file in the spool").to_owned();
        let path = path_of(&dir, &whole.slot, SEALED);
        if whole.disk.len(&path).is_ok() {
            whole.disk.remove(&path).map_err(io_error("remove", &path))?;
        }
        whole.disk.rename_exclusive(&whole.path, &path).map_err(io_error("rename", &path))?;
        whole.disk.sync_dir(&dir).map_err(io_error("sync", &dir))?;
        if let Some(small) = small {
            // Only now: until here it was the only whole copy.
            whole.disk.remove(&small.path).map_err(io_error("remove", &small.path))?;
        }
        let file_len = footer.frames_len() + bytes.len() as u64;
        Ok(SealedFile { slot: whole.slot, footer, path, file_len, index: None })
    }

    /// The same raw bytes in full frames, in a file of its own.
    fn joined(&self, codec: Codec) -> Result<Self, SpoolError> {
        let dir = self.path.parent().expect("a file in the spool").to_owned();
        let old = self.disk.read(&self.path).map_err(io_error("read", &self.path))?;
        let path = path_of(&dir, &self.slot, "joining");
        if self.disk.len(&path).is_ok() {
            self.disk.remove(&path).map_err(io_error("remove", &path))?;
        }
        let file = self.disk.create_new(&path).map_err(io_error("create", &path))?;
        let segment = OpenSegment::new(self.segment.head);
        let (slot, disk) = (self.slot.clone(), self.disk.clone());
        let stops = Vec::new();
        let mut joined = Self { slot, segment, path, disk, file, synced: 0, checked: true, stops };
        let wrong = |source| SpoolError::Segment { path: self.path.clone(), source };
        let (mut pending, mut at) = (Vec::with_capacity(FRAME_RAW * 2), 0);
        for entry in &self.segment.frames {
            let end = at + entry.file_len as usize;
            decompress_onto(&old[at..end], &mut pending).map_err(wrong)?;
            at = end;
            while pending.len() >= FRAME_RAW {
                let rest = pending.split_off(FRAME_RAW);
                joined.append(&Frame::of(codec, &pending).map_err(wrong)?, &pending)?;
                pending = rest;
            }
        }
        if !pending.is_empty() {
            joined.append(&Frame::of(codec, &pending).map_err(wrong)?, &pending)?;
        }
        assert_eq!(joined.segment.hash(), self.segment.hash(), "joining changes no raw byte");
        Ok(joined)
    }

    /// Removes the file: what it holds is not what the source sends.
    pub fn abandon(self) -> Result<(), SpoolError> {
        self.disk.remove(&self.path).map_err(io_error("remove", &self.path))
    }

    /// What the ship stage is told of it.
    pub fn state(&self, mark: Option<Watermark>, urgent: bool) -> OpenState {
        OpenState {
            slot: self.slot.clone(),
            head: self.segment.head,
            path: self.path.clone(),
            raw_len: self.segment.raw_len(),
            file_len: self.segment.file_len(),
            hash: self.segment.hash(),
            stops: self.stops.clone(),
            mark,
            urgent,
        }
    }

    /// Leaves the file for the next run.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Notes the end of `segment` as a stop, if the last one lies far enough back.
fn stop_at(stops: &mut Vec<FrameEnd>, segment: &OpenSegment) {
    let last = stops.last().map_or(0, |stop| stop.file_len);
    let (raw_len, file_len) = (segment.raw_len(), segment.file_len());
    if file_len - last >= STOP_EVERY {
        stops.push(FrameEnd { raw_len, file_len, hash: segment.hash() });
    }
}

/// Content_Checksum_flag of RFC 8878 §3.1.1.1.1; our lz4 frames always have one.
fn has_checksum(frame: &[u8]) -> bool {
    const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
    !frame.starts_with(&ZSTD_MAGIC) || frame.get(4).is_some_and(|flags| flags & 0b100 != 0)
}

/// Some whole frames in a spool file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameRange {
    pub path: PathBuf,
    pub offset: u64,
    pub len: u64,
}
