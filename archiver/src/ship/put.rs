//! Putting an object, and telling our own lost answer from somebody else's bytes.
//!
//! Enters: a key and a body. Leaves: the object is in the store and holds our bytes, or an error
//! that says whose it holds. A store that is away is asked for ever, with backoff.

use proto::segment::{FOOTER_READ, Footer, Hash, read_sealed};
use proto::store::retry::Backoff;
use proto::store::{Body, Class, Key, Put, Range, Store, StoreError};

use super::ShipError;
use super::health::Health;
use super::lanes::Lanes;
use super::tails::ShipTools;
use crate::spool::spooler::blocking;
use crate::spool::{FrameRange, SealedFile, SpoolError, read, recover};

/// Asks until the store has answered: the spool holds everything meanwhile.
async fn asking<T, F: Future<Output = Result<T, StoreError>>>(
    health: &Health,
    mut ask: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let mut backoff = Backoff::new();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => wait_out(health, &mut backoff, error).await?,
        }
    }
}

/// Waits until it is time to ask again, if that may help.
async fn wait_out(
    health: &Health,
    backoff: &mut Backoff,
    error: StoreError,
) -> Result<(), StoreError> {
    match error.class() {
        Class::Absent | Class::Damaged => Err(error),
        Class::Retry | Class::Config => {
            let wait = backoff.next_wait();
            health.failed(&error, wait);
            tokio::time::sleep(wait).await;
            Ok(())
        }
    }
}

/// Puts until the store has answered.
pub(super) async fn put(
    store: &dyn Store,
    health: &Health,
    key: &Key,
    body: &Body,
) -> Result<Put, StoreError> {
    let started = tokio::time::Instant::now();
    let put = asking(health, || store.put(key, body)).await?;
    health.put(started.elapsed(), body.len());
    Ok(put)
}

/// Reads until the store has answered.
pub(super) async fn get(
    store: &dyn Store,
    health: &Health,
    key: &Key,
    range: Range,
) -> Result<bytes::Bytes, StoreError> {
    asking(health, || store.get(key, range)).await
}

/// Puts a sealed segment and returns how many of its raw bytes the store holds. One that is there
/// already is ours when it has the same raw hash and length: compressed otherwise, it is the same
/// segment. Of a timeline's last, unfilled one another sidecar may have had less, or more: what one
/// of both begins with is the other.
pub(super) async fn put_sealed(
    tools: &ShipTools,
    lanes: &Lanes,
    key: &Key,
    sealed: &SealedFile,
) -> Result<u64, ShipError> {
    let (health, footer) = (&*tools.health, &sealed.footer);
    let body = Body::File { path: sealed.path.clone(), len: sealed.file_len };
    let (started, mut backoff) = (tokio::time::Instant::now(), Backoff::new());
    let put = loop {
        let attempt = async {
            // Each time, and with a lane: it may have waited for hours.
            check_whole(tools, sealed).await?;
            Ok(tools.store.put(key, &body).await?)
        };
        match lanes.through(attempt).await {
            Ok(put) => break put,
            Err(ShipError::Store(error)) => wait_out(health, &mut backoff, error).await?,
            Err(error) => return Err(error),
        }
    };
    health.put(started.elapsed(), body.len());
    if put == Put::Created {
        return Ok(footer.raw_len);
    }
    held_of(tools, key, sealed).await
}

/// How many of our raw bytes an object that is there already holds.
///
/// # Errors
/// [`ShipError::Conflict`] when it is another segment.
async fn held_of(tools: &ShipTools, key: &Key, sealed: &SealedFile) -> Result<u64, ShipError> {
    let (health, footer) = (&*tools.health, &sealed.footer);
    let foreign = |detail: String| ShipError::Foreign { key: key.clone(), detail };
    let suffix = get(&*tools.store, health, key, Range::Last(FOOTER_READ)).await?;
    let found = Footer::decode_suffix(&suffix).map_err(|e| foreign(e.to_string()))?;
    let shared = found.raw_len.min(footer.raw_len);
    let same = if found.raw_len == footer.raw_len {
        found.hash == footer.hash
    } else if !footer.partial || !found.partial {
        false
    } else if found.raw_len < footer.raw_len {
        let (disk, path, len) = (tools.disk.clone(), sealed.path.clone(), footer.frames_len());
        let range = FrameRange { path, offset: 0, len };
        blocking(move || read::hash_prefix(&*disk, &range, shared)).await? == found.hash
    } else {
        let object = get(&*tools.store, health, key, Range::All).await?;
        let (_, raw) = read_sealed(&object).map_err(|e| foreign(e.to_string()))?;
        let begins = usize::try_from(shared).ok().and_then(|shared| raw.get(..shared));
        begins.is_some_and(|begins| Hash::of(begins) == footer.hash)
    };
    if same {
        health.ambiguous();
        return Ok(shared);
    }
    Err(ShipError::Conflict { key: key.clone(), ours: footer.hash, found: found.hash })
}

