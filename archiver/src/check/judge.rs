//! What the facts of `check` mean. Decides only.

use std::error::Error as StdError;

use proto::archive::ArchiveError;
use proto::store::{self, StoreError};

use super::ask::{ArchiveFacts, Count, ServerFacts};
use super::{Level, Line};
use crate::cli::Exit;
use crate::source::postgres::{Class, Error, SyncState, WalStatus};

const VERSIONS: std::ops::RangeInclusive<u32> = 14..=18;
/// One streams, one takes a base.
const SENDERS_NEEDED: u64 = 2;

pub(super) const CONNECTION: &str = "connection";
const STORE: &str = "store";
pub(super) const IDENTITY: &str = "identity";

/// The exit code that says what the lines say.
pub fn exit(lines: &[Line]) -> Exit {
    let failed = |check: &str| lines.iter().any(|l| l.level == Level::Fail && l.check == check);
    match () {
        () if lines.iter().all(|line| line.level < Level::Fail) => Exit::Done,
        () if failed(IDENTITY) => Exit::WrongCluster,
        () if failed(CONNECTION) || failed(STORE) => Exit::Unreachable,
        () => Exit::Config,
    }
}

/// An error and what caused it, on one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

pub fn no_server(error: &Error) -> Line {
    let (check, remedy) = match error.class() {
        Class::Retry => (CONNECTION, "is the server running, and is the address right?"),
        Class::Permission => (
            "replication-right",
            "give the role the right: ALTER ROLE … REPLICATION; GRANT pg_monitor TO …",
        ),
        Class::Config => (
            "connection-settings",
            "the role needs LOGIN and REPLICATION, and pg_hba.conf one line for `replication` and \
             one for the database that the address names",
        ),
        _ => (CONNECTION, "see the server's log"),
    };
    Line::fail(check, chain(error), remedy)
}

pub fn server(facts: &ServerFacts) -> Vec<Line> {
    let mut lines = vec![Line::ok(
        CONNECTION,
        format!("{}, {}", facts.endpoint, if facts.tls { "TLS" } else { "without TLS" }),
    )];
    lines.push(version(facts));
    lines.push(Line::ok("replication-right", "the role may replicate"));
    lines.push(match facts.may_monitor {
        true => Line::ok("monitor-right", "the role sees settings and replication"),
        false => Line::warn(
            "monitor-right",
            "the role is no member of pg_monitor: slots, settings and synchronous state are guessed",
            "GRANT pg_monitor TO the role",
        ),
    });
    lines.push(match facts.in_recovery {
        false => Line::ok("role", format!("primary on timeline {}", facts.system.timeline)),
        true => Line::warn(
            "role",
            format!("standby on timeline {}", facts.system.timeline),
            "pitrd run waits beside a standby until it is promoted, or use --from-standby",
        ),
    });
    lines.extend(settings(facts));
    lines.extend(slots(facts));
    lines.push(synchronous(facts));
    lines
}

fn version(facts: &ServerFacts) -> Line {
    let (major, minor) = (facts.version / 10_000, facts.version % 10_000);
    let fact = format!("PostgreSQL {major}.{minor}");
    if VERSIONS.contains(&major) {
        return Line::ok("version", fact);
    }
    Line::warn("version", fact, "tested with 14 to 18: practise a restore before you rely on it")
}

fn settings(facts: &ServerFacts) -> Vec<Line> {
    let settings = &facts.settings;
    let level = settings.wal_level.clone();
    let mut lines = vec![match level.as_str() {
        "minimal" => Line::fail("wal_level", level, "set wal_level = replica and restart"),
        _ => Line::ok("wal_level", level),
    }];
    lines.push(match settings.full_page_writes {
        true => Line::ok("full_page_writes", "on"),
        false => Line::warn(
            "full_page_writes",
            "off: a torn page in a base cannot be repaired from the log",
            "set full_page_writes = on",
        ),
    });
    lines.push(match settings.data_checksums {
        true => Line::ok("data_checksums", "on"),
        false => Line::warn(
            "data_checksums",
            "off: a page that the disk damaged is copied unnoticed",
            "pg_checksums --enable, with the server stopped",
        ),
    });
    lines.push(match settings.max_slot_wal_keep_size {
        Some(size) => Line::ok("max_slot_wal_keep_size", size.to_string()),
        None => Line::warn(
            "max_slot_wal_keep_size",
            "no limit: if pitrd is away for long, its slot fills the server's disk",
            "set max_slot_wal_keep_size to what the disk can spare: beyond it the slot is lost, \
             which pitrd run records as a gap and answers with a new base",
        ),
    });
    lines
}

fn slots(facts: &ServerFacts) -> Vec<Line> {
    let name = &facts.slot_name;
    let free = |count: Count| count.max.saturating_sub(count.used);
    let Some(slot) = &facts.slot else {
        let Count { used, max } = facts.slots;
        let fact = format!("{name:?} does not exist yet; {used} of {max} slots are used");
        let slot = match free(facts.slots) {
            0 => Line::fail("slot", fact, "raise max_replication_slots, or drop a slot not needed"),
            _ => Line::ok("slot", fact),
        };
        return vec![slot, senders(facts, SENDERS_NEEDED)];
    };
    let user = if slot.active { "in use" } else { "not in use" };
    let restart = slot.restart.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string());
    let fact = format!("{name:?} holds the log from {restart}, {user}");
    let slot_line = match slot.status {
        Some(WalStatus::Lost) => Line::fail(
            "slot",
            format!("{name:?} is lost: the server has removed log that was not archived"),
            "start pitrd run: it records the gap, makes a new slot and takes a new base",
        ),
        Some(WalStatus::Unreserved) => Line::warn(
            "slot",
            format!("{fact}; the next checkpoint may lose it"),
            "start pitrd run now",
        ),
        _ if slot.restart.is_none() => Line::fail(
            "slot",
            format!("{name:?} reserves nothing"),
            "drop it: pitrd run makes one that does",
        ),
        _ => Line::ok("slot", fact),
    };
    vec![slot_line, senders(facts, if slot.active { 1 } else { SENDERS_NEEDED })]
}

