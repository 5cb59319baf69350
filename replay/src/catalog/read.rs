//! From a segment's name to its raw bytes, whether sealed, partial or a chain of tails.
//!
//! Enters: which segment. Leaves: its bytes, every hash checked; a few are kept, bounded by bytes.
//! A tail that vanished means that its segment was sealed or its tails merged: the sealed object
//! is read instead, and what was promised of it is checked by hash.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;

use super::log::Stored;
use super::{Catalog, CatalogError};
use crate::plan::{PlannedSegment, Source};
use proto::archive::ArchiveError;
use proto::archive::chain::{self, Prefix};
use proto::archive::layout::{Lineage, SegmentName};
use proto::postgres::lsn::{SegmentId, SegmentSize};
use proto::segment::{Footer, Hash, read_sealed};
use proto::store::{Key, Range, Store};

/// Raw segments are kept up to so many bytes; one always is.
const CACHE_BYTES: usize = 96 << 20;

/// The segments read last.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<VecDeque<(SegmentId, Bytes)>>);

impl Cache {
    fn get(&self, id: SegmentId) -> Option<Bytes> {
        let mut kept = self.0.lock().expect("nothing panics while it is held");
        let at = kept.iter().position(|(known, _)| *known == id)?;
        let entry = kept.remove(at)?;
        let raw = entry.1.clone();
        kept.push_front(entry);
        Some(raw)
    }

    fn put(&self, id: SegmentId, raw: Bytes) {
        let mut kept = self.0.lock().expect("nothing panics while it is held");
        kept.retain(|(known, _)| *known != id);
        kept.push_front((id, raw));
        while kept.len() > 1 && kept.iter().map(|(_, raw)| raw.len()).sum::<usize>() > CACHE_BYTES {
            kept.pop_back();
        }
    }
}

impl Catalog {
    /// A segment's raw bytes as the catalog saw it: exactly as many as it held then.
    ///
    /// # Errors
    /// When it is not in the archive, or damaged.
    pub async fn raw(&self, id: SegmentId) -> Result<Bytes, CatalogError> {
        if let Some(raw) = self.cache.get(id) {
            return Ok(raw);
        }
        let size = self.segment_size();
        let stored = self.logs.get(&id.timeline).and_then(|log| log.segments.get(&id.number));
        let stored = stored.ok_or_else(|| CatalogError::NoSegment { name: id.name(size) })?;
        let known = match stored {
            // Its links are known; only when one has vanished is the chain followed again.
            Stored::Tails(chain) => chain::read_raw(&*self.store, &id.name(size), chain).await.ok(),
            _ => None,
        };
        let raw = match known {
            Some((raw, _)) => raw.into(),
            None => read_source(&*self.store, self.lineage, id, size, &source_of(stored)).await?,
        };
        self.cache.put(id, raw.clone());
        Ok(raw)
    }

    /// The same, with zeros up to the segment's full size: a file that recovery accepts.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub async fn raw_padded(&self, id: SegmentId) -> Result<Bytes, CatalogError> {
        Ok(padded(self.raw(id).await?, self.segment_size()))
    }
}

/// How a plan names what the catalog found.
pub(crate) fn source_of(stored: &Stored) -> Source {
    match stored {
        Stored::Sealed { .. } => Source::Sealed,
        Stored::Partial { .. } => Source::Partial,
        Stored::Tails(chain) => Source::Tails {
            raw_bytes: chain.raw_len(),
            hash: chain.hash(),
            last_seq: chain.next_seq().saturating_sub(1),
            objects: chain.links.len() as u64,
        },
    }
}

/// Zeros behind `raw`, up to the size of a segment.
pub fn padded(raw: Bytes, size: SegmentSize) -> Bytes {
    let full = usize::try_from(size.bytes()).expect("a segment fits into memory");
    if raw.len() >= full {
        return raw;
    }
    let mut whole = raw.to_vec();
    whole.resize(full, 0);
    whole.into()
}

/// A planned segment's raw bytes, as many as were planned and not one more, checked by hash.
///
/// # Errors
/// When the store fails, or holds something else than was planned.
pub async fn read_planned(
    store: &dyn Store,
    lineage: Lineage,
    segment: &PlannedSegment,
    size: SegmentSize,
) -> Result<Bytes, CatalogError> {
    let bad = |_| CatalogError::NoSegment { name: segment.name.clone() };
    let id = SegmentId::parse(&segment.name, size).map_err(bad)?;
    read_source(store, lineage, id, size, &segment.source).await
}

