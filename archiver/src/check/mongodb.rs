//! What `check` says of a replica set and its archive.
//!
//! Enters: the set's address, and what the archive says. Leaves: one line a fact. Asks only.

use super::judge::{self, CONNECTION, IDENTITY, chain};
use super::{ArchiveFacts, Line};
use crate::source::mongodb::preflight::{OF_BASES, missing_for_bases, rights};
use crate::source::mongodb::{Class, ConnectOptions, Error, Member, ReplicaSet, SetFacts, start};
use proto::mongodb::SourceMode;

/// With less the log of a weekend's outage is gone on Monday.
const WINDOW_WANTED_HOURS: u32 = 24;
const TESTED: &str = "6.0";

/// Asks the set. The second part is what tells it from another.
pub(super) async fn server(options: &ConnectOptions) -> (Vec<Line>, Option<SetFacts>) {
    let set = match ReplicaSet::find(options).await {
        Ok(set) => set,
        Err(error) => return (vec![refused(&error)], None),
    };
    let mut lines = Vec::new();
    let (member, hello) = &set.members()[0];
    let role = if hello.is_primary { "primary" } else { "secondary" };
    let fact = format!(
        "{} is a {role} of {:?}, {} of whose members answer",
        member.name(),
        hello.set_name,
        set.members().len(),
    );
    lines.push(Line::ok(CONNECTION, fact));
    lines.extend(set.refused().iter().map(|error| {
        Line::warn("member", chain(error), "capture goes on as long as one member answers")
    }));
    let mut allowed = true;
    if let Err(error) = hello.check(member.name(), options.mode) {
        lines.push(refused(&error));
        set.close().await;
        return (lines, None);
    }
    for right in rights(options.mode) {
        match right.ask(member).await {
            Ok(()) => lines.push(Line::ok("right", format!("may {}", right.what))),
            Err(error) => {
                allowed = false;
                lines.push(lacking(&error, right.needed_for, options.mode));
            }
        }
    }
    // A base beside a change stream has no users, and its rights are among those above.
    if options.mode == SourceMode::Oplog {
        lines.extend(rights_of_bases(member).await);
    }
    let mut facts = None;
    if allowed {
        match options.mode {
            SourceMode::Oplog => lines.push(window(member).await),
            SourceMode::ChangeStream => {
                lines.extend(options.mode.not_carried().iter().map(|what| {
                    let remedy = "follow the oplog where local can be read: --source-mode oplog";
                    Line::warn("change-stream", format!("it does not carry {what}"), remedy)
                }))
            }
        }
        match SetFacts::of(member, hello).await {
            Ok(found) => {
                lines.push(version(&found));
                facts = Some(found);
            }
            Err(error) => lines.push(refused(&error)),
        }
    }
    set.close().await;
    (lines, facts)
}

/// What gives a user the rights of a mode.
fn grant(mode: SourceMode) -> &'static str {
    match mode {
        SourceMode::Oplog => "db.grantRolesToUser(…, [{role: \"backup\", db: \"admin\"}])",
        SourceMode::ChangeStream => {
            "db.grantRolesToUser(…, [{role: \"readAnyDatabase\", db: \"admin\"}, {role: \"read\", db: \"config\"}])"
        }
    }
}

/// The stream does without them.
async fn rights_of_bases(member: &Member) -> Vec<Line> {
    let mut lines = Vec::new();
    for right in OF_BASES {
        lines.push(match right.ask(member).await {
            Ok(()) => Line::ok("right", format!("may {}", right.what)),
            Err(error) => lacking(&error, right.needed_for, SourceMode::Oplog),
        });
    }
    // That they cannot be listed has been said.
    let missing = missing_for_bases(member).await.unwrap_or_default();
    lines.extend(missing.iter().map(|error| lacking(error, "a base", SourceMode::Oplog)));
    lines
}

fn lacking(error: &Error, needed_for: &str, mode: SourceMode) -> Line {
    let remedy = format!("it is needed for {needed_for}: {}", grant(mode));
    Line::fail("right", chain(error), remedy)
}

/// How far back the oplog goes: nothing holds it for us.
async fn window(member: &Member) -> Line {
    const CHECK: &str = "oplog-window";
    let ends =
        async { Ok::<_, Error>((start::oldest(member).await?, start::newest(member).await?)) };
    let (oldest, newest) = match ends.await {
        Ok(ends) => ends,
        Err(error) => return refused(&error),
    };
    let hours = newest.ts.seconds().saturating_sub(oldest.ts.seconds()) / 3600;
    let fact =
        format!("the oplog goes back {hours} h: nothing holds it for an archive that is away");
    if hours >= WINDOW_WANTED_HOURS {
        Line::ok(CHECK, fact)
    } else {
        Line::warn(
            CHECK,
            fact,
            "on a set of some age: db.adminCommand({replSetResizeOplog: 1, minRetentionHours: 24})",
        )
    }
}

fn version(facts: &SetFacts) -> Line {
    let fact = format!("MongoDB {}, feature compatibility version {}", facts.version, facts.fcv);
    if facts.version.starts_with(TESTED) {
        Line::ok("version", fact)
    } else {
        Line::warn("version", fact, "pitr is tested with MongoDB 6.0: rehearse restores")
    }
}

fn refused(error: &Error) -> Line {
    let (check, remedy) = match error.class() {
        Class::Retry => (CONNECTION, "is the server running, and is the address right?"),
        Class::Permission => ("right", "grant the user the role backup on admin"),
        Class::Config => (
            "connection-settings",
            "correct the address, user and password (authSource=admin?), or the TLS options",
        ),
        Class::Unsupported => (
            "oplog",
            "a replica set is needed, if only of one member: mongod --replSet, rs.initiate()",
        ),
        Class::WrongSet => (IDENTITY, "correct replicaSet= in the address"),
        Class::LogRemoved | Class::Protocol => (CONNECTION, "see the server's log"),
    };
    Line::fail(check, chain(error), remedy)
}

/// What the store and the archive in it say.
pub(super) fn archive(facts: &ArchiveFacts, set: Option<&SetFacts>, mode: SourceMode) -> Vec<Line> {
    let mut lines = judge::archive(facts, None);
    if let (Some((lineage, Some(identity))), Some(set)) = (&facts.lineage, set) {
        let ours = identity.mongodb().is_some() && identity.cluster == set.id;
        let archived = identity.mongodb().map(|mongodb| mongodb.source_mode);
        lines.extend(archived.filter(|archived| ours && *archived != mode).map(|archived| {
            let fact =
                format!("the archive is of the set's {archived}, and --source-mode is {mode}");
            Line::fail(IDENTITY, fact, "give the archive's mode, or --new-lineage to begin anew")
        }));
        lines.push(if ours {
            Line::ok(IDENTITY, format!("replica set {}, lineage {}", set.name, lineage.0))
        } else {
            Line::fail(
                IDENTITY,
                format!(
                    "the archive is of {} ({}), and this set is {}",
                    identity.cluster, identity.engine, set.id
                ),
                "give another --archive; or --new-lineage, if this set takes the other's place",
            )
        });
    }
    lines
}
