//! Operations of the log, one at a time: which are applied, to which collection, and what of the
//! target they demand.
//!
//! Enters: an operation and the moment at which it took effect. Leaves: a write in the batch, a
//! command done (`catalog`), or nothing, where the base or an earlier run has it already.

use bson::{RawBsonRef, RawDocumentBuf};

use proto::mongodb::OplogTs;
use proto::mongodb::base::Uuid;
use proto::mongodb::scope::{is_restored, is_restored_document, split};

use super::error::ReplayError;
use super::moments::Verdict;
use super::operation::Operation;
use super::replay::Replay;
use super::strict::Demand;
use super::target::Confirm;

/// A write that is to be applied.
pub(super) struct Due {
    uuid: Uuid,
    /// What its collection is called now.
    pub(super) name: String,
    pub(super) verdict: Verdict,
}

impl Replay {
    pub(super) async fn operation(
        &mut self,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        self.here.operations += 1;
        let (database, collection) = split(operation.namespace);
        let restored = match operation.kind {
            "n" => false,
            "c" => is_restored(database, ""),
            _ => is_restored(database, collection),
        };
        match operation.kind {
            _ if !restored => Ok(()),
            "i" | "u" | "d" => self.write(operation, effective).await,
            "c" => Box::pin(self.command(operation, effective)).await,
            other => Err(ReplayError::Unknown {
                at: self.here.at,
                what: format!("operation of kind {other:?}"),
                namespace: operation.namespace.to_owned(),
            }),
        }
    }

    async fn write(
        &mut self,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        let Some(Due { uuid, name, verdict }) = self.due(operation, effective)? else {
            return Ok(());
        };
        let exact = verdict == Verdict::Applied && self.is_exact(uuid, operation.namespace);
        let demand = match operation.kind {
            "i" if exact => Demand::Absent,
            "d" if exact => Demand::Present,
            _ => Demand::Nothing,
        };
        self.apply(operation.to_apply(&name), (operation.kind, demand), verdict).await
    }

    /// A write that is to be applied, and to what.
    pub(super) fn due(
        &self,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<Option<Due>, ReplayError> {
        let at = self.here.at;
        let id = operation.id().map_err(ReplayError::entry(at))?;
        let (database, collection) = split(operation.namespace);
        if !is_restored_document(database, collection, id.and_then(RawBsonRef::as_str)) {
            return Ok(None);
        }
        let uuid = operation.uuid.or_else(|| self.names.at(operation.namespace));
        let Some((uuid, name)) = self.known(uuid, operation, effective)? else { return Ok(None) };
        let verdict = self.moments.verdict(uuid, id, effective);
        let due = verdict != Verdict::Held && self.is_due();
        Ok(due.then(|| Due { uuid, name: name.to_owned(), verdict }))
    }

    pub(super) async fn apply(
        &mut self,
        apply: RawDocumentBuf,
        (kind, demand): (&str, Demand),
        verdict: Verdict,
    ) -> Result<(), ReplayError> {
        self.applied += 1;
        self.repeated = false;
        if verdict == Verdict::Maybe && kind == "u" {
            return self.perhaps(apply).await;
        }
        self.batch.push(&self.target, &apply, demand, self.here).await
    }

    /// Whether the target has exactly what the source had. A capped collection deletes by itself
    /// what the log deletes too, and of the server's own collections the target has some before.
    fn is_exact(&self, uuid: Uuid, namespace: &str) -> bool {
        !self.capped.contains(&uuid) && !namespace.starts_with("admin.system.")
    }

    /// An update of a document that was perhaps gone when the base was read: a later delete of it
    /// stands in the log.
    async fn perhaps(&mut self, apply: RawDocumentBuf) -> Result<(), ReplayError> {
        self.batch.flush(&self.target).await?;
        self.batch.push(&self.target, &apply, Demand::Nothing, self.here).await?;
        match self.batch.flush(&self.target).await {
            Err(ReplayError::Miss { .. }) => {
                self.target.set_reached(self.here, Confirm::Applied).await
            }
            done => done,
        }
    }

    /// The collection of an operation; `None` when its entries are left out.
    pub(super) fn known(
        &self,
        uuid: Option<Uuid>,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<Option<(Uuid, &str)>, ReplayError> {
        let Some(uuid) = uuid else {
            return match effective <= self.stop {
                true => Ok(None),
                false => Err(self.unknown("operation without a UUID", operation)),
            };
        };
        match self.names.name(uuid) {
            Some(name) => Ok(Some((uuid, name))),
            // Gone before the base was read.
            None if effective <= self.stop || self.names.is_gone(uuid) => Ok(None),
            None => Err(ReplayError::UnknownCollection {
                at: self.here.at,
                namespace: operation.namespace.to_owned(),
                uuid,
            }),
        }
    }

    pub(super) fn unknown(&self, what: &str, operation: &Operation<'_>) -> ReplayError {
        let (at, namespace) = (self.here.at, operation.namespace.to_owned());
        ReplayError::Unknown { at, what: what.to_owned(), namespace }
    }

    /// Whether an earlier run has not done this operation yet.
    pub(super) fn is_due(&self) -> bool {
        self.done.is_none_or(|done| self.here > done)
    }
}
