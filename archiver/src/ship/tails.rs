//! The writer's end of the tail chain: one tail in flight, each continuing the one before it.
//!
//! Enters: the open segment as far as it is fsynced. Leaves: a tail in the store, and how far the
//! chain reaches. When the key of the next tail is taken, what stands there decides: a prefix of
//! our bytes by the same or an older writer is adopted, a newer writer means fenced, anything else
//! is a conflict.

use std::sync::Arc;

use bytes::Bytes;
use proto::archive::chain::Chain;
use proto::archive::layout::Lineage;
use proto::disk::Disk;
use proto::position::Offset;
use proto::segment::{
    Codec, FRAME_RAW, Frame, Hash, MERGE_COUNT, SegmentHead, TailHeader, TailKind, Watermark,
    read_tail,
};
use proto::store::{Body, Key, Put, Range, Store};

use super::ShipError;
use super::health::Health;
use super::put::{get, put};
use crate::spool::{FrameEnd, FrameRange, OpenState, read};

/// Bytes of a tail's frames, about: they are held in memory on their way. A segment that fills
/// faster than the store takes its tails has several.
const TAIL_MAX: u64 = 2 << 20;

/// What every ship task needs.
#[derive(Debug, Clone)]
pub struct ShipTools {
    pub store: Arc<dyn Store>,
    pub disk: Arc<dyn Disk>,
    pub health: Arc<Health>,
    pub lineage: Lineage,
    pub writer: u64,
    pub codec: Codec,
}

/// The chain of the open segment, as far as this writer knows it.
#[derive(Debug, Clone)]
pub struct TailChain {
    pub head: SegmentHead,
    pub segment: String,
    next: u64,
    raw_len: u64,
    hash: Hash,
    /// Where the chain's end stands in the spool file, when it is a frame's end there.
    file_len: Option<u64>,
    /// Headers that can still be merged: single tails, and merged ones.
    singles: Vec<TailHeader>,
    merged: Vec<TailHeader>,
}

/// What became of a try to lengthen the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grown {
    /// The chain ends where the state was.
    Whole,
    /// Another's tail was adopted: the chain is longer, and perhaps not yet whole.
    Adopted,
    /// Another's tail stands here that begins with our bytes and goes on: ours must come so far
    /// before it can be adopted.
    Ahead,
}

impl TailChain {
    pub fn new(head: SegmentHead, segment: String) -> Self {
        Self {
            head,
            segment,
            next: 0,
            raw_len: 0,
            hash: Hash::of(b""),
            file_len: Some(0),
            singles: Vec::new(),
            merged: Vec::new(),
        }
    }

    /// Continues a chain found in the store; the spool file's frames are others.
    pub fn continuing(head: SegmentHead, segment: String, chain: &Chain) -> Self {
        let of = |level: u32| {
            let count = MERGE_COUNT.pow(level);
            let links = chain.links.iter().map(|link| link.header);
            links.filter(|h| h.last - h.first + 1 == count).collect::<Vec<_>>()
        };
        Self {
            head,
            segment,
            next: chain.next_seq(),
            raw_len: chain.raw_len(),
            hash: chain.hash(),
            file_len: (chain.raw_len() == 0).then_some(0),
            singles: of(0),
            merged: of(1),
        }
    }

    /// The position up to which the chain holds the log.
    pub const fn end(&self) -> Offset {
        Offset(self.head.start.0 + self.raw_len)
    }

    pub const fn raw_len(&self) -> u64 {
        self.raw_len
    }

    fn header(
        &self,
        kind: TailKind,
        raw_len: u64,
        after: Hash,
        mark: Option<Watermark>,
    ) -> TailHeader {
        TailHeader {
            head: self.head,
            kind,
            first: self.next,
            last: self.next,
            raw_start: self.raw_len,
            raw_len,
            before: self.hash,
            after,
            watermark: mark,
        }
    }

    fn took(&mut self, header: TailHeader, file_len: Option<u64>) {
        self.next = header.last + 1;
        self.raw_len = header.raw_end();
        self.hash = header.after;
        self.file_len = file_len;
        self.singles.push(header);
    }

    /// Puts an empty tail: a fence or a watermark.
    pub async fn put_empty(
        &mut self,
        tools: &ShipTools,
        kind: TailKind,
        mark: Option<Watermark>,
    ) -> Result<Grown, ShipError> {
        let header = self.header(kind, 0, self.hash, mark);
        let grown = self.put(tools, header, header.encode(), None, self.file_len).await?;
        Ok(grown)
    }

