//! Writes of documents, gathered into `applyOps` commands.
//!
//! Enters: operations and the entries that they come from. Leaves: the same in the target, with how
//! far that is, in one command each. After a crash the target holds whole batches.
//!
//! While the target applies one batch the next is gathered, so that neither waits for the other. More
//! in flight would be no faster: what takes effect as a whole takes the server's global lock
//! (src/mongo/db/repl/apply_ops.cpp, applyOps).

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use tokio_util::task::AbortOnDropHandle;

use proto::mongodb::OplogTs;

use super::error::{ReplayError, code, code_of};
use super::operation::Operation;
use super::strict::{Demand, Fresh, empty_timestamps, guard};
use super::target::{Confirm, Reached, Target};

/// Of a command. More are hardly faster, and hold the target's locks for longer (tried: 1000 against
/// 5000 against 200 000).
const OPERATIONS_MAX: usize = 1000;
const BYTES_MAX: usize = 8 << 20;
/// Between two moments at which the majority confirms: what a failover of the target could lose.
const BARRIER_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Batch {
    operations: RawArrayBuf,
    /// The entry of each one.
    entries: Vec<OplogTs>,
    fresh: Fresh,
    bytes: usize,
    /// What goes with the operations; nothing while a base is loaded.
    reached: Option<Reached>,
    since_barrier: usize,
    /// What the target applies at present. Dropped, it is waited for no more.
    under_way: Option<AbortOnDropHandle<Result<(), ReplayError>>>,
}

impl Batch {
    /// Adds an operation; what was gathered goes to the target when it is enough.
    pub(super) async fn push(
        &mut self,
        target: &Target,
        operation: &RawDocumentBuf,
        demand: Demand,
        reached: Reached,
    ) -> Result<(), ReplayError> {
        self.make_room(target, operation).await?;
        let namespace = operation.get_str("ns").unwrap_or_default();
        let kind = operation.get_str("op").unwrap_or_default();
        let of = operation.get_document(if kind == "u" { "o2" } else { "o" });
        if let Some(id) = of.ok().and_then(|of| of.get("_id").ok()?) {
            if demand == Demand::Present {
                self.add(&guard(namespace, id), reached.at);
            }
            if !self.fresh.note((namespace, kind), id, demand, self.entries.len()) {
                return Err(there(reached.at, operation));
            }
        }
        self.add_whole(operation, reached.at);
        self.reached = Some(reached);
        Ok(())
    }

    /// As [`Self::push`], of something that is no entry.
    pub(super) async fn push_plain(
        &mut self,
        target: &Target,
        operation: &RawDocumentBuf,
    ) -> Result<(), ReplayError> {
        self.make_room(target, operation).await?;
        self.add_whole(operation, OplogTs::default());
        Ok(())
    }

    async fn make_room(
        &mut self,
        target: &Target,
        operation: &RawDocumentBuf,
    ) -> Result<(), ReplayError> {
        let bytes = operation.as_bytes().len();
        if self.entries.len() >= OPERATIONS_MAX || self.bytes + bytes > BYTES_MAX {
            self.send(target).await?;
        }
        Ok(())
    }

    fn add_whole(&mut self, operation: &RawDocumentBuf, entry: OplogTs) {
        self.add(operation, entry);
        if let Some(again) = empty_timestamps(operation) {
            self.add(&again, entry);
        }
    }

    fn add(&mut self, operation: &RawDocumentBuf, entry: OplogTs) {
        self.operations.push(operation);
        self.entries.push(entry);
        self.bytes += operation.as_bytes().len();
    }

    /// Applies what is gathered, and returns when all of it is.
    pub(super) async fn flush(&mut self, target: &Target) -> Result<(), ReplayError> {
        self.send(target).await?;
        self.wait().await
    }

    /// Lets the target apply what is gathered, behind everything before it.
    async fn send(&mut self, target: &Target) -> Result<(), ReplayError> {
        self.wait().await?;
        if self.entries.is_empty() {
            return Ok(());
        }
        let mut operations = std::mem::take(&mut self.operations);
        let entries = std::mem::take(&mut self.entries);
        let mut fresh = std::mem::take(&mut self.fresh);
        self.since_barrier += std::mem::take(&mut self.bytes);
        if let Some(reached) = self.reached {
            operations.push(reached.to_apply());
        }
        let confirm = if self.since_barrier >= BARRIER_BYTES {
            self.since_barrier = 0;
            Confirm::Majority
        } else {
            Confirm::Applied
        };
        let (target, reached) = (target.clone(), self.reached);
        self.under_way = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            // The batch before it has ended: what is there now is what it left.
            if let Some(there) = fresh.look(&target).await? {
                return Err(there_already(&operations, &entries, there));
            }
            let applied = target.apply_once(&operations, confirm, reached).await;
            applied.map_err(|error| named(&operations, &entries, error))
        })));
        Ok(())
    }

    /// Waits for what the target applies at present.
    async fn wait(&mut self) -> Result<(), ReplayError> {
        let Some(under_way) = self.under_way.take() else { return Ok(()) };
        match under_way.await {
            Ok(applied) => applied,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// The server says how many it has tried: the last of them is the one that failed.
fn named(
    operations: &RawArrayBuf,
    entries: &[OplogTs],
    error: mongodb::error::Error,
) -> ReplayError {
    let tried = error.server_response().and_then(|answer| answer.get_i32("applied").ok());
    let failed = tried.and_then(|tried| usize::try_from(tried).ok()?.checked_sub(1));
    let Some((failed, at)) = failed.and_then(|failed| Some((failed, *entries.get(failed)?))) else {
        return ReplayError::target("applying operations")(error);
    };
    let Ok(raw) = operations.get_document(failed) else {
        return ReplayError::target("applying operations")(error);
    };
    let operation = Operation::show(raw);
    if code_of(&error) == Some(code::UPDATE_OPERATION_FAILED) {
        let namespace = raw.get_str("ns").unwrap_or_default().to_owned();
        // What failed may be what was put in front of a delete of the same document.
        let next = operations.get_document(failed + 1).ok().filter(|next| {
            next.get_str("op").ok() == Some("d")
                && next.get_str("ns").ok() == Some(namespace.as_str())
                && id_in(next, "o") == id_in(raw, "o2")
        });
        let operation = next.map_or(operation, Operation::show);
        return ReplayError::Miss { at, namespace, operation };
    }
    ReplayError::Refused { at, operation, source: Box::new(error) }
}

/// The insert with this number would write over a document.
fn there_already(operations: &RawArrayBuf, entries: &[OplogTs], number: usize) -> ReplayError {
    let at = entries.get(number).copied().unwrap_or_default();
    let raw = operations.get_document(number);
    raw.map_or_else(|_| there(at, &rawdoc! {}), |raw| there(at, raw))
}

fn there(at: OplogTs, insert: &RawDocument) -> ReplayError {
    let namespace = insert.get_str("ns").unwrap_or_default().to_owned();
    ReplayError::There { at, namespace, operation: Operation::show(insert) }
}

fn id_in<'a>(operation: &'a RawDocument, part: &str) -> Option<RawBsonRef<'a>> {
    operation.get_document(part).ok()?.get("_id").ok()?
}
