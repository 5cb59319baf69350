//! The log of a path as a search sees it: frozen, cut where it is broken.
//!
//! Enters: a catalog, a path and the bases that may be used. Leaves: an [`ArchiveView`]. Times and
//! marks come from the indexes; a segment without one is decoded when a search asks for it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Base, Catalog, CatalogError, LogPath, LogRange};
use crate::find::decode::{events_in, record_in};
use crate::find::{BaseSummary, Gap, LogView, SegmentSummary};
use proto::archive::index::{Head, MARKS_MAX, Mark, MarkKind, Summary};
use proto::postgres::lsn::{Lsn, Timeline};
use proto::postgres::reader::RecordReader;
use proto::postgres::scan::{Event, Span};
use proto::timestamp::Timestamp;

/// A record is looked for in so many segments at most: the longest has 1 GiB (xlogrecord.h,
/// `XLogRecordMaxSize`).
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// One path's log.
#[derive(Debug)]
pub struct ArchiveView<'c> {
    catalog: &'c Catalog,
    path: LogPath,
    pieces: Vec<SegmentSummary>,
    /// Of the pieces that are whole segments with an index.
    summaries: BTreeMap<u64, Summary>,
    end: Option<Span>,
    watermark: Option<Timestamp>,
    gaps: Vec<Gap>,
    bases: Vec<BaseSummary>,
}

impl Catalog {
    /// The log of `path`, with the bases on it that `allowed` accepts.
    ///
    /// # Errors
    /// When the store fails, or the last segment is damaged.
    pub async fn view(
        &self,
        path: LogPath,
        allowed: impl Fn(&Base) -> bool,
    ) -> Result<ArchiveView<'_>, CatalogError> {
        let size = self.segment_size();
        let bases: Vec<&Base> =
            self.bases.iter().filter(|b| self.is_on(&path, b) && allowed(b)).collect();
        // What stands before the first base cannot be restored: it is not looked at.
        let first = bases.iter().map(|base| size.segment_of(base.complete.postgres().start)).min();
        let first = first.unwrap_or(0);
        let ranges: Vec<LogRange> =
            self.ranges(&path).into_iter().filter(|r| size.segment_of(r.to) >= first).collect();
        let summaries = self.path_summaries(&path, first).await?;
        let pieces = self.pieces(&path, &ranges, first, &summaries);
        let mut end = None;
        for range in ranges.iter().rev() {
            end = self.end_of(&path, *range).await?.last_record;
            if end.is_some() {
                break;
            }
        }
        let watermark = ranges.last().and_then(|range| self.watermark_in(&path, *range));
        let gaps = self.gaps_on(&path).into_iter().map(|gap| Gap {
            from: gap.from.offset.into(),
            to: gap.to.offset.into(),
            reason: gap.reason,
        });
        let holes = path.holes.iter().map(|(number, reason)| Gap {
            from: size.start_of(*number),
            to: size.start_of(number + 1),
            reason: reason.clone(),
        });
        let gaps = gaps.chain(holes).collect();
        Ok(ArchiveView {
            catalog: self,
            pieces,
            summaries,
            end,
            watermark: watermark.map(|mark| mark.proven()),
            gaps,
            bases: bases.into_iter().map(summary_of).collect(),
            path,
        })
    }

    /// The summaries of the segments that stand on a path as they are: of those whose timeline owns
    /// them there.
    async fn path_summaries(
        &self,
        path: &LogPath,
        first: u64,
    ) -> Result<BTreeMap<u64, Summary>, CatalogError> {
        let mut found = BTreeMap::new();
        for stretch in &path.stretches {
            if !self.logs.contains_key(&stretch.timeline) {
                continue;
            }
            let from = self.segment_size().segment_of(stretch.from).max(first);
            let own = self.summaries(stretch.timeline, from).await?;
            found.extend(own.into_iter().filter(|(number, _)| {
                let located = self.locate(path, *number);
                located.is_some_and(|located| located.id.timeline == stretch.timeline)
            }));
        }
        Ok(found)
    }

    fn pieces(
        &self,
        path: &LogPath,
        ranges: &[LogRange],
        first: u64,
        summaries: &BTreeMap<u64, Summary>,
    ) -> Vec<SegmentSummary> {
        let size = self.segment_size();
        let mut pieces = Vec::new();
        for range in ranges {
            let (from, to) = (size.segment_of(range.from), size.segment_of(Lsn(range.to.0 - 1)));
            for number in from.max(first)..=to {
                let Some(located) = self.locate(path, number) else { continue };
                let start = size.start_of(number);
                let piece_from = range.from.max(start);
                let until = range.to.min(Lsn(start.0 + located.raw_bytes));
                let summary = summaries.get(&number).filter(|summary| {
                    let whole = piece_from == start && until.since(start).0 == summary.raw_len;
                    whole && summary.head != Head::Unknown
                });
                let mut piece = SegmentSummary {
                    timeline: located.id.timeline,
                    number,
                    from: piece_from,
                    until,
                    ends: summary.map(|summary| summary.ends),
                    restore_points: summary.and_then(|summary| restore_points(&summary.marks)),
                    anomalies: summary.map_or(0, |summary| summary.anomalies),
                };
                piece.ends = piece.ends.or_else(|| self.searched.ends(&piece));
                pieces.push(piece);
            }
        }
        pieces
    }
}

fn restore_points(marks: &[Mark]) -> Option<Vec<String>> {
    // A full list may have left some out.
    if marks.len() >= MARKS_MAX {
        return None;
    }
    let points = marks.iter().filter(|mark| mark.kind == MarkKind::RestorePoint);
    Some(points.map(|mark| String::from_utf8_lossy(&mark.payload).into_owned()).collect())
}

