//! Searching the pieces of a view, opening only those that can hold what is wanted.
//!
//! In: a view. Out: commits and other events, in the order of the log. What was decoded is kept
//! for a few pieces, and the summary of each decoded piece for all.

use std::collections::HashMap;
use std::sync::Arc;

use proto::archive::index::Ends;
use proto::postgres::lsn::Lsn;
use proto::postgres::scan::Event;
use proto::postgres::transaction::Meaning;

use crate::catalog::CatalogError;

use super::{Commit, LogView, SegmentSummary, commit_of};

/// So many decoded pieces are kept.
const KEPT: usize = 4;

pub(super) struct Log<'v> {
    pub(super) view: &'v dyn LogView,
    decoded: Vec<(usize, Arc<[Event]>)>,
    ends: HashMap<usize, Ends>,
}

type Read<T> = Result<T, CatalogError>;

impl<'v> Log<'v> {
    pub(super) fn new(view: &'v dyn LogView) -> Self {
        Self { view, decoded: Vec::new(), ends: HashMap::new() }
    }

    pub(super) fn pieces(&self) -> &'v [SegmentSummary] {
        self.view.segments()
    }

    /// The events of a piece, in order.
    pub(super) async fn events(&mut self, piece: usize) -> Read<Arc<[Event]>> {
        if let Some((_, events)) = self.decoded.iter().find(|(at, _)| *at == piece) {
            return Ok(Arc::clone(events));
        }
        let summary = &self.pieces()[piece];
        let mut events = self.view.events(summary).await?;
        events.retain(|e| e.end > summary.from && e.end <= summary.until);
        let events: Arc<[Event]> = events.into();
        self.ends.insert(piece, ends_of(&events));
        if self.decoded.len() == KEPT {
            self.decoded.remove(0);
        }
        self.decoded.push((piece, Arc::clone(&events)));
        Ok(events)
    }

    /// The summary of a piece, decoded where the index has none.
    pub(super) async fn ends(&mut self, piece: usize) -> Read<Ends> {
        if let Some(ends) = self.pieces()[piece].ends {
            return Ok(ends);
        }
        if !self.ends.contains_key(&piece) {
            self.events(piece).await?;
        }
        Ok(self.ends.get(&piece).copied().unwrap_or_default())
    }

    /// The first commit that `wanted` accepts in a piece that `likely` accepts.
    pub(super) async fn first(
        &mut self,
        from: usize,
        likely: impl Fn(&Ends) -> bool,
        wanted: impl Fn(&Commit) -> bool,
    ) -> Read<Option<(usize, Commit)>> {
        for piece in from..self.pieces().len() {
            if likely(&self.ends(piece).await?)
                && let Some(found) =
                    self.events(piece).await?.iter().filter_map(commit_of).find(&wanted)
            {
                return Ok(Some((piece, found)));
            }
        }
        Ok(None)
    }

    /// The last commit that `wanted` accepts in the pieces up to `to`.
    pub(super) async fn last(
        &mut self,
        to: usize,
        likely: impl Fn(&Ends) -> bool,
        wanted: impl Fn(&Commit) -> bool,
    ) -> Read<Option<(usize, Commit)>> {
        for piece in (0..=to).rev() {
            if likely(&self.ends(piece).await?)
                && let Some(found) =
                    self.events(piece).await?.iter().rev().filter_map(commit_of).find(&wanted)
            {
                return Ok(Some((piece, found)));
            }
        }
        Ok(None)
    }

    /// The piece in which a record that ends at `end` belongs; the last one for the end of the log.
    pub(super) fn piece_of(&self, end: Lsn) -> usize {
        let pieces = self.pieces();
        pieces.partition_point(|piece| piece.until < end).min(pieces.len() - 1)
    }

    /// The last commit that is replayed when everything up to `position` is, and the next one.
    pub(super) async fn neighbours(
        &mut self,
        position: Lsn,
    ) -> Read<(Option<Commit>, Option<Commit>)> {
        let piece = self.piece_of(position);
        let any = |ends: &Ends| ends.commits > 0;
        let kept = self.last(piece, any, |commit| commit.end <= position).await?;
        let left = self.first(piece, any, |commit| commit.end > position).await?;
        Ok((kept.map(|(_, commit)| commit), left.map(|(_, commit)| commit)))
    }
}

/// What an index would say of a piece with these events.
pub(crate) fn ends_of(events: &[Event]) -> Ends {
    let mut all = Ends::default();
    for event in events {
        let Meaning::Transaction(t) = &event.meaning else { continue };
        let commit = t.end.is_commit();
        all.add(&Ends {
            commits: u32::from(commit),
            aborts: u32::from(!commit),
            times: commit.then_some((t.time, t.time)),
            transactions: t.xid.map(|xid| (u64::from(xid), u64::from(xid))),
        });
    }
    all
}
