//! Bases: every object of a complete one is there with its size (and, with `read_data`, its hash),
//! and the log leads from its start to its stop without a hole.

use futures_util::{StreamExt, stream};

use super::{Finding, Kind, Options, Progress, Report, data, finding};
use crate::catalog::{Base, Catalog, CatalogError, LogPath};
use proto::archive::base::Complete;
use proto::segment::Hash;
use proto::store::{Key, Range};

/// One object of a base, as its completion describes it.
struct Part {
    key: Key,
    bytes: u64,
    raw_bytes: u64,
    hash: Hash,
}

pub(super) async fn check(
    catalog: &Catalog,
    options: Options,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), CatalogError> {
    for base in &catalog.bases {
        report.bases += 1;
        check_log(catalog, base, report);
        let parts = parts_of(catalog, &base.complete);
        progress.expect(parts.len());
        let at_once = if options.read_data { super::WHOLE_AT_ONCE } else { super::SMALL_AT_ONCE };
        let mut checked = stream::iter(parts)
            .map(|part| async move {
                let result = check_part(catalog, &part, options).await;
                progress.one(if options.read_data { part.bytes } else { 0 });
                (part, result)
            })
            .buffer_unordered(at_once);
        while let Some((part, result)) = checked.next().await {
            report.base_objects += 1;
            match result {
                Ok(found) => report.findings.extend(found),
                Err(error) => report.findings.push(finding(part.key.as_str(), error)?),
            }
        }
    }
    Ok(())
}

fn parts_of(catalog: &Catalog, complete: &Complete) -> Vec<Part> {
    let key = |object: &str| catalog.lineage.base_object(&complete.id, object);
    let parts = complete.archives.iter().flat_map(|archive| &archive.parts).map(|part| Part {
        key: key(&part.object),
        bytes: part.bytes,
        raw_bytes: part.raw_bytes,
        hash: part.hash,
    });
    let manifest = complete.manifest.iter().chain(&complete.manifest_more).map(|object| Part {
        key: key(&object.object),
        bytes: object.bytes,
        raw_bytes: object.raw_bytes,
        hash: object.hash,
    });
    parts.chain(manifest).collect()
}

async fn check_part(
    catalog: &Catalog,
    part: &Part,
    options: Options,
) -> Result<Option<Finding>, CatalogError> {
    let at = |kind, expected: String, found: String| {
        Ok(Some(Finding { key: part.key.to_string(), kind, expected, found }))
    };
    let size = catalog.store().head(&part.key).await?;
    let Some(size) = size else {
        return at(Kind::Missing, format!("{} bytes", part.bytes), "no object".to_owned());
    };
    if size != part.bytes {
        let (expected, found) = (format!("{} bytes", part.bytes), format!("{size} bytes"));
        return at(Kind::Damaged, expected, found);
    }
    if !options.read_data {
        return Ok(None);
    }
    let object = catalog.store().get(&part.key, Range::All).await?;
    let hashed = tokio::task::spawn_blocking(move || data::hash_frames(&object)).await;
    let (hash, raw_bytes) = hashed
        .expect("hashing does not panic")
        .map_err(|source| CatalogError::Segment { key: part.key.clone(), source })?;
    if (hash, raw_bytes) != (part.hash, part.raw_bytes) {
        let expected = format!("{} raw bytes with hash {}", part.raw_bytes, part.hash);
        return at(Kind::Damaged, expected, format!("{raw_bytes} raw bytes with hash {hash}"));
    }
    Ok(None)
}

/// A base stands on some timeline's way, and the log there is unbroken from its start to its stop.
fn check_log(catalog: &Catalog, base: &Base, report: &mut Report) {
    let postgres = base.complete.postgres();
    let key = catalog.lineage.base_complete(base.id()).to_string();
    let path = LogPath::new(catalog.history(postgres.stop_timeline));
    let usable = catalog.ranges(&path).iter().any(|range| catalog.is_usable(&path, *range, base));
    if !usable {
        report.findings.push(Finding {
            key: key.clone(),
            kind: Kind::Unusable,
            expected: format!("unbroken log from {} to {}", postgres.start, postgres.stop),
            found: "a hole in it, so that the base cannot be replayed".to_owned(),
        });
    }
    for page in &base.complete.damaged {
        let block = page.block.map_or_else(String::new, |block| format!(" block {block}"));
        report.findings.push(Finding {
            key: key.clone(),
            kind: Kind::Damaged,
            expected: "pages whose checksums hold at the source".to_owned(),
            found: format!("{}{block}: {}", page.file, page.detail),
        });
    }
}
