//! The log: each segment is what its name says, continues the one before it, and none is missing.

use futures_util::{StreamExt, stream};

use super::{Finding, Kind, Linked, Links, Options, Progress, Report, data, finding};
use crate::catalog::read::check_place;
use crate::catalog::{Catalog, CatalogError, LogPath, Stored};
use proto::archive::layout::SegmentName;
use proto::postgres::lsn::{Lsn, SegmentId};
use proto::segment::{FOOTER_READ, Footer, Hash};
use proto::store::{Key, Range};

/// Reads every segment's footer (or every byte), and gives what the segments say of each other.
pub(super) async fn check(
    catalog: &Catalog,
    options: Options,
    progress: &Progress,
    report: &mut Report,
) -> Result<Links, CatalogError> {
    let segments = catalog.logs.iter().flat_map(|(timeline, log)| {
        let id = |number: &u64| SegmentId { timeline: *timeline, number: *number };
        log.segments.iter().map(move |(number, stored)| (id(number), stored))
    });
    let segments: Vec<(SegmentId, &Stored)> = segments.collect();
    progress.expect(segments.len());
    let at_once = if options.read_data { super::WHOLE_AT_ONCE } else { super::SMALL_AT_ONCE };
    let mut checked = stream::iter(segments)
        .map(|(id, stored)| async move {
            let key = place_of(catalog, id, stored);
            let linked = match stored {
                Stored::Tails(chain) => data::tails(catalog, id, chain, options).await,
                _ => object(catalog, &Key::new(key.clone()), id, stored, options).await,
            };
            progress.one(if options.read_data { stored.stored_bytes() } else { 0 });
            (id, key, linked)
        })
        .buffer_unordered(at_once);
    let mut links = Links::new();
    while let Some((id, key, linked)) = checked.next().await {
        report.segments += 1;
        match linked {
            Ok(linked) => drop(links.insert(id, linked)),
            Err(error) => report.findings.push(finding(&key, error)?),
        }
    }
    for log in catalog.logs.values() {
        for stored in log.segments.values() {
            if let Stored::Tails(chain) = stored {
                report.tails += chain.links.len() as u64;
            }
        }
    }
    Ok(links)
}

/// The key of a segment, or the folder of its tails.
fn place_of(catalog: &Catalog, id: SegmentId, stored: &Stored) -> String {
    let name = catalog.name_of(id);
    match stored {
        Stored::Sealed { .. } => catalog.lineage.sealed(&name).to_string(),
        Stored::Partial { .. } => catalog.lineage.partial(&name).to_string(),
        Stored::Tails(_) => catalog.lineage.chain(&name.name),
    }
}

async fn object(
    catalog: &Catalog,
    key: &Key,
    id: SegmentId,
    stored: &Stored,
    options: Options,
) -> Result<Linked, CatalogError> {
    let range = if options.read_data { Range::All } else { Range::Last(FOOTER_READ) };
    let bytes = catalog.store().get(key, range).await?;
    let footer = if options.read_data {
        data::sealed(key, bytes).await?
    } else {
        let bad = |source| CatalogError::Segment { key: key.clone(), source };
        Footer::decode_suffix(&bytes).map_err(bad)?
    };
    check_place(key, &footer, catalog.lineage, id, catalog.segment_size())?;
    let length = footer.frames_len() + footer.encode().len() as u64;
    if length != stored.stored_bytes() {
        let (field, expected, found) = ("size of the object", length, stored.stored_bytes());
        return Err(CatalogError::Misplaced { key: key.clone(), field, expected, found });
    }
    Ok(Linked { hash: footer.hash, previous: footer.head.previous })
}

