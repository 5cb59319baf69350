//! Every byte: frames, checksums and hashes of segments, tails and the objects of bases.

use bytes::Bytes;

use super::{Linked, Options};
use crate::catalog::{Catalog, CatalogError};
use proto::archive::chain::{self, Chain};
use proto::postgres::lsn::SegmentId;
use proto::segment::{
    Footer, FrameKind, Hash, RunningHash, SegmentError, decompress, first_frame, read_sealed,
};
use proto::store::Key;

/// A sealed object, every frame decoded and the hash of its raw bytes checked.
pub(super) async fn sealed(key: &Key, object: Bytes) -> Result<Footer, CatalogError> {
    let read = tokio::task::spawn_blocking(move || read_sealed(&object).map(|(footer, _)| footer));
    let footer = read.await.expect("reading a segment does not panic");
    footer.map_err(|source| CatalogError::Segment { key: key.clone(), source })
}

/// A chain of tails: its links were checked when the catalog followed it.
pub(super) async fn tails(
    catalog: &Catalog,
    id: SegmentId,
    chain: &Chain,
    options: Options,
) -> Result<Linked, CatalogError> {
    let size = catalog.segment_size();
    for link in &chain.links {
        let head = &link.header.head;
        for (field, expected, found) in [
            ("lineage", u64::from(catalog.lineage.0), u64::from(head.lineage)),
            ("timeline", u64::from(id.timeline.0), u64::from(head.epoch.0)),
            ("segment", id.number, head.number),
            ("start", id.start(size).0, head.start.0),
        ] {
            if expected != found {
                let key = link.key.clone();
                return Err(CatalogError::Misplaced { key, field, expected, found });
            }
        }
    }
    if options.read_data {
        chain::read_raw(&**catalog.store(), &id.name(size), chain).await?;
    }
    let previous = chain.links.first().map_or(Hash::NONE, |link| link.header.head.previous);
    Ok(Linked { hash: chain.hash(), previous })
}

/// The hash and length of the raw bytes of a run of frames, one frame in memory at a time.
pub(super) fn hash_frames(mut bytes: &[u8]) -> Result<(Hash, u64), SegmentError> {
    let mut hash = RunningHash::default();
    while !bytes.is_empty() {
        let torn = || SegmentError::Frame { offset: 0, detail: "the object ends early".to_owned() };
        let span = first_frame(bytes)?.ok_or_else(torn)?;
        if span.kind != FrameKind::Skippable {
            hash.update(&decompress(&bytes[..span.len])?);
        }
        bytes = &bytes[span.len..];
    }
    Ok((hash.now(), hash.bytes()))
}
