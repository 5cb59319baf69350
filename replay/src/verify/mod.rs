//! Whether everything in an archive is there, in order and unbroken.
//!
//! Enters: a catalog. Leaves: a [`Report`] with a [`Finding`] for each thing that is not as it
//! should be. The quick pass reads what stands at the ends of objects (footers, headers, listings);
//! with `read_data` every byte is read and every hash checked. Memory is bounded by a few objects
//! at a time. Nothing is written, so a crash leaves nothing.

mod bases;
mod data;
mod index;
mod log;
pub mod mongodb;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::catalog::{Catalog, CatalogError, wrong_with};
use proto::archive::ArchiveError;
use proto::postgres::lsn::SegmentId;
use proto::segment::Hash;

/// How many small requests are under way at once, and how many whole objects.
const SMALL_AT_ONCE: usize = 8;
const WHOLE_AT_ONCE: usize = 3;

/// What to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub read_data: bool,
}

/// What is wrong with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is not there.
    Missing,
    /// Its bytes are not what they were.
    Damaged,
    /// It is not what its name says.
    Misplaced,
    /// It does not continue what stands before it.
    Broken,
    /// An index, which can be made again: `pitr reindex`.
    Index,
    /// A base that cannot be replayed.
    Unusable,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub key: String,
    pub kind: Kind,
    pub expected: String,
    pub found: String,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub segments: u64,
    pub tails: u64,
    pub bases: u64,
    pub base_objects: u64,
    pub indexes: u64,
    /// Bytes read from the store whole, with `read_data`.
    pub bytes_read: u64,
    /// By key.
    pub findings: Vec<Finding>,
}

/// How far a verification is: objects, of how many, and bytes read.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: AtomicU64,
    pub total: AtomicU64,
    pub bytes: AtomicU64,
}

impl Progress {
    fn expect(&self, objects: usize) {
        self.total.fetch_add(objects as u64, Ordering::Relaxed);
    }

    fn one(&self, bytes: u64) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a segment's own bytes say of it: enough to check the chain of segments.
#[derive(Debug, Clone, Copy)]
struct Linked {
    hash: Hash,
    previous: Hash,
}

type Links = BTreeMap<SegmentId, Linked>;

/// Checks an archive.
///
/// # Errors
/// When the store fails; what is wrong with the archive is no error but a finding.
pub async fn verify(
    catalog: &Catalog,
    options: Options,
    progress: &Progress,
) -> Result<Report, CatalogError> {
    let mut report = Report::default();
    for damage in &catalog.damage {
        report.findings.push(Finding {
            key: damage.key.clone(),
            kind: Kind::Damaged,
            expected: "an object of its format".to_owned(),
            found: damage.detail.clone(),
        });
    }
    let links = log::check(catalog, options, progress, &mut report).await?;
    log::check_links(catalog, &links, &mut report);
    log::check_holes(catalog, &mut report);
    if options.read_data {
        log::check_branches(catalog, &mut report).await?;
    }
    bases::check(catalog, options, progress, &mut report).await?;
    index::check(catalog, progress, &mut report).await?;
    report.findings.sort();
    report.findings.dedup();
    report.bytes_read = progress.bytes.load(Ordering::Relaxed);
    Ok(report)
}

/// Damage of one object becomes a finding; a store that fails ends the verification.
fn finding(key: &str, error: CatalogError) -> Result<Finding, CatalogError> {
    use proto::store::Class;
    let (kind, expected) = match (&error, error.class()) {
        (CatalogError::Misplaced { .. }, _) => (Kind::Misplaced, "what its name says"),
        (CatalogError::Archive(ArchiveError::Chain { .. }), _) => {
            (Kind::Broken, "a tail that continues the one before it")
        }
        (_, Class::Absent) => (Kind::Missing, "an object"),
        (_, Class::Damaged) => (Kind::Damaged, "bytes that match their checksums"),
        _ => return Err(error),
    };
    let found = wrong_with(key, &error);
    Ok(Finding { key: key.to_owned(), kind, expected: expected.to_owned(), found })
}

#[cfg(test)]
mod tests;
