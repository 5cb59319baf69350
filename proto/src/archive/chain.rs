//! The chain of tails of one segment, followed by hash and never by listing alone.
//!
//! Enters: a segment's name. Leaves: the fewest objects that hold its raw bytes from the first on,
//! merged ones first, and where the chain ends. A hole or a hash that does not continue ends the
//! chain, for a writer with an error: nothing behind it is ever served.

use bytes::Bytes;

use super::ArchiveError;
use super::layout::{Lineage, sequence_of};
use crate::segment::{
    Hash, MERGE_COUNT, RunningHash, TAIL_HEADER_LEN, TailHeader, TailKind, Watermark, read_tail,
    room_for,
};
use crate::store::{Class, Key, Range, Store, list_after};

/// One object of a chain.
#[derive(Debug, Clone)]
pub struct Link {
    pub key: Key,
    pub bytes: u64,
    pub header: TailHeader,
    /// The object, where it was read whole.
    held: Option<Bytes>,
}

/// An object up to this size costs as much to read as its header does: a request.
const WHOLE_MAX: u64 = 64 << 10;
/// So many bytes of a chain are held at most.
const HELD_MAX: u64 = 16 << 20;
const REQUESTS_AT_ONCE: usize = 8;
/// So many of a sealed segment's newest tails are looked through for a watermark.
const LOOKED_THROUGH: usize = 32;

/// The chain of one segment.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// In order; each begins where the one before it ends.
    pub links: Vec<Link>,
}

impl Link {
    /// An object of which only the header was read.
    pub const fn new(key: Key, bytes: u64, header: TailHeader) -> Self {
        Self { key, bytes, header, held: None }
    }
}

impl Chain {
    /// The sequence number that the next tail takes.
    pub fn next_seq(&self) -> u64 {
        self.links.last().map_or(0, |link| link.header.last + 1)
    }

    /// Raw bytes of the segment that the chain holds.
    pub fn raw_len(&self) -> u64 {
        self.links.last().map_or(0, |link| link.header.raw_end())
    }

    /// The hash of those bytes.
    pub fn hash(&self) -> Hash {
        self.links.last().map_or_else(|| Hash::of(b""), |link| link.header.after)
    }

    /// The highest writer epoch in the chain.
    pub fn writer(&self) -> u64 {
        self.links.iter().map(|link| link.header.head.writer).max().unwrap_or(0)
    }

    /// The latest proof of completeness in the chain.
    pub fn watermark(&self) -> Option<Watermark> {
        self.links.iter().filter_map(|link| link.header.watermark).max_by_key(|mark| mark.clock)
    }

    /// How many leading tails that are not yet merged stand one level below `level`:
    /// a full run of [`MERGE_COUNT`] can be merged.
    pub fn mergeable(&self) -> Option<(u32, u64)> {
        for level in 1..=2_u32 {
            let below = MERGE_COUNT.pow(level - 1);
            let size = MERGE_COUNT.pow(level);
            let of_level =
                self.links.iter().filter(|l| l.header.last - l.header.first + 1 == below);
            let firsts: Vec<u64> = of_level.map(|link| link.header.first).collect();
            for (at, first) in firsts.iter().enumerate() {
                let run = firsts[at..].iter().take(MERGE_COUNT as usize);
                let whole = run.clone().count() as u64 == MERGE_COUNT
                    && run.enumerate().all(|(n, f)| *f == first + n as u64 * below);
                if first % size == 0 && whole {
                    return Some((level, *first));
                }
            }
        }
        None
    }
}

/// Follows the chain of `segment`, reading one header an object.
///
/// # Errors
/// [`ArchiveError::Chain`] at the first object that does not continue the one before it.
pub async fn follow(
    store: &dyn Store,
    lineage: Lineage,
    segment: &str,
) -> Result<Chain, ArchiveError> {
    let found = listed(store, lineage, segment).await?;
    linked(segment, read_headers(store, found, 0).await?)
}

/// The same for who reads the bytes next ([`read_raw`]): small objects are read whole at once, so
/// that each costs one request and not two.
///
/// # Errors
/// As [`follow`].
pub async fn follow_whole(
    store: &dyn Store,
    lineage: Lineage,
    segment: &str,
) -> Result<Chain, ArchiveError> {
    let found = listed(store, lineage, segment).await?;
    linked(segment, read_headers(store, found, HELD_MAX).await?)
}

