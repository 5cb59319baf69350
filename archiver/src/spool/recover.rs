//! What an earlier run left in the spool folder, made to continue what the store has.
//!
//! Enters: where the store's log ends. Leaves: sealed files that the store lacks, in order, and
//! where the source goes on. What does not continue the store's log byte for byte is removed: the
//! source sends it again. Nothing that only the spool holds and that continues is ever removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::disk::Disk;
use proto::position::{Epoch, Offset, Position};
use proto::segment::{
    Codec, FOOTER_READ, FRAME_RAW, Footer, Frame, Hash, SegmentHead, read_sealed,
};

use super::error::io_error;
use super::file::{self, FrameRange, OpenFile, SealedFile};
use super::{Segmenter, Slot, SpoolError, SpoolStart, read};

/// Where the log in the store ends.
#[derive(Debug, Clone)]
pub struct StoreEnd {
    pub epoch: Epoch,
    /// Where the segment that is open begins, or the one that comes next.
    pub start: Offset,
    /// That segment, as far as it is known: its place tells, or it is begun.
    pub slot: Option<Slot>,
    /// Hash of the segment before it.
    pub previous: Hash,
    /// What the tails hold of it.
    pub raw: Vec<u8>,
}

/// What the spool holds beyond the store.
#[derive(Debug)]
pub struct Recovered {
    pub sealed: Vec<SealedFile>,
    pub start: SpoolStart,
    /// Bytes of all files that were kept.
    pub bytes: u64,
}

#[derive(Debug, Clone)]
pub struct RecoverSetup {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub codec: Codec,
    pub segmenter: Arc<dyn Segmenter>,
    pub lineage: u32,
    pub writer: u64,
}

/// Reads the spool folder and brings it in line with the store's end. Blocks.
///
/// # Errors
/// When the local disk fails.
pub fn recover(setup: &RecoverSetup, end: &StoreEnd) -> Result<Recovered, SpoolError> {
    let (disk, dir) = (&*setup.disk, &setup.dir);
    disk.create_dirs(dir).map_err(io_error("create", dir))?;
    let mut found = sealed_files(setup)?;
    found.sort_by_key(|s| (s.slot.name.epoch, s.slot.start, !s.footer.partial));
    let mut kept: Vec<SealedFile> = Vec::new();
    let mut at =
        Next { epoch: end.epoch, start: end.start, slot: end.slot.clone(), previous: end.previous };
    let mut before = at.clone();
    for sealed in found {
        let head = sealed.footer.head;
        let begins = at.is(&sealed.slot) && head.previous == at.previous;
        let branches = match kept.last() {
            Some(last) => branches_from(last, &sealed),
            None => branches_from_store(end, &sealed),
        };
        let fits = (begins && (!kept.is_empty() || holds(disk, &sealed, &end.raw)?)) || branches;
        if fits {
            before = std::mem::replace(&mut at, Next::behind(&sealed, setup.segmenter.as_ref()));
            kept.push(sealed);
        } else {
            tracing::info!(file = %sealed.path.display(), "not needed any more, removed");
            disk.remove(&sealed.path).map_err(io_error("remove", &sealed.path))?;
        }
    }
    // Behind a partial one only a new epoch's first segment stands, which is kept as it is.
    let alone = !kept.iter().rev().nth(1).is_some_and(|last| last.footer.partial);
    let unfilled = kept.pop_if(|last| alone && last.footer.partial);
    let of_unfilled = unfilled.as_ref().map(|sealed| raw_of(disk, sealed)).transpose()?.flatten();
    if unfilled.is_some() && of_unfilled.is_none() {
        at = before;
    }
    let mut held: &[u8] = match &of_unfilled {
        Some(raw) => raw,
        None if kept.is_empty() => &end.raw,
        None => &[],
    };
    let mut open = open_file(setup, &at, held)?;
    if let Some(sealed) = unfilled {
        // Killed behind the end of an epoch: its last segment is sealed when that end comes again,
        // and with the very bytes that the store may have of it, also those behind the branch.
        disk.remove(&sealed.path).map_err(io_error("remove", &sealed.path))?;
    }
    // Killed between its last frame and its sealed name: it is whole, and nothing goes behind it.
    while let Some(full) = open.take_if(|open| open.is_full()) {
        if full.is_checked() {
            let sealed = full.seal(false, setup.codec)?;
            at = Next::behind(&sealed, setup.segmenter.as_ref());
            kept.push(sealed);
            held = &[];
        } else {
            // Nothing tells whether it is what was written: the source sends it again.
            full.abandon()?;
        }
        open = open_file(setup, &at, held)?;
    }
    let bytes = kept.iter().map(|s| s.file_len).sum::<u64>()
        + open.as_ref().map_or(0, |open| open.segment.file_len());
    let next =
        open.as_ref().map_or(at.start, |open| Offset(open.slot.start.0 + open.segment.raw_len()));
    let proved = open.as_ref().map(|_| (held.len() as u64, Hash::of(held)));
    let start = SpoolStart { epoch: at.epoch, next, previous: at.previous, open, proved };
    Ok(Recovered { sealed: kept, start, bytes })
}