/// Each segment names the hash of the one before it: on its own timeline, or, for a timeline's
/// first one, on the parent's (DESIGN §4).
pub(super) fn check_links(catalog: &Catalog, links: &Links, report: &mut Report) {
    let size = catalog.segment_size();
    for (id, linked) in links {
        let Some(number) = id.number.checked_sub(1) else { continue };
        let path = LogPath::new(catalog.history(id.timeline));
        let before = catalog.locate(&path, number);
        let Some(before) = before.filter(|before| before.raw_bytes == size.bytes()) else {
            // Nothing whole stands before it: a hole is found as such.
            continue;
        };
        // A broken one was found already, and a break that the ledger names is no secret.
        let Some(known) = links.get(&before.id) else { continue };
        let lost = |gap: &crate::catalog::Gap| Lsn::from(gap.to.offset) == id.start(size);
        let explained = linked.previous == Hash::NONE && catalog.gaps_on(&path).iter().any(lost);
        if linked.previous != known.hash && !explained {
            report.findings.push(Finding {
                key: name_of(catalog, *id),
                kind: Kind::Broken,
                expected: format!("it continues {} with hash {}", before.id.name(size), known.hash),
                found: format!("it continues hash {}", linked.previous),
            });
        }
    }
}

fn name_of(catalog: &Catalog, id: SegmentId) -> String {
    let stored = catalog.logs.get(&id.timeline).and_then(|log| log.segments.get(&id.number));
    stored.map_or_else(|| id.name(catalog.segment_size()), |stored| place_of(catalog, id, stored))
}

/// The log of the newest timeline has no hole that the ledger does not name.
pub(super) fn check_holes(catalog: &Catalog, report: &mut Report) {
    let size = catalog.segment_size();
    let path = catalog.path();
    let gaps = catalog.gaps_on(&path);
    for pair in catalog.ranges(&path).windows(2) {
        let (from, to) = (pair[0].to, pair[1].from);
        // A gap ends where the archive goes on, and that is where a segment begins.
        let named = gaps.iter().any(|gap| {
            let gap_from = size.floor(gap.from.offset.into());
            gap_from <= from && to <= Lsn::from(gap.to.offset)
        });
        if named {
            continue;
        }
        let first = SegmentId::containing(path.history.owner_of(from), from, size);
        let last = SegmentId { number: size.segment_of(Lsn(to.0 - 1)), ..first };
        let name = SegmentName::postgres(first, size);
        let found = if first == last {
            format!("nothing from {from} to {to}")
        } else {
            format!("nothing from {from} to {to}, up to {}", last.name(size))
        };
        report.findings.push(Finding {
            key: catalog.lineage.sealed(&name).to_string(),
            kind: Kind::Missing,
            expected: "a segment, for the log goes on behind it".to_owned(),
            found,
        });
    }
}

/// Where a timeline begins inside a segment, its bytes before the branch are its parent's.
pub(super) async fn check_branches(
    catalog: &Catalog,
    report: &mut Report,
) -> Result<(), CatalogError> {
    let size = catalog.segment_size();
    for (timeline, history) in &catalog.histories {
        let Some(branch) = history.branch() else { continue };
        let number = size.segment_of(branch.at);
        let child = SegmentId { timeline: *timeline, number };
        let parent = SegmentId { timeline: branch.parent, number };
        // One that is absent or damaged was found already, where it matters.
        let (Ok(ours), Ok(theirs)) = (catalog.raw(child).await, catalog.raw(parent).await) else {
            continue;
        };
        let shared = usize::try_from(size.offset_in(branch.at)).unwrap_or(usize::MAX);
        let shared = shared.min(ours.len()).min(theirs.len());
        let differs = ours[..shared].iter().zip(&theirs[..shared]).position(|(a, b)| a != b);
        if let Some(at) = differs {
            report.findings.push(Finding {
                key: name_of(catalog, child),
                kind: Kind::Broken,
                expected: format!("the bytes of {} up to {}", parent.name(size), branch.at),
                found: format!("another byte at {}", Lsn(child.start(size).0 + at as u64)),
            });
        }
    }
    Ok(())
}
