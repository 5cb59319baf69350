//! Tails whose segment has long been sealed are removed, by whoever may delete below `tail/`.
//!
//! Enters: a lineage and the database's clock. Leaves: the same log with fewer objects. A segment's
//! tails go only after the sealed object was read whole, its hash proved, and found to begin with
//! exactly what they hold, a day after the last of them by the database's own clock. Where
//! deleting is denied nothing happens. After a crash at any line some of them are left for later.

use std::sync::Arc;
use std::time::Duration;

use proto::archive::ArchiveError;
use proto::archive::chain::{self, Chain};
use proto::archive::layout::{Lineage, SegmentName};
use proto::segment::{Hash, read_sealed};
use proto::store::{Class, Key, Range, Store, list_all};
use proto::timestamp::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::spool::Segmenter;
use crate::watch::state::State;

/// How long a segment must have been sealed, by the database's clock.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often this is looked after.
const EVERY: Duration = Duration::from_secs(3600);

/// Sweeps now and then until stopped.
pub async fn tend(
    store: Arc<dyn Store>,
    lineage: Lineage,
    segmenter: Arc<dyn Segmenter>,
    state: Arc<State>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let Some(now) = state.lag.database_now() else { continue };
        match sweep(&*store, lineage, &*segmenter, now).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "tails of sealed segments removed"),
            Err(error) => tracing::warn!(%error, "tails of sealed segments are left for later"),
        }
    }
}

