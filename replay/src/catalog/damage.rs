//! What of an archive is not as it should be.
//!
//! Enters: an error about an object. Leaves: the object's key, and beside it what is wrong with it,
//! without the key once more.

use std::fmt;

use super::{CatalogError, describe};
use proto::archive::ArchiveError;
use proto::store::{Key, StoreError};

/// Something in the archive that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub key: String,
    pub detail: String,
}

impl Damage {
    pub(super) fn of(key: String, error: &CatalogError) -> Self {
        Self { detail: wrong_with(&key, error), key }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.detail)
    }
}

/// Damage is noted and lived with; a store that fails is not.
pub(super) fn damaged(error: CatalogError) -> Result<Damage, CatalogError> {
    let key = match &error {
        CatalogError::Archive(
            ArchiveError::Segment { key, .. } | ArchiveError::Chain { key, .. },
        )
        | CatalogError::Segment { key, .. } => key.to_string(),
        CatalogError::Archive(ArchiveError::Store(StoreError::Absent { key, .. })) => {
            key.to_string()
        }
        _ => return Err(error),
    };
    Ok(Damage::of(key, &error))
}

/// What is wrong with the object of `key`, beside which it is told. Of another object's error all is
/// told.
pub(crate) fn wrong_with(key: &str, error: &CatalogError) -> String {
    if named_by(error).is_none_or(|named| named.as_str() != key) {
        return describe(error);
    }
    match of_store(error) {
        Some(StoreError::Absent { .. }) => "no object".to_owned(),
        Some(StoreError::Damaged { detail, .. }) => format!("it is damaged: {detail}"),
        _ => describe(error).replacen(key, "it", 1),
    }
}

/// The object that an error is about.
fn named_by(error: &CatalogError) -> Option<&Key> {
    if let Some(StoreError::Absent { key, .. } | StoreError::Damaged { key, .. }) = of_store(error)
    {
        return Some(key);
    }
    match error {
        CatalogError::History { key, .. }
        | CatalogError::Segment { key, .. }
        | CatalogError::Misplaced { key, .. }
        | CatalogError::Archive(
            ArchiveError::Segment { key, .. }
            | ArchiveError::Json { key, .. }
            | ArchiveError::History { key, .. }
            | ArchiveError::Newer { key, .. }
            | ArchiveError::Chain { key, .. },
        ) => Some(key),
        _ => None,
    }
}

const fn of_store(error: &CatalogError) -> Option<&StoreError> {
    match error {
        CatalogError::Store(error) | CatalogError::Archive(ArchiveError::Store(error)) => {
            Some(error)
        }
        _ => None,
    }
}
