//! The archive: its layout, and the objects in it that are not the log itself.

pub mod layout;
pub mod identity;
pub mod ledger;
pub mod chain;
pub mod base;
pub mod ends;
pub mod readme;
pub mod index;

mod error;

pub use error::ArchiveError;

use crate::store::Key;

/// Pretty JSON with a final newline, as people read it with `cat`.
pub fn to_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("our own types have string keys");
    bytes.push(b'\n');
    bytes
}

/// # Errors
/// [`ArchiveError::Json`] naming the object.
pub fn from_json<T: serde::de::DeserializeOwned>(
    key: &Key,
    bytes: &[u8],
) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Json { key: key.clone(), source })
}
