//! What `applyOps` does not say by itself: that a delete found nothing, and that an insert was put over
//! a document that was there.
//!
//! Enters: the operations of a batch. Leaves: operations that make the server say the first, and
//! a question, asked before the batch is applied, that tells the second. (`applyOps` answers
//! whether an operation failed, not how many documents it met, and makes an insert an upsert:
//! src/mongo/db/repl/oplog.cpp, applyOperation_inlock. Tried on 6.0.5.)
//!
//! - In front of a delete goes an update of the same document that takes away a field. With
//!   `alwaysUpsert: false` it is an error when the document is missing, in the same command, so
//!   that nothing of the batch is applied. What else it does is gone with the delete.
//! - Documents that a batch inserts are looked for, by `_id`, with one read for each collection.
//!   What the batch itself does to a document before that is reckoned with.

use std::collections::{BTreeMap, HashMap};

use bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use super::error::ReplayError;
use super::operation::{operation, with_id};
use super::target::Target;

/// What an operation demands of the document that it is about, beside what an update demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    Nothing,
    /// An insert: that it is not there.
    Absent,
    /// A delete: that it is there.
    Present,
}

/// The operation in front of a delete.
pub(super) fn guard(namespace: &str, id: RawBsonRef<'_>) -> RawDocumentBuf {
    let nothing = rawdoc! { "$v": 2, "diff": { "d": { "_": false } } };
    operation("u", namespace, &nothing, Some(&with_id(id)))
}

/// An operation behind one that writes a whole document: `applyOps` puts the present time into empty
/// timestamps, but for those that are nested, as an insert does. (A source has them by `$set`.)
pub(super) fn empty_timestamps(apply: &RawDocument) -> Option<RawDocumentBuf> {
    let kind = apply.get_str("op").ok()?;
    let o = apply.get_document("o").ok()?;
    if !matches!(kind, "i" | "u") {
        return None;
    }
    let empty = bson::Timestamp { time: 0, increment: 0 };
    let mut fields = rawdoc! {};
    for element in o.iter_elements() {
        let element = element.ok()?;
        let key = element.key();
        // A difference, and no document.
        if kind == "u" && key.as_str() == "$v" {
            return None;
        }
        let is_timestamp = element.element_type() == bson::spec::ElementType::Timestamp;
        if is_timestamp && key.as_str() != "_id" && element.value().ok()?.as_timestamp()? == empty {
            fields.append(key, empty);
        }
    }
    if fields.is_empty() {
        return None;
    }
    let diff = rawdoc! { "$v": 2, "diff": { "u": fields } };
    let which = with_id(o.get("_id").ok()??);
    Some(operation("u", apply.get_str("ns").ok()?, &diff, Some(&which)))
}

/// The documents of a batch that are to be absent before it.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// By namespace: what is inserted, and the number of the operation that does it.
    asked: BTreeMap<String, Vec<(RawBson, usize)>>,
    /// What the batch has done to a document so far: whether it is there.
    known: HashMap<Vec<u8>, bool>,
}

impl Fresh {
    /// Takes note of an operation. Whether it can be right: an insert of what the batch itself has
    /// written cannot.
    pub(super) fn note(
        &mut self,
        (namespace, kind): (&str, &str),
        id: RawBsonRef<'_>,
        demand: Demand,
        number: usize,
    ) -> bool {
        let mut key = namespace.as_bytes().to_vec();
        key.push(0);
        key.extend_from_slice(with_id(id).as_bytes());
        let before = self.known.insert(key, kind != "d");
        if demand != Demand::Absent {
            return true;
        }
        if before.is_none() {
            self.asked.entry(namespace.to_owned()).or_default().push((id.into(), number));
        }
        before != Some(true)
    }

    /// Asks the target for what is to be absent. The number of the first operation found that inserts
    /// what is there.
    ///
    /// # Errors
    /// When the target does not answer.
    pub(super) async fn look(&mut self, target: &Target) -> Result<Option<usize>, ReplayError> {
        self.known.clear();
        for (namespace, asked) in std::mem::take(&mut self.asked) {
            let mut ids = RawArrayBuf::new();
            for (id, _) in &asked {
                ids.push(id.as_raw_bson_ref());
            }
            let Some(found) = target.any_of(&namespace, ids).await? else { continue };
            let found: Option<RawBson> = found.get("_id").ok().flatten().map(Into::into);
            // Under a collation another `_id` may be the same.
            let same = asked.iter().find(|(id, _)| Some(id) == found.as_ref());
            return Ok(same.or(asked.first()).map(|(_, number)| *number));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(fresh: &mut Fresh, kind: &str, id: i32, number: usize) -> bool {
        let demand = if kind == "i" { Demand::Absent } else { Demand::Nothing };
        fresh.note(("d.c", kind), RawBsonRef::Int32(id), demand, number)
    }

    #[test]
    fn what_a_batch_itself_writes_or_deletes_is_not_asked_for() {
        let mut fresh = Fresh::default();
        assert!(note(&mut fresh, "i", 1, 0));
        assert!(note(&mut fresh, "d", 1, 1) && note(&mut fresh, "i", 1, 2));
        assert!(!note(&mut fresh, "i", 1, 3), "inserted twice");
        assert!(note(&mut fresh, "u", 2, 4));
        assert!(!note(&mut fresh, "i", 2, 5), "updated, so it is there");
        assert!(note(&mut fresh, "d", 3, 6) && note(&mut fresh, "i", 3, 7));
        let asked: Vec<_> = fresh.asked["d.c"].iter().map(|(_, number)| *number).collect();
        assert_eq!(asked, [0]);
    }

    #[test]
    fn empty_timestamps_of_the_document_itself_are_put_back() {
        let empty = bson::Timestamp { time: 0, increment: 0 };
        let document = rawdoc! { "_id": 1, "a": empty, "b": { "c": empty }, "d": 5, "e": empty };
        let again = empty_timestamps(&operation("i", "d.c", &document, None));
        let diff = rawdoc! { "$v": 2, "diff": { "u": { "a": empty, "e": empty } } };
        assert_eq!(again, Some(operation("u", "d.c", &diff, Some(&rawdoc! { "_id": 1 }))));
        let filled = rawdoc! { "_id": empty, "a": bson::Timestamp { time: 0, increment: 1 } };
        assert_eq!(empty_timestamps(&operation("i", "d.c", &filled, None)), None);
        assert_eq!(empty_timestamps(&operation("u", "d.c", &diff, Some(&document))), None);
        assert_eq!(empty_timestamps(&operation("d", "d.c", &document, None)), None);
    }
}
