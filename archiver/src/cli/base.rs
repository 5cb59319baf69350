//! `pitrd base`: takes one base into an archive that a running `pitrd run` keeps.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::archive::ArchiveError;
use proto::clock::SystemClock;
use proto::store::{Access, url};

use super::Address;
use super::args::{BaseArgs, CheckpointArg, Global};
use super::error::{CliError, Code, archive_error, capture_error, mongodb_error, source_error};
use crate::base::{
    BaseError, BaseOptions, Checkpoint, JoinError, OnProgress, Progress, ReadError, join,
    join_mongodb, progress_line, tell,
};
use crate::base::{Class, SourceError};
use crate::source::mongodb as mongo;
use crate::source::postgres as pg;

pub(super) async fn run(global: &Global, args: &BaseArgs) -> Result<(), CliError> {
    let address = args.archive.address()?;
    let source = args.source.address().await?;
    let stop = super::run::stop_on_signals()?;
    let store = url::open(address, Access::ReadWrite)
        .await
        .map_err(|error| archive_error(&ArchiveError::Store(error)))?;
    let options = BaseOptions {
        label: args.label.clone(),
        checkpoint: match args.checkpoint {
            CheckpointArg::Fast => Checkpoint::Fast,
            CheckpointArg::Spread => Checkpoint::Spread,
        },
        max_rate: args.base_rate,
        codec: args.compression,
        progress: Some(on_stderr()),
        ..BaseOptions::default()
    };
    let clock = SystemClock::new();
    let take = async {
        match source {
            Address::Postgres(source) => join(*source, store, &options, &clock).await,
            Address::Mongodb(source) => join_mongodb(&source, store, &options).await,
        }
    };
    let taken = tokio::select! {
        taken = Box::pin(take) => taken,
        () = stop.cancelled() => {
            let what = "stopped before the base was complete";
            let next = "run it again: a base without its complete.json does not exist";
            return Err(CliError::new(Code::Interrupted, what, next));
        }
    };
    let complete = taken.map_err(|error| error_of(&error))?;
    tell(&complete, global.json, &mut std::io::stdout().lock())
        .map_err(|error| CliError::caused(Code::Failed, &error, "is standard output open?"))
}

fn error_of(error: &JoinError) -> CliError {
    match error {
        JoinError::NoArchive { .. } => CliError::caused(
            Code::NoArchive,
            error,
            "run `pitrd run` on it: it begins the archive and takes the first base by itself",
        ),
        JoinError::Archive(archive) => archive_error(archive),
        JoinError::Base(base) => base_error(base),
        JoinError::Server(server) => capture_error(server),
    }
}

fn base_error(error: &BaseError) -> CliError {
    match error {
        BaseError::Source(source) => refused(source),
        BaseError::WrongCluster { .. } => {
            CliError::caused(Code::WrongCluster, error, "give the --archive of this cluster")
        }
        BaseError::Archive(archive) => archive_error(archive),
        BaseError::Log(log) => CliError::caused(
            Code::NoLog,
            log,
            "is `pitrd run` running beside this server, with this archive? `pitr status` shows its lag",
        ),
        BaseError::Store(store) => match store.class() {
            proto::store::Class::Config => CliError::caused(
                Code::Store,
                error,
                "correct the credentials or the bucket's policy (create, read and list are needed)",
            ),
            _ => CliError::caused(Code::StoreAway, error, "check that the store can be reached"),
        },
        _ => CliError::caused(Code::Failed, error, "run it again; see the log above"),
    }
}

/// A line that renews itself on a terminal, and a line every ten seconds elsewhere.
fn on_stderr() -> OnProgress {
    const PLAIN_EVERY: u64 = 10;
    let terminal = std::io::stderr().is_terminal();
    let count = AtomicU64::new(0);
    Arc::new(move |progress: Progress| {
        let line = progress_line(&progress);
        let nth = count.fetch_add(1, Ordering::Relaxed);
        let mut stderr = std::io::stderr().lock();
        // Nobody to tell when standard error is closed.
        let _ = if terminal {
            let end = if progress.waiting_for_log { "\n" } else { "" };
            write!(stderr, "\r\x1b[K{line}{end}")
        } else if progress.waiting_for_log || nth.is_multiple_of(PLAIN_EVERY) {
            writeln!(stderr, "{line}")
        } else {
            Ok(())
        };
    })
}

fn refused(error: &SourceError) -> CliError {
    let source = &error.source;
    if let Some(error) = source.downcast_ref::<pg::Error>() {
        return source_error(error);
    }
    if let Some(error) = source.downcast_ref::<mongo::Error>() {
        return mongodb_error(error);
    }
    match source.downcast_ref::<ReadError>() {
        Some(ReadError::Member(error)) => return mongodb_error(error),
        Some(_) if error.class == Class::Config => {
            let next =
                "as an administrator: db.grantRolesToUser(…, [{role: \"backup\", db: \"admin\"}])";
            return CliError::caused(Code::Permission, error, next);
        }
        _ => {}
    }
    CliError::caused(Code::Failed, error, "see the server's log")
}
