//! The whole of a restore of a MongoDB replica set, in the order of its phases.
//!
//! Enters: a plan, the archive that it is of, and a place. Leaves: a replica set, or a folder of a
//! stopped server, with what the source had at the moment. A restore that was interrupted goes on
//! when it is repeated; one into a place that holds anything else is refused.

use std::path::{Path, PathBuf};

use mongodb::Client;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use proto::archive::base::Complete;
use proto::position::ByteCount;

use super::error::ReplayError;
use super::load::{BaseFolder, load};
use super::prepare::{conclude, prepare};
use super::replay::{Replay, Replayed};
use super::server::{Own, OwnServer};
use crate::catalog::mongodb::OplogArchive;
use crate::fetch::WORK_FOLDER;
use crate::fetch::place::Owner;
use crate::plan::mongodb::OplogPlan;
use crate::target::postgres::owner;
use crate::target::progress::Progress;

/// Where to.
#[derive(Debug, Clone)]
pub enum Into {
    /// A replica set that runs and is empty.
    Server(String),
    /// A folder that is absent or empty, and a server of ours in it.
    Folder {
        folder: PathBuf,
        mongod: Option<PathBuf>,
        port: Option<u16>,
        start: bool,
        run_as: Option<String>,
    },
}

/// What a restore has done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub into: String,
    pub asked: String,
    pub base: String,
    /// The last entry of the log that is in.
    pub at: proto::mongodb::OplogTs,
    pub operations: u64,
    pub collections: usize,
    /// Collections from which documents expire: nothing is deleted while `ttlMonitorEnabled` is
    /// false, which the restore has set.
    pub expiring: Vec<String>,
    /// What is not as the source had it, or not for certain: of a log from a change stream.
    pub not_exact: Vec<String>,
    /// How to go on.
    pub next: String,
}

impl Report {
    pub fn text(&self) -> String {
        let mut lines = vec![
            format!("restored   {} into {}", self.asked, self.into),
            format!("last entry {}", self.at),
            format!("replayed   {} operations onto base {}", self.operations, self.base),
            format!("holds      {} collections", self.collections),
        ];
        if !self.expiring.is_empty() {
            lines.push(format!("note       documents expire from {}", self.expiring.join(", ")));
        }
        lines.extend(self.not_exact.iter().map(|what| format!("NOT EXACT  {what}")));
        lines.push(format!("next       {}", self.next));
        lines.join("\n") + "\n"
    }
}

/// Restores by `plan`.
///
/// # Errors
/// [`ReplayError`], whose `exit` and `next` tell what to do.
pub async fn restore(
    archive: &OplogArchive,
    plan: &OplogPlan,
    into: &Into,
    progress: &dyn Progress,
    interrupted: &CancellationToken,
) -> Result<Report, ReplayError> {
    let work = Box::pin(restore_into(archive, plan, into, progress));
    tokio::select! {
        done = work => done,
        () = interrupted.cancelled() => Err(ReplayError::Interrupted),
    }
}

async fn restore_into(
    archive: &OplogArchive,
    plan: &OplogPlan,
    into: &Into,
    progress: &dyn Progress,
) -> Result<Report, ReplayError> {
    let base = archive.bases.iter().find(|base| base.id == plan.base.id);
    let base = base.ok_or_else(|| ReplayError::Object {
        object: format!("{}/complete.json", plan.base.id),
        detail: "it is gone".to_owned(),
    })?;
    match into {
        Into::Server(url) => {
            let client = Client::with_uri_str(url).await;
            let client = client.map_err(ReplayError::target("connecting to the target"))?;
            let mut report = rebuild(archive, plan, base, &client, progress).await?;
            conclude(&client).await?;
            report.into = shown(url);
            report.next = "documents expire again after db.adminCommand({setParameter: 1, \
                           ttlMonitorEnabled: true})"
                .to_owned();
            Ok(report)
        }
        Into::Folder { folder, mongod, port, start, run_as } => {
            let owner = run_as.as_deref().map(owner_of).transpose()?.flatten();
            make_folder(folder, &plan.what())?;
            let own = Own::new(folder, mongod.clone(), *port, owner)?;
            in_folder(archive, plan, base, (&own, *start), progress).await
        }
    }
}

/// In a folder: as a set of one while it is restored, and of no set behind it.
async fn in_folder(
    archive: &OplogArchive,
    plan: &OplogPlan,
    base: &Complete,
    (own, start): (&Own, bool),
    progress: &dyn Progress,
) -> Result<Report, ReplayError> {
    let set = base.mongodb().set_name.as_str();
    let mut server = own.start(Some(set)).await?;
    own.initiate(&mut server, set).await?;
    let mut report = match whole(&own.folder) {
        Some(report) => report,
        None => {
            let report = rebuild(archive, plan, base, &server.client, progress).await?;
            note_whole(&own.folder, &report)?;
            report
        }
    };
    conclude(&server.client).await?;
    let folder = own.folder.display();
    report.into = folder.to_string();
    if start {
        let pid = server.leave();
        let port = own.port;
        report.next = format!(
            "mongosh \"mongodb://127.0.0.1:{port}/?directConnection=true\" (process {})",
            pid.map_or("?".to_owned(), |pid| pid.to_string())
        );
    } else {
        server.stop().await?;
        forget_the_set(own).await?;
        report.next = format!("mongod --dbpath {folder}");
    }
    finished(&own.folder)?;
    Ok(report)
}

