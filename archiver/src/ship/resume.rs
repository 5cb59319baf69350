//! Where the log in the store ends, and how a writer takes its place there.
//!
//! Enters: an archive. Leaves: the end of the unbroken log (listings only propose, hashes decide),
//! and, for a writer, a fence that stops every older one at its next put.

use proto::archive::ArchiveError;
use proto::archive::chain::Chain;
use proto::archive::layout::{Lineage, SegmentName};
use proto::archive::ledger::{self, Event};
use proto::clock::Clock;
use proto::position::Position;
use proto::segment::{Engine, SegmentHead, TailKind};
use proto::store::Store;

use super::tails::{ShipTools, TailChain};
use super::{ShipError, tails::Grown};
use crate::spool::recover::StoreEnd;

/// The end of a lineage's log. How it is found is each engine's own.
#[derive(Debug)]
pub struct End {
    pub store: StoreEnd,
    pub chain: Chain,
    /// The end as a position, if the archive holds any log.
    pub durable: Option<Position>,
    /// The sealed segment right before, for an engine whose sources take up at a record.
    pub before: Option<SegmentName>,
}

/// Takes the next writer epoch in the ledger.
///
/// # Errors
/// When the store fails.
pub async fn take_writer(
    store: &dyn Store,
    lineage: Lineage,
    clock: &dyn Clock,
    host: String,
) -> Result<u64, ArchiveError> {
    let program = format!("pitrd {}", env!("CARGO_PKG_VERSION"));
    ledger::append(store, lineage, clock.wall(), Event::Writer { host, program }).await
}

/// Puts an empty tail at the end of the chain: an older writer loses its next put. Where the segment
/// that comes next is not known there is no chain yet: then its first tail is what stops the other.
///
/// # Errors
/// [`ShipError::Fenced`] when a newer writer was faster.
pub async fn fence(
    tools: &ShipTools,
    engine: Engine,
    end: &End,
) -> Result<Option<TailChain>, ShipError> {
    let Some(slot) = &end.store.slot else { return Ok(None) };
    let head = SegmentHead {
        engine,
        lineage: tools.lineage.0,
        epoch: end.store.epoch,
        number: slot.number,
        writer: tools.writer,
        start: slot.start,
        previous: end.store.previous,
    };
    let name = slot.name.name.clone();
    let mut chain = TailChain::continuing(head, name, &end.chain);
    while chain.put_empty(tools, TailKind::Fence, None).await? == Grown::Adopted {}
    Ok(Some(chain))
}
