//! The indexes that the collections have at the end, built when all documents are there.
//!
//! Enters: the base's indexes, and every command of the log that makes, changes or drops one. Leaves:
//! what is to be built. Indexes come last because unique ones would refuse older states that the log
//! passes through, TTL ones would delete what is older than the present, and building them once over
//! everything is faster. (`applyOps` refuses createIndexes with 115: tried on 6.0.5.)

use std::collections::BTreeMap;

use bson::raw::CString;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use proto::mongodb::EntryError;
use proto::mongodb::base::Uuid;

#[derive(Debug, Default)]
pub(super) struct Indexes(BTreeMap<Uuid, Vec<RawDocumentBuf>>);

impl Indexes {
    /// Adds one, or puts it into the place of the one with the same name. `but` is the name of the
    /// command, where the specification stands within one.
    pub(super) fn add(
        &mut self,
        uuid: Uuid,
        spec: &RawDocument,
        but: Option<&str>,
    ) -> Result<(), EntryError> {
        let spec = without(spec, |key| Some(key) == but || key == "ns")?;
        let name = name_of(&spec).to_owned();
        let indexes = self.0.entry(uuid).or_default();
        indexes.retain(|known| name_of(known) != name);
        indexes.push(spec);
        Ok(())
    }

    pub(super) fn remove(&mut self, uuid: Uuid, name: &str) {
        if let Some(indexes) = self.0.get_mut(&uuid) {
            indexes.retain(|known| name != "*" && name_of(known) != name);
        }
    }

    /// Of a collection that is dropped.
    pub(super) fn forget(&mut self, uuid: Uuid) {
        self.0.remove(&uuid);
    }

    pub(super) fn of(&self, uuid: Uuid) -> &[RawDocumentBuf] {
        self.0.get(&uuid).map_or(&[], Vec::as_slice)
    }

    /// `collMod`'s part about an index: it is named, or told by its keys.
    pub(super) fn change(&mut self, uuid: Uuid, change: &RawDocument) -> Result<(), EntryError> {
        let (name, keys) = (change.get_str("name").ok(), change.get_document("keyPattern").ok());
        let changed = |index: &RawDocumentBuf| match (name, keys) {
            (Some(name), _) => name_of(index) == name,
            (None, Some(keys)) => index.get_document("key").is_ok_and(|found| found == keys),
            (None, None) => false,
        };
        let Some(indexes) = self.0.get_mut(&uuid) else { return Ok(()) };
        let Some(index) = indexes.iter_mut().find(|index| changed(index)) else { return Ok(()) };
        for element in change.iter() {
            let (key, value) = element?;
            let key = key.as_str();
            if matches!(key, "name" | "keyPattern") {
                continue;
            }
            let mut spec = without(index, |found| {
                // A unique index is no longer one that is being made unique.
                found == key || (key == "unique" && found == "prepareUnique")
            })?;
            // What is false is what an index has that says nothing of it.
            if value != RawBsonRef::Boolean(false) {
                spec.append(CString::try_from(key)?, value);
            }
            *index = spec;
        }
        Ok(())
    }
}

fn name_of(spec: &RawDocument) -> &str {
    spec.get_str("name").unwrap_or_default()
}

/// A document without some of its fields.
pub(super) fn without(
    document: &RawDocument,
    left_out: impl Fn(&str) -> bool,
) -> Result<RawDocumentBuf, EntryError> {
    let mut kept = RawDocumentBuf::new();
    for element in document.iter() {
        let (key, value) = element?;
        if !left_out(key.as_str()) {
            kept.append(key, value);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    const A: Uuid = Uuid([1; 16]);

    fn one(spec: RawDocumentBuf) -> Indexes {
        let mut indexes = Indexes::default();
        indexes.add(A, &spec, None).expect("a specification");
        indexes
    }

    #[test]
    fn the_command_is_no_part_of_the_index() {
        let mut indexes = Indexes::default();
        let entry =
            rawdoc! { "createIndexes": "c", "v": 2, "key": { "b": 1, "a": -1 }, "name": "x" };
        indexes.add(A, &entry, Some("createIndexes")).expect("a specification");
        assert_eq!(indexes.of(A), [rawdoc! { "v": 2, "key": { "b": 1, "a": -1 }, "name": "x" }]);
    }

    #[test]
    fn an_index_that_is_changed_is_built_as_it_is_at_the_end() {
        let mut indexes =
            one(rawdoc! { "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 5 });
        let by_name = rawdoc! { "name": "t_1", "expireAfterSeconds": 99 };
        indexes.change(A, &by_name).expect("a change");
        let by_keys = rawdoc! { "keyPattern": { "t": 1 }, "hidden": true };
        indexes.change(A, &by_keys).expect("a change");
        let expected = rawdoc! {
            "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 99, "hidden": true,
        };
        assert_eq!(indexes.of(A), [expected]);
        indexes.change(A, &rawdoc! { "name": "t_1", "hidden": false }).expect("a change");
        let shown = rawdoc! { "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 99 };
        assert_eq!(indexes.of(A), [shown]);
    }

    #[test]
    fn an_index_that_became_unique_is_no_longer_becoming_it() {
        let mut indexes = one(rawdoc! { "key": { "u": 1 }, "name": "u_1", "prepareUnique": true });
        indexes.change(A, &rawdoc! { "name": "u_1", "unique": true }).expect("a change");
        assert_eq!(indexes.of(A), [rawdoc! { "key": { "u": 1 }, "name": "u_1", "unique": true }]);
    }

    #[test]
    fn what_is_dropped_is_not_built() {
        let mut indexes = one(rawdoc! { "key": { "a": 1 }, "name": "a_1" });
        indexes.add(A, &rawdoc! { "key": { "b": 1 }, "name": "b_1" }, None).expect("one more");
        indexes.remove(A, "a_1");
        assert_eq!(indexes.of(A), [rawdoc! { "key": { "b": 1 }, "name": "b_1" }]);
        indexes.remove(A, "*");
        assert!(indexes.of(A).is_empty());
    }
}
