//! Whether a set can be protected: asked before anything is begun.
//!
//! Enters: options. Leaves: a member and its set's facts, or an error of the class that it
//! deserves; one line a right. Asks and changes nothing.

use bson::doc;
use proto::mongodb::SourceMode;
use proto::mongodb::scope::is_restored;

use super::changes::{WATCHING, pipeline};
use super::tail::OPLOG;
use super::{Class, ConnectOptions, Error, Hello, Member, ReplicaSet, SetFacts};

/// What a user must be allowed, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Right {
    /// As it completes "the user may not …".
    pub what: &'static str,
    /// Without it this does not work.
    pub needed_for: &'static str,
    database: &'static str,
    command: Command,
}

/// All of them; the role `backup` has them.
pub const RIGHTS: [Right; 4] = [
    Right {
        what: "read local.oplog.rs",
        needed_for: "streaming",
        database: "local",
        command: || doc! { "find": OPLOG, "limit": 1 },
    },
    Right {
        what: "list the collections of config",
        needed_for: "telling this replica set from another",
        database: "config",
        command: || doc! { "listCollections": 1, "nameOnly": false, "filter": { "name": "transactions" } },
    },
    Right {
        what: "read config.transactions",
        needed_for: "a first position that no open transaction crosses",
        database: "config",
        command: || doc! { "find": "transactions", "limit": 1 },
    },
    Right {
        what: "read the feature compatibility version",
        needed_for: "what a restore needs to know of the servers",
        database: "admin",
        command: || doc! { "getParameter": 1, "featureCompatibilityVersion": 1 },
    },
];

/// What a change stream needs; `readAnyDatabase` on admin and `read` on config have them.
pub const RIGHTS_OF_CHANGE_STREAMS: [Right; 3] = [
    Right {
        what: WATCHING,
        needed_for: "streaming",
        database: "admin",
        command: || doc! { "aggregate": 1, "pipeline": pipeline(None, false), "cursor": { "batchSize": 0 } },
    },
    Right {
        what: "list the databases",
        needed_for: "bases",
        database: "admin",
        command: || doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": false },
    },
    RIGHTS[1],
];

/// The rights that following a set needs.
pub const fn rights(mode: SourceMode) -> &'static [Right] {
    match mode {
        SourceMode::Oplog => &RIGHTS,
        SourceMode::ChangeStream => &RIGHTS_OF_CHANGE_STREAMS,
    }
}

/// What a base needs besides; `backup` has it too. Only `pitrd check` asks for it: a stream goes on
/// without.
pub const OF_BASES: [Right; 3] = [
    Right {
        what: "list all databases",
        needed_for: "a base that leaves no database out",
        database: "admin",
        // Otherwise a server lists those that the user may see, and says nothing of the others.
        command: || doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": false },
    },
    Right {
        what: "read the users of all databases",
        needed_for: "a base with the users",
        database: "admin",
        command: || doc! { "find": "system.users", "limit": 1 },
    },
    Right {
        what: "read the roles of all databases",
        needed_for: "a base with the roles",
        database: "admin",
        command: || doc! { "find": "system.roles", "limit": 1 },
    },
];

/// Of each database that a base holds.
/// The right is one of the database: it is asked for by a name that no collection bears.
const OF_A_DATABASE: [(&str, Command); 3] = [
    ("list the collections of every database", || doc! { "listCollections": 1 }),
    ("read every collection", || doc! { "find": NO_COLLECTION, "limit": 1 }),
    ("list the indexes of every collection", || doc! { "listIndexes": NO_COLLECTION }),
];
const NO_COLLECTION: &str = "pitr.nobody.made.this";
type Command = fn() -> bson::Document;

/// What a base cannot read, database by database: the server's answers.
///
/// # Errors
/// When the databases cannot be listed.
pub async fn missing_for_bases(member: &Member) -> Result<Vec<Error>, Error> {
    let [list, ..] = OF_BASES;
    let listed = member.run(list.what, list.database, (list.command)()).await?;
    let missing = || Error::Answer { member: member.name().to_owned(), field: "databases" };
    let mut found = Vec::new();
    for database in listed.get_array("databases").map_err(|_| missing())? {
        let name = database.as_document().and_then(|database| database.get_str("name").ok());
        let Some(name) = name.filter(|name| is_restored(name, "")) else { continue };
        for (what, command) in OF_A_DATABASE {
            // That the collection is not there is no answer to this.
            match member.run(what, name, command()).await {
                Err(error) if error.class() == Class::Permission => found.push(error),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// A member that can be used, and its set.
#[derive(Debug)]
pub struct Found {
    pub member: Member,
    pub hello: Hello,
    pub facts: SetFacts,
}

/// Connects and looks whether the oplog can be read.
///
/// # Errors
/// The first thing that is wrong, with what and where.
pub async fn connect(options: &ConnectOptions) -> Result<Found, Error> {
    let (member, hello) = ReplicaSet::find(options).await?.keep(0).await;
    if let Err(error) = hello.check(member.name(), options.mode) {
        member.close().await;
        return Err(error);
    }
    for right in rights(options.mode) {
        if let Err(error) = right.ask(&member).await {
            member.close().await;
            return Err(error);
        }
    }
    match SetFacts::of(&member, &hello).await {
        Ok(facts) => Ok(Found { member, hello, facts }),
        Err(error) => {
            member.close().await;
            Err(error)
        }
    }
}

impl Right {
    /// Whether the user has it.
    ///
    /// # Errors
    /// [`Error::NoRight`] when it does not; others when the member cannot be asked.
    pub async fn ask(&self, member: &Member) -> Result<(), Error> {
        member.run(self.what, self.database, (self.command)()).await.map(drop)
    }
}
