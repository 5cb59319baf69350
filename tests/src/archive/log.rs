//! What an archive holds, read through its format alone: every object decoded, every hash checked,
//! put together into the files that the server wrote, and compared with the server's own.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use proto::archive::chain::{self, Chain};
use proto::archive::ends;
use proto::archive::identity::PostgresIdentity;
use proto::archive::layout::{self, Lineage};
use proto::archive::ledger::{self, Entry, Event};
use proto::postgres::history::History;
use proto::postgres::lsn::{Lsn, SegmentId, SegmentSize, Timeline};
use proto::segment::{Footer, Hash, read_sealed};
use proto::store::{Range, Store, list_all};

/// One segment's bytes and where they were found.
#[derive(Debug, Clone)]
pub struct Piece {
    pub raw: Vec<u8>,
    pub previous: Hash,
    /// Of a sealed one.
    pub footer: Option<Footer>,
}

/// The whole log of the last lineage.
#[derive(Debug)]
pub struct Log {
    pub size: SegmentSize,
    pub identity: PostgresIdentity,
    pub sealed: BTreeMap<SegmentId, Piece>,
    pub partial: BTreeMap<SegmentId, Piece>,
    /// Of every segment that still has tails.
    pub tails: BTreeMap<SegmentId, Piece>,
    pub chains: BTreeMap<SegmentId, Chain>,
    pub histories: BTreeMap<Timeline, History>,
    pub ledger: Vec<Entry>,
}

impl Log {
    pub(super) async fn read(store: &dyn Store, lineage: Lineage) -> Result<Self> {
        let identity = ends::identity(store, lineage).await?.context("no identity")?;
        let identity = identity.postgres().context("PostgreSQL's")?.clone();
        let size = identity.segment_bytes;
        let ledger = ledger::read(store, lineage).await?;
        ensure!(ledger.damaged.is_empty(), "{:?}", ledger.damaged);
        let mut log = Self {
            size,
            identity,
            sealed: BTreeMap::new(),
            partial: BTreeMap::new(),
            tails: BTreeMap::new(),
            chains: BTreeMap::new(),
            histories: BTreeMap::new(),
            ledger: ledger.entries,
        };
        // Tails first: a segment that is sealed meanwhile is then found in `log/`.
        for name in store.folders(&lineage.tails()).await? {
            let id = SegmentId::parse(&name, size)?;
            let chain = chain::follow(store, lineage, &name).await?;
            let (raw, _) = chain::read_raw(store, &name, &chain).await?;
            let previous = chain.links.first().map_or(Hash::NONE, |link| link.header.head.previous);
            log.tails.insert(id, Piece { raw, previous, footer: None });
            log.chains.insert(id, chain);
        }
        for object in list_all(store, &lineage.log()).await? {
            let (id, partial) = layout::postgres_segment_of(object.key.name(), size)
                .with_context(|| format!("{} is no segment", object.key))?;
            let bytes = store.get(&object.key, Range::All).await?;
            let (footer, raw) =
                read_sealed(&bytes).with_context(|| format!("{} is damaged", object.key))?;
            ensure!(footer.partial == partial, "{} says partial = {}", object.key, footer.partial);
            ensure!(
                footer.head.number == id.number,
                "{} is number {}",
                object.key,
                footer.head.number
            );
            ensure!(partial || raw.len() as u64 == size.bytes(), "{} is short", object.key);
            let piece = Piece { raw, previous: footer.head.previous, footer: Some(footer) };
            let into = if partial { &mut log.partial } else { &mut log.sealed };
            into.insert(id, piece);
        }
        for object in list_all(store, &lineage.epochs()).await? {
            let digits = object.key.name().trim_end_matches(".history");
            let timeline = Timeline(u32::from_str_radix(digits, 16)?);
            let raw = store.get(&object.key, Range::All).await?;
            log.histories.insert(timeline, History::parse(timeline, raw)?);
        }
        Ok(log)
    }

