//! Which collections belong to a database as its users see it, and are restored; the rest is the
//! server's own.

/// The database in which a restore keeps its progress while it runs.
pub const PROGRESS_DATABASE: &str = "__pitr";

/// Whether a collection is part of a base and of a replay.
///
/// `local` is one member's own, `config` the set's: sessions, transactions, index builds. Of `admin`
/// the users and roles are restored, and what applications keep there. (mongorestore and other tools
/// keep lists of what they know; a collection that is not known here is a user's, and is kept.)
pub fn is_restored(database: &str, collection: &str) -> bool {
    match database {
        "local" | "config" | PROGRESS_DATABASE => return false,
        _ => {}
    }
    match collection {
        "system.users" | "system.roles" => database == "admin",
        // With it a server knows how the users' credentials are kept.
        "system.version" => database == "admin",
        "system.views" | "system.js" => true,
        _ if collection.starts_with("system.buckets.") => true,
        _ => !collection.starts_with("system."),
    }
}

/// Whether a document of a restored collection is restored. `admin.system.version` also holds the
/// featureCompatibilityVersion, which is the server's own.
pub fn is_restored_document(database: &str, collection: &str, id: Option<&str>) -> bool {
    (database, collection) != ("admin", "system.version") || id == Some("authSchema")
}

/// A namespace's two halves.
pub fn split(namespace: &str) -> (&str, &str) {
    namespace.split_once('.').unwrap_or((namespace, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_keeps_for_itself_is_not_restored() {
        for own in ["local.oplog.rs", "config.transactions", "config.system.indexBuilds"] {
            let (database, collection) = split(own);
            assert!(!is_restored(database, collection), "{own}");
        }
        assert!(!is_restored("admin", "system.keys"));
        assert!(!is_restored("shop", "system.profile"));
        assert!(!is_restored(PROGRESS_DATABASE, "progress"));
        assert!(!is_restored_document(
            "admin",
            "system.version",
            Some("featureCompatibilityVersion")
        ));
    }

    #[test]
    fn what_people_made_is_restored() {
        for theirs in ["shop.orders", "shop.fs.chunks", "admin.system.users", "admin.system.roles"]
        {
            let (database, collection) = split(theirs);
            assert!(is_restored(database, collection), "{theirs}");
        }
        assert!(is_restored("shop", "system.views"));
        assert!(is_restored("shop", "system.buckets.temperature"));
        assert!(is_restored("shop", "a.system.b"));
        assert!(is_restored_document("admin", "system.version", Some("authSchema")));
        assert!(is_restored_document("admin", "system.users", Some("shop.reader")));
    }
}
