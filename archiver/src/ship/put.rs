//! Putting an object, and telling our own lost answer from somebody else's bytes.
//!
//! Enters: a key and a body. Leaves: the object is in the store and holds our bytes, or an error
//! that says whose it holds. A store that is away is asked for ever, with backoff.

use proto::segment::{FOOTER_READ, Footer, Hash};
use proto::store::retry::Backoff;
use proto::store::{Body, Class, Key, Put, Range, Store, StoreError};

use super::ShipError;
use super::health::Health;

/// Asks until the store has answered: the spool holds everything meanwhile.
async fn asking<T, F: Future<Output = Result<T, StoreError>>>(
    health: &Health,
    mut ask: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let mut backoff = Backoff::new();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => match error.class() {
                Class::Absent | Class::Damaged => return Err(error),
                Class::Retry | Class::Config => {
                    let wait = backoff.next_wait();
                    health.failed(&error, wait);
                    tokio::time::sleep(wait).await;
                }
            },
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
    store: &dyn Store,
    health: &Health,
    key: &Key,
    body: &Body,
    footer: &Footer,
) -> Result<(), ShipError> {
    if put(store, health, key, body).await? == Put::Created {
        return Ok(());
    }
    let suffix = get(store, health, key, Range::Last(FOOTER_READ)).await?;
    let found = Footer::decode_suffix(&suffix)
        .map_err(|e| ShipError::Foreign { key: key.clone(), detail: e.to_string() })?;
    if found.hash == footer.hash && found.raw_len == footer.raw_len {
        health.ambiguous();
        return Ok(());
    }
    Err(ShipError::Conflict { key: key.clone(), ours: footer.hash, found: found.hash })
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
