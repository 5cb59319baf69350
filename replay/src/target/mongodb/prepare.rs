//! Before and behind a restore: a target that is empty, and one that keeps no trace of it.
//!
//! Enters: a target and what is to be restored. Leaves: a target that holds nothing but the
//! progress of this restore, or a refusal that changed nothing. One that holds the progress of the
//! same restore goes on with it.

use bson::{Document, RawArrayBuf, doc, rawdoc};

use proto::mongodb::scope::PROGRESS_DATABASE;

use super::error::{ReplayError, code, code_of};
use super::operation::operation;
use super::target::{Confirm, Target, keep};

const RESTORE: &str = "restore";

/// What a restore finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Empty,
    /// The same restore, interrupted.
    Begun,
}

/// Makes a target ready. `what` tells this restore from another one: archive, base and moment.
///
/// # Errors
/// When the target is no primary, is not empty, or holds another restore that was interrupted.
pub async fn prepare(client: &mongodb::Client, what: &str) -> Result<Found, ReplayError> {
    let target = Target::new(client.clone());
    let hello = target.run("admin", "hello", doc! { "hello": 1 }).await?;
    let primary = hello.get_bool("isWritablePrimary").unwrap_or(false);
    if !primary || hello.get_str("setName").is_err() {
        return Err(ReplayError::NotPrimary);
    }
    may_apply(&target).await?;
    let found = match begun(&target).await? {
        Some(found) if found == what => Found::Begun,
        Some(found) => return Err(ReplayError::OtherRestore { found }),
        None => {
            if let Some(found) = contents(&target).await? {
                return Err(ReplayError::NotEmpty { found });
            }
            let create = rawdoc! { "create": "progress" };
            target.create(PROGRESS_DATABASE, &create).await?;
            let restore = keep(rawdoc! { "_id": RESTORE, "what": what });
            target.apply_one(&restore, "keeping the progress").await?;
            Found::Empty
        }
    };
    // What is older than the present would be deleted from under the replay.
    let pause = doc! { "setParameter": 1, "ttlMonitorEnabled": false };
    target.run("admin", "pausing the deletion of expired documents", pause).await?;
    Ok(found)
}

/// Takes the progress away: the restore is whole.
///
/// # Errors
/// When the target fails.
pub async fn conclude(client: &mongodb::Client) -> Result<(), ReplayError> {
    let target = Target::new(client.clone());
    let concern = doc! { "w": "majority" };
    let drop = doc! { "dropDatabase": 1, "writeConcern": concern };
    target.run(PROGRESS_DATABASE, "removing the progress", drop).await.map(|_| ())
}

/// Asks for an update in a collection that is not there, which is refused for the one reason or for
/// the other. (The role `restore` may apply everything but updates.)
async fn may_apply(target: &Target) -> Result<(), ReplayError> {
    let nowhere = format!("{PROGRESS_DATABASE}.nothing");
    let nothing = rawdoc! { "$v": 2, "diff": { "d": { "_": false } } };
    let mut operations = RawArrayBuf::new();
    operations.push(operation("u", &nowhere, &nothing, Some(&rawdoc! { "_id": 0 })));
    match target.apply(&operations, Confirm::Applied).await {
        Err(source) if code_of(&source) == Some(code::UNAUTHORIZED) => {
            Err(ReplayError::NoRight { source: Box::new(source) })
        }
        // What else there is to say is said by what follows.
        _ => Ok(()),
    }
}

async fn begun(target: &Target) -> Result<Option<String>, ReplayError> {
    let progress = target.progress().await?;
    let restore = progress.iter().find(|kept| kept.get_str("_id").ok() == Some(RESTORE));
    let what = restore.and_then(|restore: &Document| restore.get_str("what").ok());
    Ok(what.map(str::to_owned))
}

/// Something that a user of the target has made, if there is anything.
async fn contents(target: &Target) -> Result<Option<String>, ReplayError> {
    let asking = || ReplayError::target("listing what the target has");
    let names = target.client().list_database_names().await.map_err(asking())?;
    let own = ["admin", "config", "local", PROGRESS_DATABASE];
    if let Some(name) = names.iter().find(|name| !own.contains(&name.as_str())) {
        return Ok(Some(format!("database {name:?}")));
    }
    let admin = target.client().database("admin").list_collection_names().await;
    let theirs = admin.map_err(asking())?.into_iter().find(|name| !name.starts_with("system."));
    Ok(theirs.map(|name| format!("collection admin.{name}")))
}
