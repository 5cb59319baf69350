//! Where a lineage's log comes from: the oplog itself, or change streams, which carry less
//! (docs/decisions/0014-change-streams-as-a-log.md).

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::scope::is_restored;

/// What the documents of a log are.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum SourceMode {
    /// Entries of `local.oplog.rs`: everything.
    #[default]
    Oplog,
    /// Events of a change stream of the whole deployment.
    ChangeStream,
}

/// What a change stream does not carry, as people are told it.
const NOT_CARRIED: [&str; 7] = [
    "users, roles and everything else in admin",
    "time-series collections and system.js",
    "the documents of a collection that convertToCapped makes anew, until the next base",
    "the order of fields that an update moves",
    "before MongoDB 6.1: whether a dotted path of an update is a path or a name, unless the collection has changeStreamPreAndPostImages",
    "events of more than 16 MB (of updates with images: both together): a gap and a new base",
    "names that pitrd point or appendOplogNote give",
];

impl SourceMode {
    pub const fn is_oplog(&self) -> bool {
        matches!(self, Self::Oplog)
    }

    /// What cannot be restored from such a log, or not exactly.
    pub const fn not_carried(self) -> &'static [&'static str] {
        match self {
            Self::Oplog => &[],
            Self::ChangeStream => &NOT_CARRIED,
        }
    }

    /// Whether a collection can be followed, and so belongs to a base.
    ///
    /// A change stream of the deployment shows neither `admin` nor collections whose names begin
    /// with `system.`; views it tells as commands.
    pub fn carries(self, database: &str, collection: &str) -> bool {
        let system = collection.starts_with("system.") && collection != "system.views";
        let carried = self.is_oplog() || (database != "admin" && !system);
        carried && is_restored(database, collection)
    }
}

impl fmt::Display for SourceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oplog => "oplog",
            Self::ChangeStream => "change-stream",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_stream_carries_what_it_shows_and_nothing_else() {
        let carried = |database, collection| {
            [SourceMode::Oplog, SourceMode::ChangeStream]
                .map(|mode| mode.carries(database, collection))
        };
        assert_eq!(carried("shop", "orders"), [true, true]);
        assert_eq!(carried("shop", "system.views"), [true, true]);
        assert_eq!(carried("shop", "system.buckets.readings"), [true, false]);
        assert_eq!(carried("shop", "system.js"), [true, false]);
        assert_eq!(carried("admin", "system.users"), [true, false]);
        assert_eq!(carried("local", "oplog.rs"), [false, false]);
    }
}
