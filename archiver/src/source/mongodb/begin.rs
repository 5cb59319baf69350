//! A replica set's lineage: found by what tells the set from every other one, or begun at the oldest
//! entry that a base needs.
//!
//! Enters: a set and an archive. Leaves: a lineage that is the set's. Nothing is made on the servers.

use proto::archive::identity::{FORMAT_VERSION, Identity, MongoIdentity};
use proto::archive::layout::Lineage;
use proto::archive::ledger::{self, Event};
use proto::mongodb::SourceMode;
use proto::segment::Engine;

use super::capture::CaptureError;
use super::{Found, Mongodb, SetFacts, preflight, start};
use crate::begin::{self, Opened};
use crate::pipeline::{Ground, PipelineError};

/// The version that pitr is tested with.
const TESTED: &str = "6.0";

/// Finds or creates the lineage of the set.
///
/// # Errors
/// [`CaptureError::WrongSet`] when the archive is another set's.
pub(super) async fn open(
    source: &Mongodb,
    ground: &Ground,
    new_lineage: bool,
) -> Result<Opened, PipelineError> {
    let found = preflight::connect(&source.options).await.map_err(CaptureError::from)?;
    if !found.facts.version.starts_with(TESTED) {
        tracing::warn!(
            version = found.facts.version,
            "pitr is tested with MongoDB {TESTED}: rehearse restores of this version"
        );
    }
    let opened = open_for(&found, source.options.mode, ground, new_lineage).await;
    found.member.close().await;
    opened
}

async fn open_for(
    found: &Found,
    mode: SourceMode,
    ground: &Ground,
    new_lineage: bool,
) -> Result<Opened, PipelineError> {
    let newest = match begin::newest(&*ground.store).await? {
        Some((lineage, identity)) if !new_lineage => {
            check_ours(&identity, found)?;
            check_mode(&identity, mode)?;
            note_version(ground, lineage, &identity, &found.facts).await?;
            return Ok(Opened { lineage, identity, fresh: false });
        }
        newest => newest,
    };
    let first = match mode {
        SourceMode::Oplog => start::first_entry(&found.member).await.map_err(CaptureError::from)?,
        // A transaction's events have the time of its commit.
        SourceMode::ChangeStream => found.hello.majority,
    };
    let SetFacts { id, name, version, fcv } = found.facts.clone();
    let identity = Identity {
        format: FORMAT_VERSION,
        engine: Engine::Mongodb,
        cluster: id,
        created: ground.clock.wall(),
        postgres: None,
        mongodb: Some(MongoIdentity { version, fcv, set_name: name, first, source_mode: mode }),
    };
    let lineage = begin::next(newest.as_ref());
    let (opened, features) = begin::create(ground, lineage, identity).await?;
    check_ours(&opened.identity, found)?;
    check_mode(&opened.identity, mode)?;
    begin::record(ground, &opened, features).await?;
    Ok(opened)
}

/// Entries and events are not the same log: one lineage holds one kind.
///
/// # Errors
/// When the lineage is of the other one.
fn check_mode(identity: &Identity, asked: SourceMode) -> Result<(), CaptureError> {
    let archived = identity.mongodb().map(|mongodb| mongodb.source_mode).unwrap_or_default();
    if archived == asked { Ok(()) } else { Err(CaptureError::OtherMode { archived, asked }) }
}

/// A restore is done with the version that wrote the log: which that was, and when, is kept.
async fn note_version(
    ground: &Ground,
    lineage: Lineage,
    identity: &Identity,
    facts: &SetFacts,
) -> Result<(), PipelineError> {
    let ledger = ledger::read(&*ground.store, lineage).await?;
    let told = ledger.entries.iter().rev().find_map(|entry| match &entry.event {
        Event::Server { release, fcv } => Some((release.clone(), fcv.clone())),
        _ => None,
    });
    let first = || identity.mongodb().map(|first| (first.version.clone(), Some(first.fcv.clone())));
    let now = (facts.version.clone(), Some(facts.fcv.clone()));
    if told.or_else(first).is_some_and(|told| told != now) {
        let (release, fcv) = now;
        tracing::warn!(release, fcv, "the servers run another version than before");
        let event = Event::Server { release, fcv };
        ledger::append(&*ground.store, lineage, ground.clock.wall(), event).await?;
    }
    Ok(())
}

/// # Errors
/// When the identity is that of another engine or set.
pub(super) fn check_ours(identity: &Identity, found: &Found) -> Result<(), CaptureError> {
    if identity.mongodb().is_some() && identity.cluster == found.facts.id {
        return Ok(());
    }
    let (name, member) = (&found.facts.name, found.member.name().to_owned());
    Err(CaptureError::WrongSet {
        expected: format!("{} ({})", identity.cluster, identity.engine),
        found: format!("{} ({name})", found.facts.id),
        member,
    })
}
