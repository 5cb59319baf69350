//! Indexes and roll-ups can be read. They are derived: one that cannot is made again by
//! `pitr reindex`, and one that is absent is no finding.

use futures_util::{StreamExt, stream};

use super::{Finding, Kind, Progress, Report};
use crate::catalog::{Catalog, CatalogError};
use proto::archive::index::{IndexError, RollUp, SegmentIndex};
use proto::store::{Object, Range, list_all};

pub(super) async fn check(
    catalog: &Catalog,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), CatalogError> {
    for timeline in catalog.logs.keys() {
        let folder = catalog.lineage.index_epoch((*timeline).into());
        let objects = list_all(&**catalog.store(), &folder).await?;
        progress.expect(objects.len());
        let mut checked = stream::iter(objects)
            .map(|object| async move {
                let bytes = catalog.store().get(&object.key, Range::All).await;
                progress.one(0);
                bytes.map(|bytes| (decode(&object, &bytes), object))
            })
            .buffer_unordered(super::SMALL_AT_ONCE);
        while let Some(read) = checked.next().await {
            let (decoded, object) = read?;
            report.indexes += 1;
            if let Err(error) = decoded {
                report.findings.push(Finding {
                    key: object.key.to_string(),
                    kind: Kind::Index,
                    expected: "an index that can be read".to_owned(),
                    found: error.to_string(),
                });
            }
        }
    }
    Ok(())
}

fn decode(object: &Object, bytes: &[u8]) -> Result<(), IndexError> {
    if object.key.as_str().contains("/roll-up/") {
        RollUp::decode(bytes).map(drop)
    } else {
        SegmentIndex::decode(bytes).map(drop)
    }
}
