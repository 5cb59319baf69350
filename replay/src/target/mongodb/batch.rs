//! Writes of documents, gathered into `applyOps` commands.
//!
//! Enters: operations and the entries that they come from. Leaves: the same in the target, with how
//! far that is, in one command each. After a crash the target holds whole batches.
//!
//! While the target applies one batch the next is gathered, so that neither waits for the other. More
//! in flight would be no faster: what takes effect as a whole takes the server's global lock
//! (src/mongo/db/repl/apply_ops.cpp, applyOps).

use bson::{RawArrayBuf, RawDocumentBuf};
use tokio_util::task::AbortOnDropHandle;

use proto::mongodb::OplogTs;
use proto::mongodb::scope::split;

use super::error::{ReplayError, code, code_of};
use super::operation::Operation;
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
        reached: Reached,
    ) -> Result<(), ReplayError> {
        self.push_plain(target, operation).await?;
        if let Some(entry) = self.entries.last_mut() {
            *entry = reached.at;
        }
        self.reached = Some(reached);
        Ok(())
    }

    /// As [`Self::push`], of something that is no entry.
    pub(super) async fn push_plain(
        &mut self,
        target: &Target,
        operation: &RawDocumentBuf,
    ) -> Result<(), ReplayError> {
        let bytes = operation.as_bytes().len();
        if self.entries.len() >= OPERATIONS_MAX || self.bytes + bytes > BYTES_MAX {
            self.send(target).await?;
        }
        self.operations.push(operation);
        self.entries.push(OplogTs::default());
        self.bytes += bytes;
        Ok(())
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
        let target = target.clone();
        self.under_way = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let applied = target.apply(&operations, confirm).await;
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
    let namespace = raw.get_str("ns").unwrap_or_default();
    if code_of(&error) == Some(code::UPDATE_OPERATION_FAILED) {
        let (database, name) = split(namespace);
        return ReplayError::Miss { at, namespace: format!("{database}.{name}"), operation };
    }
    ReplayError::Refused { at, operation, source: Box::new(error) }
}
