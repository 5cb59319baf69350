//! Searching the segments of an oplog, opening only those that can hold what is wanted.
//!
//! Enters: an archive. Leaves: commits and notes, in the order of the log. What was decoded is kept
//! for a few segments, and the summary of each decoded one for all.

use std::collections::HashMap;
use std::sync::Arc;

use proto::archive::index::{Ends, MARKS_MAX, MarkKind};
use proto::mongodb::{Documents, Note, OplogTs, Record};
use proto::timestamp::Timestamp;

use super::Commit;
use crate::catalog::CatalogError;
use crate::catalog::mongodb::{OplogArchive, Summaries};

/// So many decoded segments are kept.
const KEPT: usize = 4;

type Read<T> = Result<T, CatalogError>;

/// An entry, as far as a search looks at it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) entry: Commit,
    pub(super) is_commit: bool,
    /// The name that it gives to its moment.
    pub(super) name: Option<String>,
}

impl Seen {
    /// By the clock of whoever was the primary.
    pub(super) fn time(&self) -> Timestamp {
        let second = self.entry.at.time();
        self.entry.time.unwrap_or(second)
    }
}

#[derive(Debug)]
pub(super) struct Pieces<'a> {
    archive: &'a OplogArchive,
    summaries: Summaries,
    decoded: Vec<(usize, Arc<[Seen]>)>,
    ends: HashMap<usize, Ends>,
}

impl<'a> Pieces<'a> {
    /// With the summaries of what lies behind `from`.
    pub(super) async fn new(archive: &'a OplogArchive, from: OplogTs) -> Read<Self> {
        let summaries = archive.summaries(from).await?;
        Ok(Self { archive, summaries, decoded: Vec::new(), ends: HashMap::new() })
    }

    pub(super) fn count(&self) -> usize {
        self.archive.segments.len()
    }

    /// The entries of a segment that are commits or notes, and its last one.
    pub(super) async fn seen(&mut self, piece: usize) -> Read<Arc<[Seen]>> {
        if let Some((_, seen)) = self.decoded.iter().find(|(at, _)| *at == piece) {
            return Ok(Arc::clone(seen));
        }
        let first = self.archive.segments[piece].first;
        let run = self.archive.log(first, first).next().await?.unwrap_or_default();
        let seen: Arc<[Seen]> = decode(first, &run)?.into();
        self.ends.insert(piece, ends_of(&seen));
        if self.decoded.len() == KEPT {
            self.decoded.remove(0);
        }
        self.decoded.push((piece, Arc::clone(&seen)));
        Ok(seen)
    }

    /// The summary of a segment, decoded where there is no index.
    async fn ends(&mut self, piece: usize) -> Read<Ends> {
        if let Some(summary) = self.summaries.get(&self.archive.segments[piece].first) {
            return Ok(summary.ends);
        }
        if !self.ends.contains_key(&piece) {
            self.seen(piece).await?;
        }
        Ok(self.ends.get(&piece).copied().unwrap_or_default())
    }

    /// The first commit that `wanted` accepts, from a segment on, in one that `likely` accepts.
    pub(super) async fn first(
        &mut self,
        from: usize,
        likely: impl Fn(&Ends) -> bool,
        wanted: impl Fn(&Seen) -> bool,
    ) -> Read<Option<(usize, Seen)>> {
        for piece in from..self.count() {
            if likely(&self.ends(piece).await?) {
                let seen = self.seen(piece).await?;
                if let Some(found) = seen.iter().find(|seen| seen.is_commit && wanted(seen)) {
                    return Ok(Some((piece, found.clone())));
                }
            }
        }
        Ok(None)
    }

    /// The last commit that `wanted` accepts, in the segments `from..=to`.
    pub(super) async fn last(
        &mut self,
        (from, to): (usize, usize),
        likely: impl Fn(&Ends) -> bool,
        wanted: impl Fn(&Seen) -> bool,
    ) -> Read<Option<(usize, Seen)>> {
        for piece in (from..=to).rev() {
            if likely(&self.ends(piece).await?) {
                let seen = self.seen(piece).await?;
                let mut commits = seen.iter().rev().filter(|seen| seen.is_commit);
                if let Some(found) = commits.find(|seen| wanted(seen)) {
                    return Ok(Some((piece, found.clone())));
                }
            }
        }
        Ok(None)
    }

    /// The names that a segment gives to moments: from its index, where that holds all of them.
    pub(super) async fn names(&mut self, piece: usize) -> Read<Vec<(String, Commit)>> {
        let summary = self.summaries.get(&self.archive.segments[piece].first);
        let Some(summary) = summary.filter(|summary| summary.marks.len() < MARKS_MAX) else {
            let seen = self.seen(piece).await?;
            let name = |seen: &Seen| Some((seen.name.clone()?, seen.entry));
            return Ok(seen.iter().filter_map(name).collect());
        };
        let points = summary.marks.iter().filter(|mark| mark.kind == MarkKind::RestorePoint);
        let name = |mark: &proto::archive::index::Mark| {
            let at = OplogTs(mark.transaction?);
            let name = String::from_utf8(mark.payload.clone()).ok()?;
            Some((name, Commit { at, time: mark.time }))
        };
        Ok(points.filter_map(name).collect())
    }
}

fn decode(segment: OplogTs, run: &[u8]) -> Read<Vec<Seen>> {
    let mut all = Vec::new();
    let mut documents = Documents::new(run);
    while let Some(document) = documents.next() {
        let (_, raw) = document.map_err(|source| CatalogError::Entries { segment, source })?;
        let wrong = |source| CatalogError::Entry { segment, source };
        let record = Record::read(raw).map_err(wrong)?;
        let is_commit = record.is_commit().map_err(wrong)?;
        let name = match record.note() {
            Some(Note::Named(name)) => Some(name.to_owned()),
            _ => None,
        };
        if is_commit || name.is_some() || documents.rest().is_empty() {
            let entry = Commit { at: record.at(), time: record.wall() };
            all.push(Seen { entry, is_commit, name });
        }
    }
    Ok(all)
}

/// What an index would say of them.
fn ends_of(seen: &[Seen]) -> Ends {
    let mut all = Ends::default();
    for seen in seen.iter().filter(|seen| seen.is_commit) {
        let (time, at) = (seen.time(), seen.entry.at.0);
        all.add(&Ends {
            commits: 1,
            aborts: 0,
            times: Some((time, time)),
            transactions: Some((at, at)),
        });
    }
    all
}