    /// Puts bytes between the chain's end and `state`: all of them, or as many as fit into
    /// [`TAIL_MAX`]. What is proved goes with the last of them.
    pub async fn put_data(
        &mut self,
        tools: &ShipTools,
        state: &OpenState,
        mark: Option<Watermark>,
    ) -> Result<Grown, ShipError> {
        let end = state.tail_end(self.raw_len, self.file_len, TAIL_MAX);
        let mark = mark.filter(|_| end.raw_len == state.raw_len);
        let header = self.header(TailKind::Data, end.raw_len - self.raw_len, end.hash, mark);
        let mut body = header.encode();
        body.extend(self.frames(tools, state, end).await?);
        self.put(tools, header, body, Some(state), Some(end.file_len)).await
    }

    /// The frames of the new bytes: as they stand in the spool file, or made anew when the chain
    /// ends within one of them.
    async fn frames(
        &self,
        tools: &ShipTools,
        state: &OpenState,
        end: FrameEnd,
    ) -> Result<Vec<u8>, ShipError> {
        let Some(offset) = self.file_len else {
            return made_anew(tools, state, self.raw_len, end.raw_len).await;
        };
        let (disk, path) = (tools.disk.clone(), state.path.clone());
        let range = FrameRange { path, offset, len: end.file_len - offset };
        let read = crate::spool::spooler::blocking(move || {
            // A bit that its disk turned over meanwhile is seen here, where a frame has a checksum.
            read::checked(&*disk, &range)
        });
        Ok(read.await?)
    }

    async fn put(
        &mut self,
        tools: &ShipTools,
        header: TailHeader,
        body: Vec<u8>,
        state: Option<&OpenState>,
        file_len: Option<u64>,
    ) -> Result<Grown, ShipError> {
        let key = tools.lineage.tail(&self.segment, self.next);
        let body = Body::Bytes(Bytes::from(body));
        if put(&*tools.store, &tools.health, &key, &body).await? == Put::Created {
            self.took(header, file_len);
            return Ok(Grown::Whole);
        }
        let found = get(&*tools.store, &tools.health, &key, Range::All).await?;
        let theirs = TailHeader::decode(&found)
            .map_err(|e| ShipError::Foreign { key: key.clone(), detail: e.to_string() })?;
        if theirs == header {
            tools.health.ambiguous();
            self.took(header, file_len);
            return Ok(Grown::Whole);
        }
        self.adopt(tools, &key, theirs, &found, state).await
    }

    /// Somebody's tail stands where ours belongs.
    async fn adopt(
        &mut self,
        tools: &ShipTools,
        key: &Key,
        theirs: TailHeader,
        found: &Bytes,
        state: Option<&OpenState>,
    ) -> Result<Grown, ShipError> {
        if theirs.head.writer > tools.writer {
            let (own, by) = (tools.writer, theirs.head.writer);
            return Err(ShipError::Fenced { key: key.clone(), own, by });
        }
        let conflict =
            || ShipError::Conflict { key: key.clone(), ours: self.hash, found: theirs.after };
        if theirs.before != self.hash || theirs.raw_start != self.raw_len {
            return Err(conflict());
        }
        if theirs.raw_len > 0 {
            let Some(state) = state else {
                // An empty tail of ours: whether theirs holds our bytes shows when they have come.
                // It may be our own: put by a pipeline before this one, and done late or not listed.
                return Ok(Grown::Ahead);
            };
            if state.raw_len < theirs.raw_end() {
                let ahead = self.begins_as_ours(tools, found, state).await?;
                return if ahead { Ok(Grown::Ahead) } else { Err(conflict()) };
            }
            let disk = tools.disk.clone();
            let (path, len) = (state.path.clone(), state.file_len);
            let ours = crate::spool::spooler::blocking(move || {
                read::hash_prefix(&*disk, &FrameRange { path, offset: 0, len }, theirs.raw_end())
            });
            if ours.await? != theirs.after {
                return Err(conflict());
            }
        }
        tracing::info!(%key, writer = theirs.head.writer, "an older writer's tail is continued");
        let file_len = if theirs.raw_len == 0 { self.file_len } else { None };
        self.took(theirs, file_len);
        Ok(Grown::Adopted)
    }

    /// Continues the chain with the older writer's tail that stands at its end, before the source
    /// is asked for anything: `raw` is what the store holds, and grows with it.
    pub async fn follow(&mut self, tools: &ShipTools, raw: &mut Vec<u8>) -> Result<(), ShipError> {
        let key = tools.lineage.tail(&self.segment, self.next);
        let found = get(&*tools.store, &tools.health, &key, Range::All).await?;
        let (theirs, piece) = read_tail(&found)
            .map_err(|e| ShipError::Foreign { key: key.clone(), detail: e.to_string() })?;
        let from = usize::try_from(self.raw_len).expect("a segment fits in memory");
        // A segment that was sealed unfilled may hold more than its tails.
        let known = raw.len().saturating_sub(from).min(piece.len());
        raw.extend(&piece[known..]);
        let ours = Hash::of(&raw[..from + piece.len()]);
        if theirs.before != self.hash || theirs.after != ours {
            return Err(ShipError::Conflict { key, ours, found: theirs.after });
        }
        self.took(theirs, None);
        Ok(())
    }

