//! Which entries a base holds already, by collection, and by range of `_id` where a collection was
//! read in ranges.
//!
//! Enters: the base's pieces. Leaves: for an operation and the moment at which it took effect, whether
//! it is applied. Pure.

use std::cmp::Ordering;
use std::collections::HashMap;

use bson::{RawBson, RawBsonRef};

use proto::mongodb::OplogTs;
use proto::mongodb::base::{Collection, Uuid};

use super::order::compare;

/// What becomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The base holds it.
    Held,
    /// The base may hold it: a document that it changes may be missing.
    Maybe,
    Applied,
}

#[derive(Debug, Default)]
pub(super) struct Moments(HashMap<Uuid, Vec<Range>>);

#[derive(Debug)]
struct Range {
    /// The first `_id` behind it; without one it goes to the end.
    max: Option<RawBson>,
    at: OplogTs,
    until: OplogTs,
}

impl Moments {
    pub(super) fn of(collections: &[Collection]) -> Self {
        let ranges = |collection: &Collection| {
            let pieces = collection.pieces.iter().map(|piece| Range {
                max: piece.max.as_ref().and_then(|max| Some(max.get("_id").ok()??.into())),
                at: piece.at,
                until: piece.until.unwrap_or(piece.at),
            });
            (collection.uuid, pieces.collect())
        };
        Self(collections.iter().map(ranges).collect())
    }

    /// For the document with this `_id`, or a collection as a whole.
    pub(super) fn verdict(
        &self,
        uuid: Uuid,
        id: Option<RawBsonRef<'_>>,
        effective: OplogTs,
    ) -> Verdict {
        let Some(ranges) = self.0.get(&uuid) else { return Verdict::Applied };
        let range = match (ranges.as_slice(), id) {
            ([], _) => return Verdict::Applied,
            ([one], _) => one,
            (many, Some(id)) => {
                let below = |range: &&Range| {
                    let max = range.max.as_ref().map(RawBson::as_raw_bson_ref);
                    max.is_none_or(|max| compare(id, max) == Ordering::Less)
                };
                many.iter().find(below).unwrap_or(&many[many.len() - 1])
            }
            (many, None) => &many[0],
        };
        if effective <= range.at {
            Verdict::Held
        } else if effective <= range.until {
            Verdict::Maybe
        } else {
            Verdict::Applied
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;
    use proto::mongodb::base::{Bson, Piece};

    const A: Uuid = Uuid([1; 16]);

    fn moments(pieces: Vec<Piece>) -> Moments {
        let options = Bson(rawdoc! {});
        let (database, name) = ("d".to_owned(), "c".to_owned());
        let (id_index, indexes) = (None, Vec::new());
        Moments::of(&[Collection { database, name, uuid: A, options, id_index, indexes, pieces }])
    }

    fn piece(at: u32, until: Option<u32>, max: Option<i32>) -> Piece {
        let ts = |seconds| OplogTs::new(seconds, 0);
        let max = max.map(|max| Bson(rawdoc! { "_id": max }));
        Piece { at: ts(at), until: until.map(ts), min: None, max, objects: Vec::new() }
    }

    #[test]
    fn each_range_has_a_moment_of_its_own() {
        let moments = moments(vec![piece(10, None, Some(100)), piece(20, None, None)]);
        let verdict =
            |id: i32, at| moments.verdict(A, Some(RawBsonRef::Int32(id)), OplogTs::new(at, 0));
        assert_eq!(verdict(99, 10), Verdict::Held);
        assert_eq!(verdict(99, 11), Verdict::Applied);
        assert_eq!(verdict(100, 11), Verdict::Held);
        assert_eq!(verdict(100, 21), Verdict::Applied);
    }

    #[test]
    fn what_was_read_without_a_snapshot_may_hold_an_entry_or_not() {
        let moments = moments(vec![piece(10, Some(15), None)]);
        let verdict = |at| moments.verdict(A, None, OplogTs::new(at, 0));
        assert_eq!(
            [verdict(10), verdict(15), verdict(16)],
            [Verdict::Held, Verdict::Maybe, Verdict::Applied]
        );
    }

    #[test]
    fn all_of_a_collection_that_the_base_does_not_have_is_applied() {
        let verdict = Moments::default().verdict(A, None, OplogTs::new(1, 0));
        assert_eq!(verdict, Verdict::Applied);
    }
}