/// A chain as far as it is good.
#[derive(Debug)]
pub struct Prefix {
    pub chain: Chain,
    /// What ends it there, if it was damage that did.
    pub broken: Option<ArchiveError>,
}

/// The good beginning of a chain, for who reads: damage costs what lies behind it. What is read
/// whole here is proved by its hash.
///
/// # Errors
/// When the store fails.
pub async fn follow_good(
    store: &dyn Store,
    lineage: Lineage,
    segment: &str,
) -> Result<Prefix, ArchiveError> {
    let found = listed(store, lineage, segment).await?;
    let mut chain = Chain::default();
    let mut proof = Some(RunningHash::default());
    for link in read_links(store, found, HELD_MAX).await {
        let next = link.and_then(|link| {
            check_continues(segment, &chain, &link)?;
            check_held(segment, &mut proof, &link)?;
            Ok(link)
        });
        match next {
            Ok(link) => chain.links.push(link),
            Err(error) if matches!(error.class(), Class::Damaged | Class::Absent) => {
                return Ok(Prefix { chain, broken: Some(error) });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Prefix { chain, broken: None })
}

/// Proves the bytes of a link, as long as all before it were read whole too.
fn check_held(
    segment: &str,
    proof: &mut Option<RunningHash>,
    link: &Link,
) -> Result<(), ArchiveError> {
    if link.header.raw_len == 0 {
        return Ok(());
    }
    let (Some(hash), Some(held)) = (proof.as_mut(), &link.held) else {
        *proof = None;
        return Ok(());
    };
    check_bytes(segment, hash, link, held).map(drop)
}

/// The raw bytes of a link, which continue those that were hashed.
fn check_bytes(
    segment: &str,
    hash: &mut RunningHash,
    link: &Link,
    object: &[u8],
) -> Result<Vec<u8>, ArchiveError> {
    let key = link.key.clone();
    let (header, piece) =
        read_tail(object).map_err(|source| ArchiveError::Segment { key, source })?;
    hash.update(&piece);
    if header != link.header || hash.now() != header.after {
        let (segment, key) = (segment.to_owned(), link.key.clone());
        let detail = "its bytes are not what its hash says".to_owned();
        return Err(ArchiveError::Chain { segment, key, detail });
    }
    Ok(piece)
}

/// The latest proof of completeness in the chain of a segment that is sealed. The seal proves the
/// bytes, so that the newest headers tell, and nothing needs to be followed.
///
/// # Errors
/// When the store fails or a header is damaged.
pub async fn last_watermark(
    store: &dyn Store,
    lineage: Lineage,
    segment: &str,
) -> Result<Option<Watermark>, ArchiveError> {
    let found = listed(store, lineage, segment).await?;
    let newest = &found[found.len().saturating_sub(LOOKED_THROUGH)..];
    for some in newest.rchunks(REQUESTS_AT_ONCE) {
        let links = read_headers(store, some.to_vec(), 0).await?;
        let mark = links.iter().rev().find_map(|link| link.header.watermark);
        if mark.is_some() {
            return Ok(mark);
        }
    }
    Ok(None)
}

fn linked(segment: &str, links: Vec<Link>) -> Result<Chain, ArchiveError> {
    let mut chain = Chain::default();
    for link in links {
        check_continues(segment, &chain, &link)?;
        chain.links.push(link);
    }
    Ok(chain)
}

/// The fewest objects that make up the chain, in its order, by their names: merged ones first.
async fn listed(
    store: &dyn Store,
    lineage: Lineage,
    segment: &str,
) -> Result<Vec<(Key, u64)>, ArchiveError> {
    let mut found: Vec<(Key, u64)> = Vec::new();
    let mut next = 0_u64;
    for level in [2_u32, 1] {
        let folder = lineage.merged_chain(segment, level);
        let after = (next > 0).then(|| format!("{folder}{:08}.zst", next - 1));
        for object in list_after(store, &folder, after.as_deref()).await? {
            if sequence_of(object.key.name()) == Some(next) {
                found.push((object.key, object.bytes));
                next += MERGE_COUNT.pow(level);
            }
        }
    }
    let folder = lineage.chain(segment);
    let after = (next > 0).then(|| format!("{folder}{:08}.zst", next - 1));
    let singles = list_after(store, &folder, after.as_deref()).await?;
    let singles = singles.into_iter().filter(|o| !o.key.as_str()[folder.len()..].contains('/'));
    for object in singles {
        fill(store, lineage, segment, &mut found, &mut next, sequence_of(object.key.name()))
            .await?;
        found.push((object.key, object.bytes));
        next += 1;
    }
    Ok(found)
}

/// Asks by name for tails that a listing lacks before `listed`. One that is taken while tails are put
/// may show a newer one and not an older one: readdir(3) of a large folder gives entries by the hash of
/// their names, and a listing of several pages is no snapshot.
async fn fill(
    store: &dyn Store,
    lineage: Lineage,
    segment: &str,
    found: &mut Vec<(Key, u64)>,
    next: &mut u64,
    listed: Option<u64>,
) -> Result<(), ArchiveError> {
    while listed.is_some_and(|listed| *next < listed) {
        let key = lineage.tail(segment, *next);
        // A hole in the chain itself: who follows it finds it.
        let Some(bytes) = store.head(&key).await? else { break };
        found.push((key, bytes));
        *next += 1;
    }
    if let Some(listed) = listed {
        *next = listed;
    }
    Ok(())
}

/// One request an object: its header, or all of it where it is small, up to `room` bytes in all.
async fn read_headers(
    store: &dyn Store,
    found: Vec<(Key, u64)>,
    room: u64,
) -> Result<Vec<Link>, ArchiveError> {
    read_links(store, found, room).await.into_iter().collect()
}

async fn read_links(
    store: &dyn Store,
    found: Vec<(Key, u64)>,
    mut room: u64,
) -> Vec<Result<Link, ArchiveError>> {
    use futures_util::{StreamExt, stream};
    let sized = found.into_iter().map(|(key, bytes)| {
        let whole = bytes <= WHOLE_MAX.min(room);
        room -= if whole { bytes } else { 0 };
        (key, bytes, whole)
    });
    stream::iter(sized.collect::<Vec<_>>())
        .map(|(key, bytes, whole)| async move {
            let header = Range::At { offset: 0, len: TAIL_HEADER_LEN };
            let read = store.get(&key, if whole { Range::All } else { header }).await?;
            match TailHeader::decode(&read) {
                Ok(header) => Ok(Link { key, bytes, header, held: whole.then_some(read) }),
                Err(source) => Err(ArchiveError::Segment { key, source }),
            }
        })
        .buffered(REQUESTS_AT_ONCE)
        .collect()
        .await
}

fn check_continues(segment: &str, chain: &Chain, link: &Link) -> Result<(), ArchiveError> {
    let broken = |detail: String| {
        let (segment, key) = (segment.to_owned(), link.key.clone());
        Err(ArchiveError::Chain { segment, key, detail })
    };
    let header = &link.header;
    if header.first != chain.next_seq() {
        return broken(format!("number {} follows {}", header.first, chain.next_seq()));
    }
    if header.raw_start != chain.raw_len() {
        return broken(format!("byte {} follows {}", header.raw_start, chain.raw_len()));
    }
    if header.before != chain.hash() {
        return broken(format!("it continues {}, not {}", header.before, chain.hash()));
    }
    if let Some(last) = chain.links.last()
        && header.head.writer < last.header.head.writer
        && header.kind != TailKind::Merged
    {
        return broken(format!("writer {} after {}", header.head.writer, last.header.head.writer));
    }
    Ok(())
}

/// The raw bytes that a chain holds, every hash checked.
///
/// # Errors
/// [`ArchiveError::Segment`] or [`ArchiveError::Chain`] naming the object that is damaged.
pub async fn read_raw(
    store: &dyn Store,
    segment: &str,
    chain: &Chain,
) -> Result<(Vec<u8>, RunningHash), ArchiveError> {
    use futures_util::{StreamExt, stream};
    let (mut raw, mut hash) = (room_for(chain.raw_len()), RunningHash::default());
    let holding = chain.links.iter().filter(|link| link.header.raw_len > 0);
    // Futures, not a closure that makes them: a closure over a borrow keeps a spawned task from
    // being `Send` (rust-lang/rust#100013). Nothing is asked before it is polled.
    let reads: Vec<_> = holding
        .map(|link| async move {
            match &link.held {
                Some(held) => (link, Ok(held.clone())),
                None => (link, store.get(&link.key, Range::All).await),
            }
        })
        .collect();
    let mut objects = stream::iter(reads).buffered(REQUESTS_AT_ONCE);
    while let Some((link, object)) = objects.next().await {
        raw.extend(check_bytes(segment, &mut hash, link, &object?)?);
    }
    Ok((raw, hash))
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