/// A disk may turn a bit over while the store is away: such a file never goes up. The pipeline is
/// built anew, which removes it, and the source sends its bytes again.
async fn check_whole(tools: &ShipTools, sealed: &SealedFile) -> Result<(), ShipError> {
    let (disk, path, footer) = (tools.disk.clone(), sealed.path.clone(), sealed.footer.clone());
    let check = blocking(move || match recover::is_whole(&*disk, &path, &footer)? {
        true => Ok(()),
        false => Err(SpoolError::Damaged { path }),
    });
    Ok(check.await?)
}

/// Puts a small object that must be exactly these bytes.
pub(super) async fn put_exact(
    store: &dyn Store,
    health: &Health,
    key: &Key,
    bytes: &bytes::Bytes,
) -> Result<(), ShipError> {
    if put(store, health, key, &Body::Bytes(bytes.clone())).await? == Put::Created {
        return Ok(());
    }
    let found = get(store, health, key, Range::All).await?;
    if found == *bytes {
        return Ok(());
    }
    let (ours, found) = (Hash::of(bytes), Hash::of(&found));
    Err(ShipError::Conflict { key: key.clone(), ours, found })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use proto::archive::layout::Lineage;
    use proto::disk::SystemDisk;
    use proto::position::{Epoch, Offset, Position};
    use proto::postgres::lsn::SegmentSize;
    use proto::segment::{Codec, Engine, Frame, SegmentHead};

    use super::*;
    use crate::spool::{OpenFile, WalSegments};
    use crate::testing::{archive, tools};

    /// A timeline's last segment, with these bytes in it.
    fn partial(folder: &Path, raw: &[u8]) -> SealedFile {
        let slot = WalSegments(SegmentSize::DEFAULT).slot(Position::new(Epoch(1), Offset(0)));
        let head = SegmentHead {
            engine: Engine::Postgresql,
            lineage: 1,
            epoch: Epoch(1),
            number: slot.number,
            writer: 1,
            start: slot.start,
            previous: Hash::NONE,
        };
        let mut open = OpenFile::create(Arc::new(SystemDisk), folder, slot, head).expect("a file");
        open.append(&Frame::of(Codec::Lz4, raw).expect("compresses"), raw).expect("appended");
        open.seal(true, Codec::Lz4).expect("sealed")
    }

    #[tokio::test]
    async fn a_timelines_last_segment_of_which_another_sidecar_had_less_or_more_is_no_conflict() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = async |archived: &[u8], ours: &[u8]| {
            let root = tempfile::tempdir_in(folder.path()).expect("a folder");
            let tools = tools(archive(root.path()).await, 1);
            let mut put = Ok(0);
            for raw in [archived, ours] {
                let sealed = partial(root.path(), raw);
                let key = Lineage(1).partial(&sealed.slot.name);
                put = put_sealed(&tools, &Lanes::new(), &key, &sealed).await;
            }
            put
        };
        assert_eq!(put(b"abcd", b"abcd").await.expect("the same"), 4);
        assert_eq!(put(b"ab", b"abcd").await.expect("less there"), 2);
        assert_eq!(put(b"abcd", b"ab").await.expect("more there"), 2);
        for (archived, ours) in [(b"ax".as_slice(), b"abcd".as_slice()), (b"abcd", b"ax")] {
            let refused = put(archived, ours).await;
            assert!(matches!(refused, Err(ShipError::Conflict { .. })), "{refused:?}");
        }
    }
}
