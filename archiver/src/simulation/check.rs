//! The archive as a stranger reads it: by names, starts and hashes alone.

use proto::archive::chain;
use proto::archive::layout::{Lineage, OPLOG_EPOCH, mongodb_segment_of};
use proto::mongodb::Documents;
use proto::position::{Offset, Position};
use proto::segment::{Engine, Footer, Hash, read_sealed};
use proto::store::{Range, Store, list_all};

use super::database::Database;
use super::followed::first_of;
use super::written::Written;
use crate::ship::chained;
use crate::source::postgres::end::find_end;
use crate::spool::OplogSegments;

/// One sealed segment.
struct Sealed {
    footer: Footer,
    raw: Vec<u8>,
}

/// What the archive holds of the newest epoch's history.
pub(super) async fn archived(store: &dyn Store, database: &Database) -> Vec<u8> {
    let log: &Written = &database.log;
    let sealed = sealed(store).await;
    let mut raw: Vec<u8> = Vec::new();
    let mut previous = Hash::NONE;
    let mut path = log.path(database.written());
    path.reverse();
    for (epoch, from, to) in path {
        let of_stretch = |sealed: &&Sealed| {
            let head = sealed.footer.head;
            head.epoch == epoch && (from..to).contains(&head.start.0)
        };
        for Sealed { footer, raw: piece } in sealed.iter().filter(of_stretch) {
            assert_eq!(footer.head.start, Offset(log.begin + raw.len() as u64));
            assert_eq!(footer.head.previous, previous, "{:?}", footer.head);
            previous = footer.hash;
            raw.extend(piece);
        }
    }
    let opened = database.opened();
    let end = match database.engine {
        Engine::Postgresql => find_end(store, opened.lineage, opened.postgres()).await,
        Engine::Mongodb => {
            chained::find_end(store, opened.lineage, OPLOG_EPOCH, &OplogSegments).await
        }
    };
    let end = end.expect("an end");
    assert_eq!(end.store.epoch, database.epoch());
    assert_eq!(end.store.start, Offset(log.begin + raw.len() as u64));
    if let Some(slot) = &end.store.slot {
        let open = chain::follow(store, Lineage(1), &slot.name.name).await.expect("a chain");
        assert_eq!(open.raw_len(), end.store.raw.len() as u64);
        assert!(open.links.first().is_none_or(|link| link.header.head.previous == previous));
    }
    raw.extend(end.store.raw);
    raw
}

/// All that are whole, in the order of their names.
async fn sealed(store: &dyn Store) -> Vec<Sealed> {
    let mut found = Vec::new();
    for object in list_all(store, &Lineage(1).log()).await.expect("listed") {
        let bytes = store.get(&object.key, Range::All).await.expect("read");
        let (footer, raw) = read_sealed(&bytes).expect("whole");
        if let (Engine::Mongodb, Some(first)) =
            (footer.head.engine, mongodb_segment_of(object.key.name()))
        {
            // Whole entries, and its name is the first one's.
            assert!(Documents::new(&raw).all(|entry| entry.is_ok()), "{}", object.key);
            assert_eq!(first, (first_of(&raw), false), "{}", object.key);
        }
        if !footer.partial {
            found.push(Sealed { footer, raw });
        }
    }
    found.sort_by_key(|s| Position::new(s.footer.head.epoch, s.footer.head.start));
    found
}
