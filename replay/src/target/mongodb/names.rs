//! Which collection bears which name in the target.
//!
//! Enters: the base's catalog, and creates, drops and renames in the order of the log. Leaves: what
//! is to be done in the target. Pure: a restore that is resumed walks the log again and comes to the
//! same names.
//!
//! Collections are told apart by the UUIDs that they have on the source, never by name. The catalog
//! of a base is read somewhat later than its start, so that the first entries may be of things that
//! it shows already, or that were gone when it was read:
//! - a create of a collection that is known is done already;
//! - a rename counts only from the name that the collection bears now;
//! - a create or rename that would give a name to a second collection is of one that was gone when
//!   the catalog was read (else that would show it, and the other one elsewhere): it and all its
//!   entries are left out. Behind the base's stop this cannot be, and is an error.

use std::collections::{BTreeMap, HashSet};

use proto::mongodb::base::Uuid;

/// What is to be done in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing: it is so already.
    None,
    /// The collection under the new name is not there or was dropped by the same entry.
    Create,
    Rename {
        from: String,
        to: String,
        /// One that bears the name is dropped by the same entry.
        drop: Option<Uuid>,
    },
    Drop(String),
    /// The name is another collection's.
    Taken,
}

#[derive(Debug, Default)]
pub(super) struct Names {
    by_uuid: BTreeMap<Uuid, String>,
    by_name: BTreeMap<String, Uuid>,
    /// Collections that were gone before the base's catalog was read.
    gone: HashSet<Uuid>,
}

impl Names {
    pub(super) fn insert(&mut self, uuid: Uuid, name: String) {
        self.by_name.insert(name.clone(), uuid);
        self.by_uuid.insert(uuid, name);
    }

    pub(super) fn name(&self, uuid: Uuid) -> Option<&str> {
        self.by_uuid.get(&uuid).map(String::as_str)
    }

    pub(super) fn at(&self, name: &str) -> Option<Uuid> {
        self.by_name.get(name).copied()
    }

    /// Whether its entries are left out because it was gone when the base was taken.
    pub(super) fn is_gone(&self, uuid: Uuid) -> bool {
        self.gone.contains(&uuid)
    }

    pub(super) fn set_gone(&mut self, uuid: Uuid) {
        self.gone.insert(uuid);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Uuid, &str)> {
        self.by_uuid.iter().map(|(uuid, name)| (*uuid, name.as_str()))
    }

    pub(super) fn create(&mut self, uuid: Uuid, name: &str) -> Change {
        if self.by_uuid.contains_key(&uuid) || self.gone.contains(&uuid) {
            return Change::None;
        }
        if self.by_name.contains_key(name) {
            return Change::Taken;
        }
        self.insert(uuid, name.to_owned());
        Change::Create
    }

    pub(super) fn drop(&mut self, uuid: Uuid) -> Change {
        match self.remove(uuid) {
            Some(name) => Change::Drop(name),
            None => Change::None,
        }
    }

    /// `dropped`: the collection that the entry says is dropped for it.
    pub(super) fn rename(
        &mut self,
        uuid: Uuid,
        from: &str,
        to: &str,
        dropped: Option<Uuid>,
    ) -> Change {
        if self.name(uuid) != Some(from) || from == to {
            return Change::None;
        }
        let there = self.at(to);
        if there.is_some() && there != dropped {
            return Change::Taken;
        }
        if let Some(there) = there {
            self.remove(there);
        }
        self.remove(uuid);
        self.insert(uuid, to.to_owned());
        Change::Rename { from: from.to_owned(), to: to.to_owned(), drop: there }
    }

    fn remove(&mut self, uuid: Uuid) -> Option<String> {
        let name = self.by_uuid.remove(&uuid)?;
        self.by_name.remove(&name);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid([1; 16]);
    const B: Uuid = Uuid([2; 16]);

    fn names(known: &[(Uuid, &str)]) -> Names {
        let mut names = Names::default();
        for (uuid, name) in known {
            names.insert(*uuid, (*name).to_owned());
        }
        names
    }

    #[test]
    fn a_rename_that_the_catalog_shows_already_is_not_done_again() {
        let mut names = names(&[(A, "d.new")]);
        assert_eq!(names.rename(A, "d.old", "d.new", None), Change::None);
        assert_eq!(names.name(A), Some("d.new"));
        let to = Change::Rename { from: "d.new".into(), to: "d.last".into(), drop: None };
        assert_eq!(names.rename(A, "d.new", "d.last", None), to);
    }

    #[test]
    fn a_rename_drops_the_collection_that_it_says_and_no_other() {
        let mut known = names(&[(A, "d.tmp"), (B, "d.big")]);
        let to = Change::Rename { from: "d.tmp".into(), to: "d.big".into(), drop: Some(B) };
        assert_eq!(known.rename(A, "d.tmp", "d.big", Some(B)), to);
        assert_eq!((known.name(A), known.name(B)), (Some("d.big"), None));

        let mut known = names(&[(A, "d.tmp"), (B, "d.big")]);
        assert_eq!(known.rename(A, "d.tmp", "d.big", Some(Uuid([3; 16]))), Change::Taken);
        assert_eq!(known.name(B), Some("d.big"));
    }

    #[test]
    fn what_was_dropped_before_the_catalog_was_read_never_takes_the_name_of_its_successor() {
        let mut names = names(&[(B, "d.orders")]);
        assert_eq!(names.create(A, "d.orders"), Change::Taken);
        names.set_gone(A);
        assert_eq!(names.drop(A), Change::None);
        assert_eq!(names.create(B, "d.orders"), Change::None);
        assert_eq!(names.at("d.orders"), Some(B));
    }

    #[test]
    fn a_name_that_was_dropped_can_be_taken_anew() {
        let mut names = names(&[(A, "d.orders")]);
        assert_eq!(names.drop(A), Change::Drop("d.orders".into()));
        assert_eq!(names.create(B, "d.orders"), Change::Create);
        assert_eq!(names.at("d.orders"), Some(B));
    }
}