fn summary_of(base: &Base) -> BaseSummary {
    let complete = &base.complete;
    BaseSummary {
        id: complete.id.clone(),
        start: complete.postgres().start,
        stop: complete.postgres().stop,
        started: complete.started,
        finished: complete.finished,
    }
}

impl ArchiveView<'_> {
    /// The marks of a piece from its index; `None` when it has none.
    pub(crate) fn marks(&self, piece: &SegmentSummary) -> Option<&[Mark]> {
        // Times alone may also be known from an earlier search.
        piece.restore_points.as_ref()?;
        let marks = &self.summaries.get(&piece.number)?.marks;
        (marks.len() < MARKS_MAX).then_some(marks)
    }

    /// The bytes of a piece from its segment's start on.
    async fn raw(&self, piece: &SegmentSummary) -> Result<Bytes, CatalogError> {
        let size = self.catalog.segment_size();
        let located = self.catalog.locate(&self.path, piece.number).ok_or_else(|| {
            let id =
                proto::postgres::lsn::SegmentId { timeline: piece.timeline, number: piece.number };
            CatalogError::NoSegment { name: id.name(size) }
        })?;
        let raw = self.catalog.raw(located.id).await?;
        let wanted = piece.until.since(size.start_of(piece.number)).0;
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(raw.len());
        Ok(raw.slice(..wanted))
    }

    /// The pieces from the one in which the record begins that spans into `piece`, with their
    /// bytes, and `piece` itself.
    async fn run_up(&self, at: usize) -> Result<(Lsn, Vec<Bytes>), CatalogError> {
        let size = self.catalog.segment_size();
        let most = (RECORD_BYTES_MAX / size.bytes()).max(1) as usize;
        let own = self.raw(&self.pieces[at]).await?;
        let known = self.summaries.get(&self.pieces[at].number).map(|summary| summary.head);
        let mut back = match known {
            Some(Head::Clean) => 0,
            Some(Head::From(offset)) => {
                let begins = size.segment_of(offset.into());
                usize::try_from(self.pieces[at].number.saturating_sub(begins)).unwrap_or(most)
            }
            Some(Head::Unknown) | None => usize::from(spans_in(&own)),
        };
        loop {
            let first = self.contiguous_from(at, back.min(most));
            let mut bytes = Vec::with_capacity(at - first + 1);
            for piece in &self.pieces[first..at] {
                bytes.push(self.raw(piece).await?);
            }
            let start = size.start_of(self.pieces[first].number);
            let mut reader = RecordReader::new(start, size);
            for before in &bytes {
                reader.feed(before, &mut |_| {});
            }
            let reached = at - first < back || back >= most;
            if back == 0 || !reader.is_skipping() || reached {
                bytes.push(own);
                return Ok((start, bytes));
            }
            back *= 2;
        }
    }

    /// The first of at most `back` pieces before `at` that lead to it without a hole.
    fn contiguous_from(&self, at: usize, back: usize) -> usize {
        let mut first = at;
        while first > 0
            && at - first < back
            && self.pieces[first - 1].until == self.pieces[first].from
            && self.pieces[first - 1].number < self.pieces[first].number
        {
            first -= 1;
        }
        first
    }
}

/// Whether a segment begins with the rest of a record.
fn spans_in(raw: &[u8]) -> bool {
    proto::postgres::page::PageHeader::parse(raw).is_none_or(|page| page.continues_record())
}

#[async_trait]
impl LogView for ArchiveView<'_> {
    fn timeline(&self) -> Timeline {
        self.path.timeline()
    }

    fn segments(&self) -> &[SegmentSummary] {
        &self.pieces
    }

    async fn events(&self, segment: &SegmentSummary) -> Result<Vec<Event>, CatalogError> {
        let size = self.catalog.segment_size();
        let at = self.pieces.partition_point(|piece| piece.from < segment.from);
        if self.pieces.get(at).is_none_or(|piece| piece.from != segment.from) {
            return Ok(Vec::new());
        }
        let (start, bytes) = self.run_up(at).await?;
        let raw = bytes.iter().map(|bytes| &bytes[..]);
        let events = events_in(raw, start, size, (segment.from, segment.until));
        let indexed = |piece: &SegmentSummary| self.summaries.contains_key(&piece.number);
        self.catalog.searched.decoded(&self.pieces[at], &events, &self.pieces, indexed);
        Ok(events)
    }

    async fn record_from(&self, lsn: Lsn) -> Result<Option<Span>, CatalogError> {
        let size = self.catalog.segment_size();
        let first = self.pieces.partition_point(|piece| piece.until <= lsn);
        let most = (RECORD_BYTES_MAX / size.bytes()).max(1) as usize + 2;
        let mut bytes: Vec<Bytes> = Vec::new();
        let mut next = 1;
        for (count, piece) in self.pieces[first..].iter().take(most).enumerate() {
            let broken = count > 0 && self.pieces[first + count - 1].until != piece.from;
            if broken {
                break;
            }
            bytes.push(self.raw(piece).await?);
            // One more, then twice as many: a long record is not read again for each segment.
            let last = first + count + 1 == self.pieces.len();
            if count + 1 < next && !last {
                continue;
            }
            next *= 2;
            let start = size.start_of(self.pieces[first].number);
            let found = record_in(bytes.iter().map(|b| &b[..]), start, size, lsn);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn end(&self) -> Option<Span> {
        self.end
    }

    fn watermark(&self) -> Option<Timestamp> {
        self.watermark
    }

    fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    fn bases(&self) -> &[BaseSummary] {
        &self.bases
    }
}
