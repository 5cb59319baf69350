//! What `pitrd run` stands on. Everything that can be wrong with flags, spool and address is said
//! before the database or the archive is touched.
//!
//! Enters: the flags. Leaves: stores, settings, and a locked spool folder that can be written.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::clock::{Clock, SystemClock};
use proto::disk::SystemDisk;
use proto::mongodb::SourceMode;
use proto::position::ByteCount;
use proto::postgres::lsn::Timeline;
use proto::store::{Access, url};

use super::Address;
use super::args::RunArgs;
use super::error::{CliError, Code, archive_error};
use crate::pipeline::{Ground, Settings};
use crate::ship::health::Health;
use crate::source::Source;
use crate::source::mongodb::Mongodb;
use crate::source::postgres::options::TargetSession;
use crate::source::postgres::{Postgres, SlotName};
use crate::spool::SpoolLevel;

/// The spool must hold a few segments, or it is full at once.
const SPOOL_MIN: ByteCount = ByteCount(64 << 20);
/// A slot always holds back what is on its way.
const SLOT_MIN: ByteCount = ByteCount(16 << 20);
/// What an empty spool must have room for at the start.
const ROOM_MIN: usize = 1 << 20;

/// What a run stands on: made once, before anything is tried.
pub(super) struct Setting {
    pub ground: Ground,
    pub settings: Settings,
    /// Held as long as the process lives: two sidecars never share a spool.
    _lock: std::fs::File,
}

pub(super) async fn prepare(args: &RunArgs) -> Result<Setting, CliError> {
    let source = source(args).await?;
    let address = args.archive.address()?;
    if args.spool_max < SPOOL_MIN {
        let what = format!("--spool-max {} is less than {SPOOL_MIN}", args.spool_max);
        return Err(CliError::new(Code::Usage, what, "give the spool room for a few segments"));
    }
    if let Some(slot_max) = args.slot_max.filter(|size| *size < SLOT_MIN) {
        let what = format!("--slot-max {slot_max} is less than {SLOT_MIN}");
        return Err(CliError::new(Code::Usage, what, "give the slot room for a segment"));
    }
    let store = url::open(address, Access::ReadWrite)
        .await
        .map_err(|error| archive_error(&error.into()))?;
    let spool = match &args.spool {
        Some(dir) => dir.clone(),
        None => state_folder(address),
    };
    let lock = lock(&spool)?;
    check_room(&spool, args.spool_max)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ground = Ground {
        store,
        disk: Arc::new(SystemDisk),
        clock: clock.clone(),
        health: Arc::new(Health::new(clock)),
        level: Arc::new(SpoolLevel::on(Arc::new(SystemDisk), &spool, args.spool_max)),
    };
    let settings = Settings {
        source,
        spool,
        codec: args.compression,
        flush: args.flush,
        ack: args.ack,
        new_lineage: args.new_lineage,
    };
    Ok(Setting { ground, settings, _lock: lock })
}

/// The database that `--source` names, and how it is followed.
async fn source(args: &RunArgs) -> Result<Arc<dyn Source>, CliError> {
    let mut options = match args.source.address().await? {
        Address::Postgres(options) if args.mode.source_mode.is_oplog() => *options,
        Address::Postgres(_) => {
            let what = "--source-mode is of MongoDB, and --source names a PostgreSQL server";
            return Err(CliError::new(Code::Usage, what, "leave it out"));
        }
        Address::Mongodb(mut options) => {
            refuse_postgres_only(args)?;
            options.mode = args.mode.source_mode;
            tell_limits(options.mode);
            return Ok(Arc::new(Mongodb::new(*options)));
        }
    };
    if options.target == TargetSession::Any && !args.from_standby {
        // Of several hosts the primary; beside a lone standby we wait (DESIGN §5.6).
        options.target = TargetSession::Primary;
    }
    let slot: SlotName = args.slot.parse().map_err(|error: crate::source::postgres::Error| {
        CliError::caused(Code::Usage, &error, "correct --slot")
    })?;
    let (synchronous, accept) = (args.synchronous, args.accept_timeline.map(Timeline));
    let (slot_max, on_slot_max) = (args.slot_max, args.on_slot_max);
    Ok(Arc::new(Postgres { options, slot, synchronous, accept, slot_max, on_slot_max }))
}

/// Said at each start: whoever restores one day must have been told before.
fn tell_limits(mode: SourceMode) {
    for what in mode.not_carried() {
        tracing::warn!("a {mode} does not carry {what}");
    }
}

/// What only a PostgreSQL server can be asked for.
fn refuse_postgres_only(args: &RunArgs) -> Result<(), CliError> {
    let given = [
        ("--synchronous", args.synchronous),
        ("--accept-timeline", args.accept_timeline.is_some()),
        ("--from-standby", args.from_standby),
        ("--slot-max", args.slot_max.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let what = format!("{flag} is of PostgreSQL, and --source names a MongoDB replica set");
            Err(CliError::new(Code::Usage, what, "leave it out"))
        }
    }
}

/// `$STATE_DIRECTORY` (systemd), `$XDG_STATE_HOME/pitr`, `~/.local/state/pitr`, `/var/lib/pitr`:
/// below it one folder for each archive.
fn state_folder(address: &str) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let root = variable("STATE_DIRECTORY")
        .or_else(|| variable("XDG_STATE_HOME").map(|dir| dir.join("pitr")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".local/state/pitr")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/pitr"));
    let name = proto::segment::Hash::of(address.as_bytes()).to_string();
    root.join("spool").join(&name[..16])
}

fn unusable(spool: &Path) -> impl Fn(std::io::Error) -> CliError {
    move |error| {
        let what = format!("the spool folder {} cannot be used", spool.display());
        let next = "make it writable, make room, or give --spool another folder";
        CliError::new(Code::SpoolFolder, what, next).why(error.to_string())
    }
}

#[allow(clippy::disallowed_methods, reason = "a lock is no data: Disk has none")]
fn lock(spool: &Path) -> Result<std::fs::File, CliError> {
    std::fs::create_dir_all(spool).map_err(unusable(spool))?;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(spool.join("lock"))
        .map_err(unusable(spool))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| {
            let what = format!("another pitrd uses the spool folder {}", spool.display());
            CliError::new(Code::SpoolInUse, what, "stop it, or give --spool another folder")
        },
    )?;
    Ok(file)
}

/// Whether there is room to begin with. A spool that holds log is not asked: bringing that up is
/// what makes room.
#[allow(clippy::disallowed_methods, reason = "a trial is no data: Disk has none")]
fn check_room(spool: &Path, max: ByteCount) -> Result<(), CliError> {
    let holds_log = std::fs::read_dir(spool).map_err(unusable(spool))?.flatten().any(|entry| {
        let name = entry.file_name();
        Path::new(&name).extension().is_some_and(|kind| kind == "open" || kind == "sealed")
    });
    if holds_log {
        return Ok(());
    }
    let trial = spool.join("trial");
    let tried = std::fs::File::create(&trial)
        .and_then(|mut file| file.write_all(&vec![0; ROOM_MIN]).and_then(|()| file.sync_all()));
    let _ = std::fs::remove_file(&trial);
    tried.map_err(unusable(spool))?;
    if let Ok(disk) = rustix::fs::statvfs(spool) {
        let free = ByteCount(disk.f_bavail.saturating_mul(disk.f_frsize));
        if free < max {
            tracing::warn!(
                spool = %spool.display(), %free, spool_max = %max,
                "the spool's disk has less room than --spool-max: an outage ends sooner"
            );
        }
    }
    Ok(())
}