    /// The timelines with any log, ascending.
    pub fn timelines(&self) -> Vec<Timeline> {
        let all = self.sealed.keys().chain(self.partial.keys()).chain(self.tails.keys());
        let mut found: Vec<Timeline> = all.map(|id| id.timeline).collect();
        found.sort();
        found.dedup();
        found
    }

    /// The best that is known of a segment: sealed, else the longer of partial and tails.
    pub fn segment(&self, id: SegmentId) -> Option<&Piece> {
        let held =
            |map: &BTreeMap<SegmentId, Piece>| map.get(&id).map_or(0, |piece| piece.raw.len());
        self.sealed.get(&id).or_else(|| {
            let by_tails = held(&self.tails) > held(&self.partial);
            let map = if by_tails { &self.tails } else { &self.partial };
            map.get(&id).or_else(|| self.tails.get(&id))
        })
    }

    /// The first segment of a timeline.
    pub fn first(&self, timeline: Timeline) -> Option<SegmentId> {
        let all = self.sealed.keys().chain(self.partial.keys()).chain(self.tails.keys());
        all.filter(|id| id.timeline == timeline).min().copied()
    }

    /// Where a timeline's log ends, without a hole from its first segment on.
    pub fn end_of(&self, timeline: Timeline) -> Result<Lsn> {
        let mut id = self.first(timeline).with_context(|| format!("no log of {timeline}"))?;
        loop {
            let held = self.segment(id).map_or(0, |piece| piece.raw.len() as u64);
            if held < self.size.bytes() {
                return Ok(Lsn(id.start(self.size).0 + held));
            }
            id = id.next();
        }
    }

    /// Where the newest timeline's log ends.
    pub fn end(&self) -> Result<(Timeline, Lsn)> {
        let newest = *self.timelines().last().context("an archive without any log")?;
        Ok((newest, self.end_of(newest)?))
    }

    /// The stretches that the ledger says are lost.
    pub fn gaps(&self) -> Vec<(Lsn, Lsn)> {
        let gap = |entry: &Entry| match &entry.event {
            Event::Gap { from, to, .. } => Some((from.offset.into(), to.offset.into())),
            _ => None,
        };
        self.ledger.iter().filter_map(gap).collect()
    }

    /// Fails unless nothing is missing: on every timeline each segment follows the one before it
    /// and carries its hash, tails equal the seal, and a timeline begins with its parent's bytes.
    /// Gives a line that says what was found.
    pub fn assert_unbroken(&self) -> Result<String> {
        for (id, tail) in &self.tails {
            let sealed = self.sealed.get(id).or_else(|| self.partial.get(id));
            if let Some(sealed) = sealed {
                let both = tail.raw.len().min(sealed.raw.len());
                let name = id.name(self.size);
                ensure!(
                    tail.raw[..both] == sealed.raw[..both],
                    "{name}: tails differ from the seal"
                );
            }
        }
        for timeline in self.timelines() {
            self.assert_timeline(timeline)?;
        }
        let (timeline, end) = self.end()?;
        let held = (self.sealed.len(), self.partial.len(), self.chains.len());
        Ok(format!(
            "{} sealed, {} partial, {} chains, end {timeline}:{end}, hash {}",
            held.0,
            held.1,
            held.2,
            self.hash()
        ))
    }

