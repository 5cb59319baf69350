//! Putting an object, and telling our own lost answer from somebody else's bytes.
//!
//! Enters: a key and a body. Leaves: the object is in the store and holds our bytes, or an error
//! that says whose it holds. A store that is away is asked for ever, with backoff.

use proto::segment::{FOOTER_READ, Footer, Hash};
use proto::store::retry::Backoff;
use proto::store::{Body, Class, Key, Put, Range, Store, StoreError};

use super::ShipError;
use super::health::Health;
use super::lanes::Lanes;
use super::tails::ShipTools;
use crate::spool::spooler::blocking;
use crate::spool::{SealedFile, SpoolError, recover};

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

/// Puts a sealed segment. One that is there already is ours when it has the same raw hash and
/// length: compressed otherwise, it is the same segment.
pub(super) async fn put_sealed(
    tools: &ShipTools,
    lanes: &Lanes,
    key: &Key,
    sealed: &SealedFile,
) -> Result<(), ShipError> {
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
        return Ok(());
    }
    let suffix = get(&*tools.store, health, key, Range::Last(FOOTER_READ)).await?;
    let found = Footer::decode_suffix(&suffix)
        .map_err(|e| ShipError::Foreign { key: key.clone(), detail: e.to_string() })?;
    if found.hash == footer.hash && found.raw_len == footer.raw_len {
        health.ambiguous();
        return Ok(());
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
