//! `pitr reindex`: the one command beside `prune` that needs the right to write.

use super::error::CliError;
use super::{Context, Outcome, show};
use crate::catalog::Reindexed;
use proto::store::{Access, url};

/// A line for every so many segments.
const TOLD_EVERY: u64 = 100;

pub(super) async fn run(context: &Context) -> Result<Outcome, CliError> {
    let oplog = context.oplog().await?;
    let writable = url::open(context.archive()?, Access::ReadWrite).await?;
    let told = |done: u64, all: u64| {
        if done.is_multiple_of(TOLD_EVERY) {
            super::note(&format!("reindex: {done} of {all} segments"));
        }
    };
    let done = match oplog {
        Some(archive) => archive.reindex(&*writable, told).await?,
        None => context.catalog().await?.reindex(&*writable, told).await?,
    };
    Ok(Outcome::done(if context.global.json { show::json(&done) } else { text(&done) }))
}

pub(super) fn text(done: &Reindexed) -> String {
    let mut text = format!(
        "{} segments: {} indexes and {} roll-ups made\n",
        done.segments, done.made, done.roll_ups
    );
    for unreadable in &done.unreadable {
        text.push_str(&format!("NOT READABLE {unreadable}\n"));
    }
    text
}
