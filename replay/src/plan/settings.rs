//! The settings that a hot standby must at least have: those of the base, raised by each change
//! that the log holds up to the target (xlogrecovery.c, `CheckRequiredParameterValues`).

use std::collections::BTreeMap;

use proto::archive::index::{Mark, MarkKind};
use proto::postgres::lsn::Lsn;
use proto::postgres::transaction::Meaning;

use crate::catalog::{ArchiveView, Base, CatalogError};
use crate::find::LogView;

/// In the order of `xl_parameter_change`, with PostgreSQL's own defaults.
const NEEDED: [(&str, u64); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

/// So many segments without an index are decoded for it at most.
const DECODED_MAX: usize = 64;

/// The settings, and how many segments were not searched.
pub(super) async fn needed(
    view: &ArchiveView<'_>,
    base: &Base,
    end: Lsn,
) -> Result<(BTreeMap<String, u64>, usize), CatalogError> {
    let postgres = base.complete.postgres();
    let mut values = NEEDED.map(|(name, default)| {
        let saved = postgres.settings.get(name).and_then(|value| value.parse().ok());
        saved.unwrap_or(default)
    });
    let mut raise = |found: [u64; 5]| {
        for (value, found) in values.iter_mut().zip(found) {
            *value = (*value).max(found);
        }
    };
    let on_the_way =
        view.segments().iter().filter(|piece| piece.until > postgres.start && piece.from < end);
    let (mut decoded, mut skipped) = (0, 0);
    for piece in on_the_way {
        if let Some(marks) = view.marks(piece) {
            let changes = marks.iter().filter(|mark| Lsn::from(mark.extent.end) <= end);
            changes.filter_map(of_mark).for_each(&mut raise);
            continue;
        }
        if decoded == DECODED_MAX {
            skipped += 1;
            continue;
        }
        decoded += 1;
        for event in view.events(piece).await? {
            if let Meaning::Parameters(p) = event.meaning
                && event.end <= end
            {
                raise([
                    p.max_connections.into(),
                    p.max_worker_processes.into(),
                    p.max_wal_senders.into(),
                    p.max_prepared_transactions.into(),
                    p.max_locks_per_transaction.into(),
                ]);
            }
        }
    }
    let named = NEEDED.iter().zip(values).map(|((name, _), value)| ((*name).to_owned(), value));
    Ok((named.collect(), skipped))
}

fn of_mark(mark: &Mark) -> Option<[u64; 5]> {
    if mark.kind != MarkKind::Settings {
        return None;
    }
    let (words, _) = mark.payload.as_chunks::<4>();
    let words = words.get(..5)?;
    Some(std::array::from_fn(|at| u64::from(u32::from_le_bytes(words[at]))))
}