    /// Whether another's tail begins with the bytes that we have for its place.
    async fn begins_as_ours(
        &self,
        tools: &ShipTools,
        found: &Bytes,
        state: &OpenState,
    ) -> Result<bool, ShipError> {
        let (disk, found, from) = (tools.disk.clone(), found.clone(), self.raw_len);
        let (path, len) = (state.path.clone(), state.file_len);
        let compared = crate::spool::spooler::blocking(move || {
            let ours = read::raw(&*disk, &FrameRange { path, offset: 0, len })?;
            let ours = usize::try_from(from).ok().and_then(|from| ours.get(from..));
            let theirs = read_tail(&found).map(|(_, raw)| raw);
            Ok(ours.zip(theirs.ok()).is_some_and(|(ours, theirs)| theirs.starts_with(ours)))
        });
        Ok(compared.await?)
    }

    /// Merges what is due, so that the chain of a slow database stays short.
    pub async fn merge_due(
        &mut self,
        tools: &ShipTools,
        state: &OpenState,
    ) -> Result<(), ShipError> {
        while let Some((level, run)) = self.due() {
            let merged = self.merge(tools, state, level, &run).await?;
            let count = run.len();
            if level == 1 {
                self.singles.drain(..count);
                self.merged.push(merged);
            } else {
                self.merged.drain(..count);
            }
        }
        Ok(())
    }

    fn due(&self) -> Option<(u32, Vec<TailHeader>)> {
        for (level, headers) in [(1, &self.singles), (2, &self.merged)] {
            let size = MERGE_COUNT.pow(level);
            let aligned = headers.first().is_some_and(|h| h.first % size == 0);
            if aligned && headers.len() as u64 >= MERGE_COUNT {
                return Some((level, headers[..MERGE_COUNT as usize].to_vec()));
            }
        }
        None
    }

    async fn merge(
        &self,
        tools: &ShipTools,
        state: &OpenState,
        level: u32,
        run: &[TailHeader],
    ) -> Result<TailHeader, ShipError> {
        let (first, last) = (run[0], run[run.len() - 1]);
        let header = TailHeader {
            head: SegmentHead {
                writer: run.iter().map(|h| h.head.writer).max().unwrap_or(tools.writer),
                ..self.head
            },
            kind: TailKind::Merged,
            first: first.first,
            last: last.last,
            raw_start: first.raw_start,
            raw_len: last.raw_end() - first.raw_start,
            before: first.before,
            after: last.after,
            watermark: run.iter().filter_map(|h| h.watermark).max_by_key(|mark| mark.clock),
        };
        let mut body = header.encode();
        body.extend(made_anew(tools, state, header.raw_start, header.raw_end()).await?);
        let key = tools.lineage.merged(&self.segment, level, header.first);
        if put(&*tools.store, &tools.health, &key, &Body::from(body)).await? == Put::Exists {
            let range = Range::At { offset: 0, len: proto::segment::TAIL_HEADER_LEN };
            let found = get(&*tools.store, &tools.health, &key, range).await?;
            let theirs = TailHeader::decode(&found)
                .map_err(|e| ShipError::Foreign { key: key.clone(), detail: e.to_string() })?;
            if (theirs.before, theirs.after, theirs.last)
                != (header.before, header.after, header.last)
            {
                return Err(ShipError::Conflict { key, ours: header.after, found: theirs.after });
            }
        }
        Ok(header)
    }
}

/// The raw bytes of the open segment from `start` to `end`, in frames of their own.
async fn made_anew(
    tools: &ShipTools,
    state: &OpenState,
    start: u64,
    end: u64,
) -> Result<Vec<u8>, ShipError> {
    let (disk, codec) = (tools.disk.clone(), tools.codec);
    let (range, begin) = state.frames_around(start, end);
    let made = crate::spool::spooler::blocking(move || {
        let raw = read::raw(&*disk, &range)?;
        let at = |offset: u64| usize::try_from(offset - begin).expect("a segment fits in memory");
        Ok(encode_frames(codec, &raw[at(start)..at(end)]))
    });
    Ok(made.await?)
}

fn encode_frames(codec: Codec, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in raw.chunks(FRAME_RAW) {
        let frame = Frame::of(codec, piece).expect("bytes that were compressed before");
        out.extend(frame.bytes);
    }
    out
}

#[cfg(test)]
#[path = "tails_tests.rs"]
mod tests;
