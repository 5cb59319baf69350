//! What a database holds, as a hash of each table or collection: the record that a restore is
//! compared with.

use std::collections::{BTreeMap, BTreeSet};

/// By name, `count:hash`: the same for the same content in any order.
pub type Hashes = BTreeMap<String, String>;

/// What differs, in words; empty when nothing does.
pub fn differences(recorded: &Hashes, found: &Hashes) -> Vec<String> {
    let names: BTreeSet<&String> = recorded.keys().chain(found.keys()).collect();
    names
        .into_iter()
        .filter(|name| recorded.get(*name) != found.get(*name))
        .map(|name| match (recorded.get(name), found.get(name)) {
            (Some(before), Some(after)) => format!("{name}: recorded {before}, found {after}"),
            (Some(_), None) => format!("{name} is missing"),
            _ => format!("{name} should not be there"),
        })
        .collect()
}