/// What comes behind what is kept.
#[derive(Clone)]
struct Next {
    epoch: Epoch,
    start: Offset,
    slot: Option<Slot>,
    previous: Hash,
}

impl Next {
    fn behind(sealed: &SealedFile, segmenter: &dyn Segmenter) -> Self {
        let (epoch, start) = (sealed.slot.name.epoch, sealed.slot.start);
        if sealed.footer.partial {
            let (slot, previous) = (Some(sealed.slot.clone()), sealed.footer.head.previous);
            return Self { epoch, start, slot, previous };
        }
        let start = Offset(start.0 + sealed.footer.raw_len);
        let slot = segmenter.holding(Position::new(epoch, start));
        Self { epoch, start, slot, previous: sealed.footer.hash }
    }

    fn is(&self, slot: &Slot) -> bool {
        match &self.slot {
            Some(known) => known == slot,
            None => (self.epoch, self.start) == (slot.name.epoch, slot.start),
        }
    }
}

/// The first segment of a new epoch stands where the old epoch's partial one stood.
fn branches_from(last: &SealedFile, sealed: &SealedFile) -> bool {
    last.footer.partial
        && sealed.slot.name.epoch > last.slot.name.epoch
        && sealed.slot.start == last.slot.start
        && sealed.footer.head.previous == last.footer.head.previous
}

/// The same, where the store has the old epoch's segment already: the new one begins with its bytes.
fn branches_from_store(end: &StoreEnd, sealed: &SealedFile) -> bool {
    !sealed.footer.partial
        && sealed.slot.name.epoch > end.epoch
        && sealed.slot.start == end.start
        && sealed.footer.head.previous == end.previous
}

fn sealed_files(setup: &RecoverSetup) -> Result<Vec<SealedFile>, SpoolError> {
    let (disk, dir) = (&*setup.disk, &setup.dir);
    let mut found = Vec::new();
    for entry in disk.list(dir).map_err(io_error("list", dir))? {
        let path = dir.join(&entry.name);
        match entry.name.rsplit_once('.') {
            Some((_, file::SEALED)) => match sealed_file(setup, &path, entry.len)? {
                Some(sealed) => found.push(sealed),
                None => {
                    tracing::warn!(file = %path.display(), "a damaged spool file, removed");
                    disk.remove(&path).map_err(io_error("remove", &path))?;
                }
            },
            Some((_, "joining")) => disk.remove(&path).map_err(io_error("remove", &path))?,
            _ => {}
        }
    }
    Ok(found)
}

fn sealed_file(
    setup: &RecoverSetup,
    path: &Path,
    len: u64,
) -> Result<Option<SealedFile>, SpoolError> {
    let from = len.saturating_sub(FOOTER_READ);
    let read = usize::try_from(len - from).expect("at most FOOTER_READ");
    let suffix = setup.disk.read_at(path, from, read).map_err(io_error("read", path))?;
    let Ok(footer) = Footer::decode_suffix(&suffix) else { return Ok(None) };
    if !is_whole(setup.disk.as_ref(), path, &footer)? {
        return Ok(None);
    }
    let head = footer.head;
    if head.lineage != setup.lineage || head.engine != setup.segmenter.engine() {
        return Ok(None);
    }
    let slot = setup.segmenter.named(head.epoch, head.number, head.start);
    Ok(Some(SealedFile { slot, footer, path: path.to_owned(), file_len: len, index: None }))
}

