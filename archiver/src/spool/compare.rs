//! Where the log begins again: a new connection, a new epoch. What is held must be what is sent.
//!
//! Enters: bytes that are held already. Leaves: the rest, or the proof that another cluster, a
//! clone or a rewound server is sending. Compared by hash: nothing is read back but at a branch.

use bytes::Bytes;
use proto::position::{ByteCount, Offset, Position};
use proto::segment::{Hash, RunningHash};

use super::spooler::{Spooler, blocking};
use super::{OpenFile, SpoolError, read};
use crate::ring::EpochChange;

/// Bytes that must be the same as ones that are held: sent again after a reconnect (and dropped
/// here), or copied by a new epoch from the one before it (and kept).
#[derive(Debug)]
pub(super) struct Compare {
    hash: RunningHash,
    until: Offset,
    expected: Hash,
    /// Where the copy of a new epoch begins. Until all of it is proved it is told to nobody.
    copied_from: Option<Offset>,
    /// A part that the store holds too: when the source differs there, it is another cluster; when
    /// it differs only behind it, the file is damaged.
    proved: Option<(Offset, Hash)>,
}

impl Compare {
    /// Before the first byte of a new epoch that copies `from..until` of the one before it.
    fn of_copy(from: Offset, until: Offset, expected: Hash) -> Self {
        let copied_from = Some(from);
        Self { hash: RunningHash::default(), until, expected, copied_from, proved: None }
    }

    /// Accounts for bytes that end at `reached`.
    fn take(&mut self, bytes: &[u8], reached: Offset) -> Result<(), (Hash, Hash)> {
        let Some((proved, expected)) = self.proved.filter(|(proved, _)| *proved <= reached) else {
            self.hash.update(bytes);
            return Ok(());
        };
        let behind = usize::try_from(reached.since(proved).0).expect("at most bytes.len()");
        let (before, after) = bytes.split_at(bytes.len() - behind);
        self.hash.update(before);
        self.proved = None;
        let found = self.hash.now();
        self.hash.update(after);
        if found == expected { Ok(()) } else { Err((expected, found)) }
    }
}

impl Spooler {
    /// A new connection sends from a segment's start: what is held is compared, not stored twice.
    pub(super) async fn resume(&mut self, from: Offset) -> Result<(), SpoolError> {
        if let Some((begin, until, expected)) = self.copying() {
            // The copy comes again from its first byte, and is compared from there.
            self.forget_copy(begin).await?;
            self.compare = Some(Compare::of_copy(begin, until, expected));
            let found = from;
            return if from == begin {
                Ok(())
            } else {
                Err(SpoolError::Discontinuous { expected: begin, found })
            };
        }
        self.compare = None;
        self.flush(false).await?;
        self.drain().await?;
        if from == self.next {
            return Ok(());
        }
        match &self.open {
            Some(open) if open.slot.start == from => {
                let proved = self.proved.filter(|(len, _)| *len > 0);
                self.compare = Some(Compare {
                    hash: RunningHash::default(),
                    until: self.next,
                    expected: open.segment.hash(),
                    copied_from: None,
                    proved: proved.map(|(len, hash)| (Offset(from.0 + len), hash)),
                });
                Ok(())
            }
            _ => self.resume_within(from).await,
        }
    }

    /// A source whose segments have no size of their own begins with the last record that is held,
    /// wherever that begins: in the open segment, or in the one before it.
    async fn resume_within(&mut self, from: Offset) -> Result<(), SpoolError> {
        let until = self.next;
        let (mut held, mut begins) = (Vec::new(), until);
        if let Some(open) = self.open.as_ref().filter(|open| open.slot.end.is_none()) {
            let (disk, range) = (self.setup.disk.clone(), open.frames_from(0));
            held = blocking(move || read::raw(&*disk, &range)).await?;
            begins = open.slot.start;
        }
        let behind = begins;
        if from < begins {
            held.splice(0..0, self.last.iter().copied());
            begins = Offset(begins.0.saturating_sub(self.last.len() as u64));
        }
        if from < begins || from >= until {
            return Err(SpoolError::Discontinuous { expected: until, found: from });
        }
        let part = |end: Offset| {
            let at = |offset: Offset| usize::try_from(offset.since(begins).0).expect("in memory");
            Hash::of(&held[at(from)..at(end)])
        };
        let proved = self.proved.map(|(len, _)| behind.plus(ByteCount(len)));
        let proved = proved.filter(|proved| *proved > from).map(|proved| (proved, part(proved)));
        let (hash, expected) = (RunningHash::default(), part(until));
        self.compare = Some(Compare { hash, until, expected, copied_from: None, proved });
        Ok(())
    }