/// Removes what is due and returns how many objects that were.
///
/// # Errors
/// When the store fails; a denied delete is no error.
pub async fn sweep(
    store: &dyn Store,
    lineage: Lineage,
    segmenter: &dyn Segmenter,
    now: Timestamp,
) -> Result<u64, ArchiveError> {
    let mut removed = 0;
    let folders = store.folders(&lineage.tails()).await?;
    for name in folders.iter().filter_map(|name| segmenter.parse(name)) {
        let chain = match chain::follow(store, lineage, &name.name).await {
            Ok(chain) => chain,
            // It stays for whoever looks into it, and keeps no other segment's tails.
            Err(error) if error.class() == Class::Damaged => {
                tracing::warn!(%error, "the tails of one segment are left as they are");
                continue;
            }
            Err(error) => return Err(error),
        };
        if !is_old(&chain, now) || !is_proved(store, lineage, &name, &chain).await? {
            continue;
        }
        for object in list_all(store, &lineage.chain(&name.name)).await? {
            match store.delete(&object.key).await {
                Ok(()) => removed += 1,
                // Whoever prunes may do it.
                Err(error) if error.class() == Class::Config => return Ok(removed),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(removed)
}

fn is_old(chain: &Chain, now: Timestamp) -> bool {
    let last = chain.links.iter().filter_map(|link| link.header.watermark).map(|mark| mark.clock);
    last.max().is_some_and(|clock| now.seconds_since(clock) > KEPT.as_secs_f64())
}

/// Whether the sealed object is whole and begins with what the chain holds.
async fn is_proved(
    store: &dyn Store,
    lineage: Lineage,
    name: &SegmentName,
    chain: &Chain,
) -> Result<bool, ArchiveError> {
    let mut object = fetch(store, &lineage.sealed(name)).await?;
    if object.is_none() {
        object = fetch(store, &lineage.partial(name)).await?;
    }
    let Some(object) = object else { return Ok(false) };
    let proved = tokio::task::spawn_blocking({
        let (len, hash) = (chain.raw_len(), chain.hash());
        move || {
            let Ok((_, raw)) = read_sealed(&object) else { return false };
            let held = usize::try_from(len).ok().and_then(|len| raw.get(..len));
            held.is_some_and(|held| Hash::of(held) == hash)
        }
    });
    Ok(proved.await.unwrap_or(false))
}

async fn fetch(store: &dyn Store, key: &Key) -> Result<Option<bytes::Bytes>, ArchiveError> {
    match store.get(key, Range::All).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use proto::position::{Epoch, Offset};
    use proto::segment::{
        Codec, Engine, Frame, OpenSegment, SegmentHead, TailHeader, TailKind, Watermark,
    };
    use proto::store::Body;

    use super::*;
    use crate::spool::WalSegments;
    use crate::testing::archive;
    use proto::postgres::lsn::{SegmentId, SegmentSize};

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    const DAY: i64 = 24 * 3600 * 1_000_000;

    fn head() -> SegmentHead {
        SegmentHead {
            engine: Engine::Postgresql,
            lineage: 1,
            epoch: Epoch(1),
            number: 1,
            writer: 1,
            start: Offset(SIZE.bytes()),
            previous: Hash::NONE,
        }
    }

    /// A tail that holds `raw`, told by a database whose clock stood at 0.
    fn tail(raw: &[u8]) -> Vec<u8> {
        let mark = Watermark { clock: Timestamp(0), offset: Offset(SIZE.bytes()), margin_ms: 2000 };
        let header = TailHeader {
            head: head(),
            kind: TailKind::Data,
            first: 0,
            last: 0,
            raw_start: 0,
            raw_len: raw.len() as u64,
            before: Hash::of(b""),
            after: Hash::of(raw),
            watermark: Some(mark),
        };
        let mut object = header.encode();
        object.extend(Frame::of(Codec::Lz4, raw).expect("compresses").bytes);
        object
    }

    fn sealed(raw: &[u8]) -> Vec<u8> {
        let mut segment = OpenSegment::new(head());
        let frame = Frame::of(Codec::Lz4, raw).expect("compresses");
        segment.push(frame.entry, raw);
        let mut object = frame.bytes;
        object.extend(segment.seal(false).1);
        object
    }

    async fn store_with(objects: &[(Key, Vec<u8>)]) -> (tempfile::TempDir, Arc<dyn Store>) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = archive(folder.path()).await;
        for (key, object) in objects {
            store.put(key, &Body::from(object.clone())).await.expect("put");
        }
        (folder, store)
    }

    fn keys() -> (Key, Key) {
        keys_of(1)
    }

    fn keys_of(number: u64) -> (Key, Key) {
        let id = SegmentId { timeline: Epoch(1).into(), number };
        let name = SegmentName::postgres(id, SIZE);
        (Lineage(1).tail(&name.name, 0), Lineage(1).sealed(&name))
    }

    #[tokio::test]
    async fn tails_go_a_day_after_their_segment_was_proved_and_not_before() {
        let (tail_key, sealed_key) = keys();
        let objects = [(tail_key.clone(), tail(b"abc")), (sealed_key, sealed(b"abcdef"))];
        let (_folder, store) = store_with(&objects).await;
        let sweep = |now| sweep(&*store, Lineage(1), &WalSegments(SIZE), Timestamp(now));
        assert_eq!(sweep(DAY).await.expect("swept"), 0, "a day is not yet over");
        assert_eq!(sweep(DAY + 1_000_000).await.expect("swept"), 1);
        assert_eq!(store.head(&tail_key).await.expect("asked"), None);
    }

    #[tokio::test]
    async fn a_broken_chain_keeps_only_its_own_tails() {
        let ((broken_key, _), (tail_key, sealed_key)) = (keys_of(0), keys_of(1));
        let objects = [
            (broken_key.clone(), b"nothing of ours".to_vec()),
            (tail_key.clone(), tail(b"abc")),
            (sealed_key, sealed(b"abcdef")),
        ];
        let (_folder, store) = store_with(&objects).await;
        let swept = sweep(&*store, Lineage(1), &WalSegments(SIZE), Timestamp(DAY * 9)).await;
        assert_eq!(swept.expect("swept"), 1);
        assert_eq!(store.head(&tail_key).await.expect("asked"), None);
        assert!(store.head(&broken_key).await.expect("asked").is_some());
    }

    #[tokio::test]
    async fn the_only_copy_of_a_byte_is_never_removed() {
        let (tail_key, sealed_key) = keys();
        for sealed in [None, Some(sealed(b"abX")), Some(sealed(b"ab")), Some(tail(b"abc"))] {
            let mut objects = vec![(tail_key.clone(), tail(b"abc"))];
            objects.extend(sealed.map(|object| (sealed_key.clone(), object)));
            let (_folder, store) = store_with(&objects).await;
            let swept = sweep(&*store, Lineage(1), &WalSegments(SIZE), Timestamp(DAY * 9)).await;
            assert_eq!(swept.expect("swept"), 0);
        }
    }
}