/// Whether every frame is the one in the frame table: what goes up from here is never read again.
/// Blocks.
///
/// # Errors
/// When the file cannot be read.
pub fn is_whole(disk: &dyn Disk, path: &Path, footer: &Footer) -> Result<bool, SpoolError> {
    let mut at = 0;
    for entry in &footer.frames {
        let frame =
            disk.read_at(path, at, entry.file_len as usize).map_err(io_error("read", path))?;
        if frame.len() != entry.file_len as usize || crc32fast::hash(&frame) != entry.crc {
            return Ok(false);
        }
        at += u64::from(entry.file_len);
    }
    Ok(true)
}

/// What a sealed file holds; `None` when that is not what its footer says.
fn raw_of(disk: &dyn Disk, sealed: &SealedFile) -> Result<Option<Vec<u8>>, SpoolError> {
    let path = &sealed.path;
    let object = disk.read(path).map_err(io_error("read", path))?;
    let raw = read_sealed(&object).map(|(_, raw)| raw);
    if let Err(error) = &raw {
        tracing::warn!(file = %path.display(), %error, "a damaged spool file: the source sends it again");
    }
    Ok(raw.ok())
}

/// Whether the file begins with exactly these raw bytes.
fn holds(disk: &dyn Disk, sealed: &SealedFile, raw: &[u8]) -> Result<bool, SpoolError> {
    let len = sealed.footer.frames_len();
    let range = FrameRange { path: sealed.path.clone(), offset: 0, len };
    let prefix = read::hash_prefix(disk, &range, raw.len() as u64);
    Ok(sealed.footer.raw_len >= raw.len() as u64 && prefix.is_ok_and(|hash| hash == Hash::of(raw)))
}

/// The open file at `at`: the one that was left if it holds at least what the store has, else one
/// made of what the store has, else none.
fn open_file(setup: &RecoverSetup, at: &Next, held: &[u8]) -> Result<Option<OpenFile>, SpoolError> {
    let (disk, dir) = (&setup.disk, &setup.dir);
    let left = names_of_open(&**disk, dir)?;
    let begun = || {
        let mut numbers =
            left.iter().filter_map(|name| file::number_of_open(name, at.start, at.previous));
        numbers.next().map(|number| setup.segmenter.named(at.epoch, number, at.start))
    };
    let slot = at.slot.clone().or_else(begun);
    let head = slot.as_ref().map(|slot| head_of(setup, slot, at.previous));
    let own = slot.as_ref().zip(head.as_ref()).map(|(slot, head)| file::open_path(dir, slot, head));
    for path in left.iter().map(|name| dir.join(name)).filter(|path| Some(path) != own.as_ref()) {
        disk.remove(&path).map_err(io_error("remove", &path))?;
    }
    let (Some(slot), Some(head), Some(own)) = (slot, head, own) else { return Ok(None) };
    if disk.len(&own).is_ok() {
        let (open, continues) = OpenFile::recover(disk.clone(), dir, slot.clone(), head, held)?;
        if continues && open.segment.raw_len() > 0 {
            return Ok(Some(open));
        }
        tracing::info!(file = %own.display(), "the store is ahead of the spool: filled from it");
    }
    if held.is_empty() {
        return Ok(None);
    }
    let mut open = OpenFile::create(disk.clone(), dir, slot, head)?;
    for piece in held.chunks(FRAME_RAW) {
        let wrong = |source| SpoolError::Segment { path: own.clone(), source };
        open.append(&Frame::of(setup.codec, piece).map_err(wrong)?, piece)?;
    }
    open.sync()?;
    Ok(Some(open))
}

fn names_of_open(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, SpoolError> {
    let entries = disk.list(dir).map_err(io_error("list", dir))?;
    Ok(entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(".open")).collect())
}

fn head_of(setup: &RecoverSetup, slot: &Slot, previous: Hash) -> SegmentHead {
    SegmentHead {
        engine: setup.segmenter.engine(),
        lineage: setup.lineage,
        epoch: slot.name.epoch,
        number: slot.number,
        writer: setup.writer,
        start: slot.start,
        previous,
    }
}