    fn assert_timeline(&self, timeline: Timeline) -> Result<()> {
        let ids: Vec<SegmentId> = {
            let all = self.sealed.keys().chain(self.partial.keys()).chain(self.tails.keys());
            let mut ids: Vec<_> = all.filter(|id| id.timeline == timeline).copied().collect();
            ids.sort();
            ids.dedup();
            ids
        };
        for pair in ids.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            let (name, next) = (before.name(self.size), after.name(self.size));
            if self.gaps().iter().any(|(_, to)| *to == after.start(self.size)) {
                continue;
            }
            ensure!(before.next() == after, "a hole between {name} and {next}");
            let piece = self.segment(before).context("it was listed")?;
            let held = piece.raw.len() as u64;
            ensure!(held == self.size.bytes(), "{name} has {held} bytes, and {next} follows");
            let previous = self.segment(after).context("it was listed")?.previous;
            let expected = Hash::of(&piece.raw);
            ensure!(previous == expected, "{next} names {previous}, but {name} is {expected}");
        }
        match ids.first() {
            Some(first) if timeline > self.identity.first_timeline => self.assert_branch(*first),
            _ => Ok(()),
        }
    }

    /// A timeline's first segment begins with its parent's bytes and names the same predecessor.
    fn assert_branch(&self, first: SegmentId) -> Result<()> {
        let name = first.name(self.size);
        let history = self.histories.get(&first.timeline);
        let history = history.with_context(|| format!("no history of {}", first.timeline))?;
        let branch = history.branch().context("a timeline with a parent")?;
        let own = self.segment(first).context("it was listed")?;
        ensure!(
            first.number == self.size.segment_of(branch.at),
            "{name} does not begin at {}",
            branch.at
        );
        let parent = SegmentId { timeline: branch.parent, number: first.number };
        let common = usize::try_from(self.size.offset_in(branch.at))?;
        if common > 0 {
            let Some(parent) = self.segment(parent) else {
                bail!(
                    "{} was not archived up to the branch at {}",
                    parent.name(self.size),
                    branch.at
                )
            };
            let common = common.min(own.raw.len());
            ensure!(parent.raw.len() >= common, "{name}: the parent ends before the branch");
            ensure!(parent.raw[..common] == own.raw[..common], "{name} differs from its parent");
            ensure!(parent.previous == own.previous, "{name} and its parent follow different ones");
        } else if let Some(number) = first.number.checked_sub(1)
            && let Some(before) = self.segment(SegmentId { timeline: branch.parent, number })
        {
            ensure!(own.previous == Hash::of(&before.raw), "{name} does not follow its parent");
        }
        Ok(())
    }

    /// One hash over everything.
    pub fn hash(&self) -> Hash {
        let mut all = proto::segment::RunningHash::default();
        for timeline in self.timelines() {
            let mut next = self.first(timeline);
            while let Some(id) = next {
                let Some(piece) = self.segment(id) else { break };
                all.update(&piece.raw);
                next = Some(id.next());
            }
        }
        all.now()
    }

    /// How much of a segment every member of the cluster has: a standby that was promoted may never
    /// have had what its timeline's parent has behind the branch.
    fn common(&self, id: SegmentId) -> usize {
        let branches = self.histories.values().filter_map(|history| history.branch());
        let own = branches.filter(|branch| branch.parent == id.timeline);
        let rest = own.map(|branch| match self.size.segment_of(branch.at) {
            number if number == id.number => self.size.offset_in(branch.at),
            number if number < id.number => 0,
            _ => self.size.bytes(),
        });
        rest.min().map_or(usize::MAX, |rest| usize::try_from(rest).expect("a segment in memory"))
    }

    /// Fails unless every file of this folder (a server's `pg_wal`, or what pg_receivewal wrote)
    /// that the archive also has begins with the archived bytes. Gives how many were compared.
    pub fn assert_equals_files(&self, folder: &Path) -> Result<usize> {
        let mut compared = 0;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = name.trim_end_matches(".partial");
            let Ok(id) = SegmentId::parse(name, self.size) else { continue };
            let Some(piece) = self.segment(id) else { continue };
            let raw = &piece.raw[..piece.raw.len().min(self.common(id))];
            let file = std::fs::read(&path)?;
            ensure!(file.len() >= raw.len(), "{} is shorter than the archive", path.display());
            if file[..raw.len()] != *raw {
                let at = file.iter().zip(raw).position(|(a, b)| a != b).unwrap_or(0);
                bail!("{name} differs from {} at byte {at:#x}", path.display());
            }
            compared += 1;
        }
        Ok(compared)
    }
}