fn senders(facts: &ServerFacts, needed: u64) -> Line {
    let Count { used, max } = facts.senders;
    let fact = format!("{used} of {max} walsenders are used");
    match max.saturating_sub(used) {
        free if free >= needed => Line::ok("walsenders", fact),
        0 => Line::fail("walsenders", fact, "raise max_wal_senders and restart"),
        _ => Line::warn("walsenders", fact, "raise max_wal_senders: a base needs one of its own"),
    }
}

/// A server that waits for us stands still when we do.
fn synchronous(facts: &ServerFacts) -> Line {
    const CHECK: &str = "synchronous_standby_names";
    let names = &facts.settings.synchronous_standby_names;
    let counted = matches!(facts.sync, Some(SyncState::Sync | SyncState::Quorum));
    if counted || names_match(names, &facts.application_name) {
        return Line::warn(
            CHECK,
            format!("{names:?} counts {:?}: commits would wait for pitrd", facts.application_name),
            "name the standbys one by one, or put application_name=… into the source's address; \
             or mean it, with --synchronous",
        );
    }
    let fact = if names.is_empty() { "none".to_owned() } else { format!("{names:?}") };
    Line::ok(CHECK, fact)
}

/// Whether a list such as `FIRST 2 (a, "b c")` or `*` may take a standby of this name
/// (syncrep_gram.y; names compare without regard to case).
fn names_match(list: &str, name: &str) -> bool {
    let list = match list.split_once('(') {
        Some((_, names)) => names.trim_end().trim_end_matches(')'),
        None => list,
    };
    list.split(',')
        .map(|entry| entry.trim().trim_matches('"'))
        .any(|entry| entry == "*" || (!entry.is_empty() && entry.eq_ignore_ascii_case(name)))
}

pub fn no_archive(address: &str, error: &ArchiveError) -> Line {
    let remedy = match error.class() {
        store::Class::Config => "check address, credentials and rights: create, read and list",
        store::Class::Retry => "is the store reachable from here?",
        _ => "run pitr verify on it before anything else",
    };
    // An address that was refused may hold a secret: its error shows what may be shown.
    let fact = match error {
        ArchiveError::Store(error @ StoreError::Address { .. }) => error.to_string(),
        _ => format!("{address}: {}", chain(error)),
    };
    let check = if error.class() == store::Class::Config { "store-settings" } else { STORE };
    Line::fail(check, fact, remedy)
}

pub fn archive(facts: &ArchiveFacts, server: Option<&ServerFacts>) -> Vec<Line> {
    let missing = facts.features.missing();
    let mut lines = vec![match missing.as_slice() {
        [] => Line::ok(STORE, format!("{} creates objects once, as it must", facts.address)),
        _ => Line::fail(
            "store-features",
            format!("{} lacks {}", facts.address, missing.join("; ")),
            "use a store that has it: without it two writers could not be kept apart",
        ),
    }];
    let Some((lineage, identity)) = &facts.lineage else {
        lines.push(Line::ok(IDENTITY, "the archive is empty: pitrd run begins it"));
        return lines;
    };
    let Some(identity) = identity else {
        let fact = format!("lineage {} has no identity", lineage.0);
        lines.push(Line::fail(IDENTITY, fact, "was something deleted by hand? run pitr verify"));
        return lines;
    };
    let Some(server) = server else { return lines };
    let cluster = server.system.system_id.to_string();
    let postgres = identity.postgres();
    lines.push(if identity.cluster != cluster {
        Line::fail(
            IDENTITY,
            format!("the archive is of cluster {}, and this server is {cluster}", identity.cluster),
            "give another --archive; or --new-lineage, if this server takes the other's place",
        )
    } else if postgres.is_some_and(|p| p.version_num / 10_000 != server.version / 10_000) {
        Line::fail(
            IDENTITY,
            "the server has another major version than the archive's log",
            "pitrd run --new-lineage, after pg_upgrade",
        )
    } else if postgres.is_some_and(|p| p.segment_bytes != server.segment_size) {
        Line::fail(
            IDENTITY,
            "the server has another WAL segment size than the archive",
            "pitrd run --new-lineage",
        )
    } else {
        Line::ok(IDENTITY, format!("cluster {cluster}, lineage {}", lineage.0))
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_list_of_synchronous_standbys_is_found() {
        for list in ["*", "pitr", "a, PITR", "FIRST 2 (a, \"pitr\")", "ANY 1 (*)", "2 (b,pitr)"] {
            assert!(names_match(list, "pitr"), "{list}");
        }
        for list in ["", "a, b", "FIRST 1 (pitr2)", "ANY 2 (a, b)"] {
            assert!(!names_match(list, "pitr"), "{list}");
        }
    }

    #[test]
    fn the_exit_code_tells_the_worst() {
        let ok = Line::ok("a", "");
        let warn = Line::warn("b", "", "");
        let fail = |check| Line::fail(check, "", "");
        assert_eq!(exit(&[ok.clone(), warn.clone()]), Exit::Done);
        assert_eq!(exit(&[ok.clone(), fail("wal_level")]), Exit::Config);
        assert_eq!(exit(&[fail(CONNECTION), fail("wal_level")]), Exit::Unreachable);
        assert_eq!(exit(&[ok, warn, fail(IDENTITY), fail(STORE)]), Exit::WrongCluster);
    }
}