async fn read_source(
    store: &dyn Store,
    lineage: Lineage,
    id: SegmentId,
    size: SegmentSize,
    source: &Source,
) -> Result<Bytes, CatalogError> {
    let name = SegmentName::postgres(id, size);
    match *source {
        Source::Sealed => read_object(store, lineage.sealed(&name), lineage, id, size).await,
        Source::Partial => read_object(store, lineage.partial(&name), lineage, id, size).await,
        Source::Tails { raw_bytes, hash, .. } => {
            let wanted = usize::try_from(raw_bytes).unwrap_or(usize::MAX);
            let raw = read_open(store, lineage, id, size, wanted).await?;
            let name = name.name;
            if raw.len() < wanted {
                let found = raw.len() as u64;
                return Err(CatalogError::Shrunk { name, expected: raw_bytes, found });
            }
            let raw = raw.slice(..wanted);
            let found = Hash::of(&raw);
            if found != hash {
                let expected = hash;
                return Err(CatalogError::Changed { name, bytes: raw_bytes, expected, found });
            }
            Ok(raw)
        }
    }
}

/// A segment that was open: its tails, as far as they are good and if that is as much as is wanted,
/// or what it was sealed as since then.
async fn read_open(
    store: &dyn Store,
    lineage: Lineage,
    id: SegmentId,
    size: SegmentSize,
    wanted: usize,
) -> Result<Bytes, CatalogError> {
    let name = SegmentName::postgres(id, size);
    let tails = read_tails(store, lineage, &name.name).await;
    let error = match tails {
        Ok((raw, _)) if !raw.is_empty() && raw.len() >= wanted => return Ok(raw),
        Ok((_, Some(broken))) => broken.into(),
        Ok((raw, None)) if !raw.is_empty() => {
            let (name, expected) = (name.name.clone(), wanted as u64);
            CatalogError::Shrunk { name, expected, found: raw.len() as u64 }
        }
        Ok(_) => CatalogError::NoSegment { name: name.name.clone() },
        Err(error) => error.into(),
    };
    for key in [lineage.sealed(&name), lineage.partial(&name)] {
        if store.head(&key).await?.is_some() {
            return read_object(store, key, lineage, id, size).await;
        }
    }
    // Perhaps its tails were merged while they were read.
    match read_tails(store, lineage, &name.name).await {
        Ok((raw, _)) if !raw.is_empty() && raw.len() >= wanted => Ok(raw),
        _ => Err(error),
    }
}

/// The bytes of the good beginning of a chain, and what breaks it.
async fn read_tails(
    store: &dyn Store,
    lineage: Lineage,
    segment: &str,
) -> Result<(Bytes, Option<ArchiveError>), ArchiveError> {
    let Prefix { chain, broken } = chain::follow_good(store, lineage, segment).await?;
    Ok((chain::read_raw(store, segment, &chain).await?.0.into(), broken))
}

async fn read_object(
    store: &dyn Store,
    key: Key,
    lineage: Lineage,
    id: SegmentId,
    size: SegmentSize,
) -> Result<Bytes, CatalogError> {
    let (footer, raw) = unpacked(store, &key).await?;
    check_place(&key, &footer, lineage, id, size)?;
    Ok(raw.into())
}

/// A sealed segment's footer and raw bytes, every hash checked.
pub(super) async fn unpacked(
    store: &dyn Store,
    key: &Key,
) -> Result<(Footer, Vec<u8>), CatalogError> {
    let object = store.get(key, Range::All).await?;
    // Unpacking and hashing a segment takes tens of milliseconds.
    tokio::task::spawn_blocking(move || read_sealed(&object))
        .await
        .map_err(|error| CatalogError::Stopped { detail: error.to_string() })?
        .map_err(|source| CatalogError::Segment { key: key.clone(), source })
}

/// A footer must be of the segment that its key names: objects can be copied by mistake.
pub(crate) fn check_place(
    key: &Key,
    footer: &Footer,
    lineage: Lineage,
    id: SegmentId,
    size: SegmentSize,
) -> Result<(), CatalogError> {
    let head = &footer.head;
    let length = if footer.partial { footer.raw_len.min(size.bytes()) } else { size.bytes() };
    for (field, expected, found) in [
        ("lineage", u64::from(lineage.0), u64::from(head.lineage)),
        ("timeline", u64::from(id.timeline.0), u64::from(head.epoch.0)),
        ("segment", id.number, head.number),
        ("start", id.start(size).0, head.start.0),
        ("length", length, footer.raw_len),
    ] {
        if expected != found {
            return Err(CatalogError::Misplaced { key: key.clone(), field, expected, found });
        }
    }
    Ok(())
}