/// The set of one was ours: whoever starts the folder next may make it a member of any.
async fn forget_the_set(own: &Own) -> Result<(), ReplayError> {
    let server: OwnServer = own.start(None).await?;
    let local = server.client.database("local").drop().await;
    local.map_err(ReplayError::target("forgetting the replica set of the restore"))?;
    server.stop().await
}

/// Everything but the end: the progress stays in the target.
async fn rebuild(
    archive: &OplogArchive,
    plan: &OplogPlan,
    base: &Complete,
    client: &Client,
    progress: &dyn Progress,
) -> Result<Report, ReplayError> {
    prepare(client, &plan.what()).await?;
    let mongodb = base.mongodb();
    let (store, lineage) = (archive.store.clone(), archive.lineage);
    let from = BaseFolder { store, lineage, id: base.id.clone() };
    load(client.clone(), &from, mongodb, progress).await?;
    let mut replay = Replay::begin(client.clone(), mongodb, plan.target.until)
        .await?
        .accepting_open_paths(plan.accept_open_paths);
    let Replayed { at, operations } = replay_log(archive, plan, &mut replay, progress).await?;
    progress.say("building indexes");
    replay.build_indexes(|name| tracing::debug!(name, "building indexes")).await?;
    let (collections, expiring) = replay.made();
    let not_exact = replay.not_exact().await?;
    Ok(Report {
        into: String::new(),
        asked: plan.target.asked.clone(),
        base: base.id.clone(),
        at,
        operations,
        collections,
        expiring,
        not_exact,
        next: String::new(),
    })
}

async fn replay_log(
    archive: &OplogArchive,
    plan: &OplogPlan,
    replay: &mut Replay,
    progress: &dyn Progress,
) -> Result<Replayed, ReplayError> {
    // On to the archive's end: transactions that were prepared may end behind the moment.
    let mut log = archive.log(plan.base.start.ts, proto::mongodb::OplogTs(u64::MAX));
    progress.begin("log", Some(ByteCount(plan.fetch.log)));
    while let Some(run) = log.next().await.map_err(ReplayError::of_log(plan.target.until))? {
        let enough = replay.take(&run).await?;
        // Counted as it lies in the store: how much that is, the plan knows.
        let done = log.stored().min(plan.fetch.log);
        progress.done(ByteCount(done), &format!("up to {}", replay.reached()));
        if enough {
            break;
        }
    }
    progress.end();
    replay.finish().await
}

/// The folder itself, empty, with what is restored noted in it; or where this very restore broke off.
fn make_folder(folder: &Path, what: &str) -> Result<(), ReplayError> {
    let failed = |action: &'static str| {
        let path = folder.to_owned();
        move |source| ReplayError::Io { action, path, source }
    };
    let work = folder.join(WORK_FOLDER);
    match std::fs::read_to_string(work.join(RESTORING)) {
        Ok(found) if found == what => return Ok(()),
        Ok(found) => return Err(ReplayError::OtherRestore { found }),
        Err(_) => {}
    }
    std::fs::create_dir_all(folder).map_err(failed("making"))?;
    let mut entries = std::fs::read_dir(folder).map_err(failed("listing"))?;
    if let Some(entry) = entries.next().transpose().map_err(failed("listing"))? {
        let found = entry.file_name().to_string_lossy().into_owned();
        return Err(ReplayError::NotEmpty { found });
    }
    std::fs::create_dir(&work).map_err(failed("making"))?;
    std::fs::write(work.join(RESTORING), what).map_err(failed("noting the restore in"))
}

/// Whom a server of ours runs as; `None` is ourselves.
fn owner_of(name: &str) -> Result<Option<Owner>, ReplayError> {
    owner::resolve(Some(name)).map_err(|error| ReplayError::RunAs { detail: error.to_string() })
}

/// What was restored by a run that was killed in its last steps: without its progress the server
/// does not tell any more that all of it is there.
fn whole(folder: &Path) -> Option<Report> {
    let text = std::fs::read(folder.join(WORK_FOLDER).join(WHOLE)).ok()?;
    // A torn note stands beside the progress, which tells as much.
    serde_json::from_slice(&text).ok()
}

fn note_whole(folder: &Path, report: &Report) -> Result<(), ReplayError> {
    let path = folder.join(WORK_FOLDER).join(WHOLE);
    let text = serde_json::to_vec(report).expect("our own types have string keys");
    let noted = std::fs::write(&path, text).and_then(|()| std::fs::File::open(&path)?.sync_all());
    noted.map_err(|source| ReplayError::Io { action: "noting the end in", path, source })
}

/// From now on the folder is a server's and no restore's.
fn finished(folder: &Path) -> Result<(), ReplayError> {
    let work = folder.join(WORK_FOLDER);
    let path = work.join(RESTORING);
    let removed = std::fs::remove_file(&path);
    removed.map_err(|source| ReplayError::Io { action: "removing", path, source })?;
    // Nobody reads it any more.
    let _ = std::fs::remove_file(work.join(WHOLE));
    Ok(())
}

const RESTORING: &str = "restoring";
const WHOLE: &str = "whole";

/// An address without its password.
fn shown(url: &str) -> String {
    match url.split_once('@') {
        Some((_, rest)) => format!("mongodb://{rest}"),
        None => url.to_owned(),
    }
}
