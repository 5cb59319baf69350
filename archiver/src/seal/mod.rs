//! What follows a sealed segment that is in the store: its index, then its spool file goes.
//!
//! Enters: a segment that the store has confirmed. Leaves: its index object, if there was time:
//! archiving never waits for indexing. A segment without an index is decoded by whoever reads it.

use std::sync::Arc;

use crate::ship::ShipTools;
use crate::spool::{SealedFile, SpoolLevel};

/// Hands sealed files to the indexer, or straight to the end of their life.
#[derive(Debug, Clone, Default)]
pub struct IndexQueue {}

impl IndexQueue {
    /// Called once the store has the segment.
    pub fn hand_on(&self, sealed: SealedFile, tools: &ShipTools, level: &Arc<SpoolLevel>) {
        remove(sealed, tools, level);
    }
}

fn remove(sealed: SealedFile, tools: &ShipTools, level: &Arc<SpoolLevel>) {
    let (disk, level) = (tools.disk.clone(), level.clone());
    tokio::task::spawn_blocking(move || {
        match disk.remove(&sealed.path) {
            Ok(()) => level.remove(sealed.file_len),
            // It is found, compared and removed by the next run.
            Err(error) => tracing::warn!(%error, file = %sealed.path.display(), "not removed"),
        }
    });
}