    /// A copy that is not proved to its end: where it begins and ends, and the hash of all of it.
    pub(super) fn copying(&self) -> Option<(Offset, Offset, Hash)> {
        let compare = self.compare.as_ref()?;
        Some((compare.copied_from?, compare.until, compare.expected))
    }

    /// Whether what `open` holds is yet to be proved by the source: a copy, or what an earlier run
    /// left in a file whose frames have no checksums.
    pub(super) fn is_unproved(&self, open: &OpenFile) -> bool {
        self.copying().is_some() || (self.proved.is_some() && !open.is_checked())
    }

    /// Lets go of a copy that was not proved to its end: its parent holds these bytes.
    async fn forget_copy(&mut self, begin: Offset) -> Result<(), SpoolError> {
        self.forget_uncut();
        self.drain().await?;
        if let Some(open) = self.open.take() {
            self.setup.level.remove(open.segment.file_len());
            open.abandon()?;
        }
        self.next = begin;
        self.compare = None;
        Ok(())
    }

    /// The log behind what is held is lost: the segment ends unfilled, and what comes next begins
    /// a run of its own.
    pub(super) async fn end_at_gap(&mut self, from: Offset) -> Result<(), SpoolError> {
        if let Some((begin, ..)) = self.copying() {
            self.forget_copy(begin).await?;
        }
        self.flush(true).await?;
        self.drain().await?;
        self.seal_partial().await?;
        self.drain_sealing(0).await?;
        self.next = from;
        self.previous = Hash::NONE;
        Ok(())
    }

    /// Takes the bytes that were held before off the front of `bytes` and returns where the rest
    /// begins (everything, when they are to be kept).
    pub(super) fn compare(
        &mut self,
        start: Offset,
        bytes: &mut Bytes,
    ) -> Result<Offset, SpoolError> {
        let Some(compare) = &mut self.compare else { return Ok(start) };
        let again = compare.until.since(start).0.min(bytes.len() as u64);
        let len = usize::try_from(again).expect("at most bytes.len()");
        let reached = Offset(start.0 + again);
        if let Err((expected, found)) = compare.take(&bytes[..len], reached) {
            let at = Position::new(self.epoch, reached);
            return Err(SpoolError::Diverged { at, expected, found });
        }
        let at = if compare.copied_from.is_some() {
            start
        } else {
            let _ = bytes.split_to(len);
            reached
        };
        if reached >= compare.until {
            let (expected, found) = (compare.expected, compare.hash.now());
            self.compare = None;
            let unproved = self.proved.take().is_some();
            if expected != found {
                if unproved && let Some(open) = self.open.take() {
                    let path = open.path().to_owned();
                    open.abandon()?;
                    return Err(SpoolError::Damaged { path });
                }
                let at = Position::new(self.epoch, reached);
                return Err(SpoolError::Diverged { at, expected, found });
            }
        }
        Ok(at)
    }

    pub(super) async fn seal_partial(&mut self) -> Result<(), SpoolError> {
        match self.open.take() {
            // A segment that has no size of its own is whole wherever it ends.
            Some(open) if open.segment.raw_len() > 0 => {
                let partial = open.slot.end.is_some();
                self.seal(open, partial).await
            }
            _ => Ok(()),
        }
    }

    /// Ends this epoch's log with a partial segment and begins the next epoch's. The new segment
    /// begins with a copy of the old one's bytes up to the branch: they must be the same.
    pub(super) async fn change_epoch(&mut self, change: EpochChange) -> Result<(), SpoolError> {
        if let Some((_, until, _)) = self.copying() {
            // An epoch holds at least what it copied from the one before it.
            return Err(SpoolError::Discontinuous { expected: until, found: change.at });
        }
        self.flush(true).await?;
        self.drain().await?;
        let copied = match &self.open {
            Some(open) if open.slot.start == change.from && change.at > change.from => {
                let len = change.at.since(change.from).0.min(open.segment.raw_len());
                let (disk, range) = (self.setup.disk.clone(), open.frames_from(0));
                Some((len, blocking(move || read::hash_prefix(&*disk, &range, len)).await?))
            }
            _ => None,
        };
        self.seal_partial().await?;
        self.drain_sealing(0).await?;
        self.epoch = change.next;
        self.next = change.from;
        if let Some(previous) = change.previous {
            self.previous = previous;
        }
        self.compare = copied.map(|(len, expected)| {
            Compare::of_copy(change.from, Offset(change.from.0 + len), expected)
        });
        self.proved = None;
        Ok(())
    }
}
