//! Whether everything in an archive of a replica set is there, in order and unbroken.
//!
//! Enters: an archive. Leaves: a [`Report`], as for other engines. The quick pass reads what stands
//! at the ends of objects; with `read_data` every byte is read, every hash checked, and every
//! segment walked entry by entry. Nothing is written.

use futures_util::{StreamExt, TryStreamExt, stream};

use proto::archive::base::Complete;
use proto::archive::layout::SegmentName;
use proto::mongodb::{Documents, OplogTs, Order, Record};
use proto::segment::{Hash, read_frames};
use proto::store::{Class, Key, Range};

use super::{Finding, Kind, Options, Progress, Report, SMALL_AT_ONCE};
use crate::catalog::mongodb::{OplogArchive, Segment, Stored};
use crate::catalog::{CatalogError, describe, wrong_with};

/// Checks an archive.
///
/// # Errors
/// When the store fails.
pub async fn verify(
    archive: &OplogArchive,
    options: Options,
    progress: &Progress,
) -> Result<Report, CatalogError> {
    let mut report = Report::default();
    for damage in &archive.damage {
        report.findings.push(Finding {
            key: damage.key.clone(),
            kind: Kind::Damaged,
            expected: "something readable".to_owned(),
            found: damage.detail.clone(),
        });
    }
    log(archive, options, progress, &mut report).await?;
    for base in &archive.bases {
        objects(archive, base, options, progress, &mut report).await?;
        let start = base.mongodb().start.ts;
        let first = archive.segments.first().map(|segment| segment.first);
        if first.is_none_or(|first| first > start) {
            report.findings.push(Finding {
                key: archive.lineage.base_complete(&base.id).to_string(),
                kind: Kind::Unusable,
                expected: format!("the log from {start} on"),
                found: first.map_or("no log".to_owned(), |first| format!("log from {first} on")),
            });
        }
    }
    report.findings.sort();
    Ok(report)
}

fn key_of(archive: &OplogArchive, first: OplogTs) -> String {
    archive.lineage.sealed(&SegmentName::mongodb(first)).to_string()
}

fn of_error(key: String, error: &CatalogError) -> Result<Finding, CatalogError> {
    let kind = match error.class() {
        Class::Absent => Kind::Missing,
        Class::Damaged => Kind::Damaged,
        _ => return Err(CatalogError::Stopped { detail: describe(error) }),
    };
    let found = wrong_with(&key, error);
    Ok(Finding { key, kind, expected: "a whole segment".to_owned(), found })
}

/// Each segment, and that it continues the one before it, but where the ledger tells of a gap.
async fn log(
    archive: &OplogArchive,
    options: Options,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), CatalogError> {
    progress.expect(archive.segments.len());
    let gaps = archive.gaps();
    let mut before = None;
    for segment in &archive.segments {
        match &segment.stored {
            Stored::Sealed { .. } => report.segments += 1,
            Stored::Tails(chain) => report.tails += chain.links.len() as u64,
        }
        let head = match archive.head_of(segment).await {
            Ok(head) => head,
            Err(error) => {
                report.findings.push(of_error(key_of(archive, segment.first), &error)?);
                before = None;
                continue;
            }
        };
        let known = gaps.iter().any(|gap| gap.first.ts == segment.first);
        if let Some((first, last)) = before.replace((segment.first, head))
            && !head.continues(&last)
            && !known
        {
            report.findings.push(Finding {
                key: key_of(archive, segment.first),
                kind: Kind::Broken,
                expected: format!("it continues segment {first}"),
                found: format!("it begins at byte {} behind {}", head.start.0, head.previous),
            });
        }
        let read = if options.read_data { whole(archive, segment, report).await? } else { 0 };
        progress.one(read);
    }
    Ok(())
}

/// Reads a segment and every entry in it. How many bytes that were.
async fn whole(
    archive: &OplogArchive,
    segment: &Segment,
    report: &mut Report,
) -> Result<u64, CatalogError> {
    let key = key_of(archive, segment.first);
    let mut log = archive.log(segment.first, segment.first);
    let run = match log.next().await {
        Ok(run) => run.unwrap_or_default(),
        Err(error) => {
            report.findings.push(of_error(key, &error)?);
            return Ok(0);
        }
    };
    let mut order = Order::default();
    for document in Documents::new(&run) {
        let read = document.ok().and_then(|(_, raw)| Record::read(raw).ok());
        if !read.is_some_and(|record| order.advance(&record)) {
            report.findings.push(Finding {
                key,
                kind: Kind::Damaged,
                expected: format!("an entry later than {}", order.at()),
                found: "something else".to_owned(),
            });
            break;
        }
    }
    report.bytes_read += segment.stored.bytes();
    Ok(segment.stored.bytes())
}

async fn objects(
    archive: &OplogArchive,
    base: &Complete,
    options: Options,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), CatalogError> {
    report.bases += 1;
    let objects: Vec<_> = base.mongodb().objects().cloned().collect();
    progress.expect(objects.len());
    let checks: Vec<_> = objects
        .iter()
        .map(|object| async move {
            let key = archive.lineage.base_object(&base.id, &object.object);
            let expected = (object.bytes, object.raw_bytes, object.hash);
            let found = one(archive, &key, expected, options).await?;
            progress.one(if options.read_data { object.bytes } else { 0 });
            Ok::<_, CatalogError>((found, object.bytes))
        })
        .collect();
    let at_once = if options.read_data { super::WHOLE_AT_ONCE } else { SMALL_AT_ONCE };
    let found: Vec<_> = stream::iter(checks).buffered(at_once).try_collect().await?;
    for (finding, bytes) in found {
        report.base_objects += 1;
        report.bytes_read += if options.read_data { bytes } else { 0 };
        report.findings.extend(finding);
    }
    Ok(())
}

async fn one(
    archive: &OplogArchive,
    key: &Key,
    (bytes, raw_bytes, hash): (u64, u64, Hash),
    options: Options,
) -> Result<Option<Finding>, CatalogError> {
    let finding = |kind, expected: String, found: String| {
        Ok(Some(Finding { key: key.to_string(), kind, expected, found }))
    };
    match archive.store.head(key).await? {
        None => return finding(Kind::Missing, format!("{bytes} bytes"), "nothing".to_owned()),
        Some(found) if found != bytes => {
            return finding(Kind::Damaged, format!("{bytes} bytes"), format!("{found} bytes"));
        }
        Some(_) => {}
    }
    if !options.read_data {
        return Ok(None);
    }
    let object = archive.store.get(key, Range::All).await?;
    let read = tokio::task::spawn_blocking(move || {
        read_frames(&object, raw_bytes).map(|raw| (raw.len() as u64, Hash::of(&raw)))
    });
    let read = read.await.map_err(|error| CatalogError::Stopped { detail: error.to_string() })?;
    match read {
        Ok(found) if found == (raw_bytes, hash) => Ok(None),
        Ok((len, found)) => finding(
            Kind::Damaged,
            format!("{raw_bytes} raw bytes of hash {hash}"),
            format!("{len} of hash {found}"),
        ),
        Err(error) => finding(Kind::Damaged, "whole frames".to_owned(), error.to_string()),
    }
}
