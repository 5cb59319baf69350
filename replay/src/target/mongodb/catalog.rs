//! Commands of the log: what changes collections and indexes rather than documents.
//!
//! Enters: a command of the log. Leaves: the same change in the target, by the name that the
//! collection bears there; of indexes only the knowledge what to build at the end. Every change is
//! noted behind it: one that was done and not noted before a crash is done again, which each of them
//! can bear.

use bson::raw::{CString, cstr};
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use proto::mongodb::OplogTs;
use proto::mongodb::base::Uuid;
use proto::mongodb::scope::{is_restored, split};

use super::error::ReplayError;
use super::indexes::without;
use super::names::Change;
use super::operation::{Operation, command_in};
use super::replay::Replay;
use super::target::Confirm;

impl Replay {
    pub(super) async fn command(
        &mut self,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        let at = self.here.at;
        let command = operation.command().map_err(ReplayError::entry(at))?;
        match command {
            "create" => self.create(operation, effective).await,
            "drop" => self.drop_collection(operation).await,
            "renameCollection" => self.rename(operation, effective).await,
            "collMod" => self.modify(operation, effective).await,
            "emptycapped" => self.empty(operation, effective).await,
            "createIndexes" | "commitIndexBuild" => self.add_indexes(operation, command, effective),
            "dropIndexes" | "deleteIndexes" | "deleteIndex" => {
                self.drop_index(operation, effective)
            }
            // Each collection of a database is dropped by an entry of its own before this one. What
            // a build of an index comes to is told by its commit.
            "dropDatabase"
            | "startIndexBuild"
            | "abortIndexBuild"
            | "setMultikeyMetadata"
            | "dropIdent"
            | "dbCheck" => Ok(()),
            other => Err(self.unknown(&format!("command {other:?}"), operation)),
        }
    }

    async fn create(
        &mut self,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        let name = operation.o.get_str("create").unwrap_or_default();
        let database = operation.database();
        let namespace = format!("{database}.{name}");
        if !is_restored(database, name) {
            return Ok(());
        }
        let Some(uuid) = operation.uuid else {
            return Err(self.unknown("create without a UUID", operation));
        };
        if operation.o.get_bool("capped").unwrap_or(false) {
            self.capped.insert(uuid);
        }
        match self.names.create(uuid, &namespace) {
            Change::Create if self.is_due() => {
                self.batch.flush(&self.target).await?;
                self.target.create(database, operation.o).await?;
                self.noted().await
            }
            Change::Taken => self.leave_out(uuid, namespace, effective),
            _ => Ok(()),
        }
    }

    /// A collection whose name another one bears in the catalog that was read later.
    fn leave_out(
        &mut self,
        uuid: Uuid,
        namespace: String,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        if effective > self.stop {
            return Err(ReplayError::Taken { at: self.here.at, namespace, uuid });
        }
        self.names.set_gone(uuid);
        self.indexes.forget(uuid);
        Ok(())
    }

    async fn drop_collection(&mut self, operation: &Operation<'_>) -> Result<(), ReplayError> {
        let Some(uuid) = operation.uuid else { return Ok(()) };
        self.drop_known(uuid).await
    }

    /// A collection goes with its indexes, if it is known.
    async fn drop_known(&mut self, uuid: Uuid) -> Result<(), ReplayError> {
        self.indexes.forget(uuid);
        match self.names.drop(uuid) {
            Change::Drop(namespace) if self.is_due() => {
                let (database, name) = split(&namespace);
                self.alone(database, &rawdoc! { "drop": name }, "dropping a collection").await
            }
            _ => Ok(()),
        }
    }

    async fn rename(
        &mut self,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        let from = operation.o.get_str("renameCollection").unwrap_or_default();
        let to = operation.o.get_str("to").unwrap_or_default();
        let Some(uuid) = operation.uuid else {
            return Err(self.unknown("rename without a UUID", operation));
        };
        let dropped = match operation.o.get("dropTarget") {
            Ok(Some(RawBsonRef::Binary(binary))) => binary.bytes.try_into().ok().map(Uuid),
            Ok(Some(RawBsonRef::Boolean(true))) => self.names.at(to),
            _ => None,
        };
        match self.names.rename(uuid, from, to, dropped) {
            Change::Rename { from, to, drop } => {
                if let Some(drop) = drop {
                    self.indexes.forget(drop);
                }
                if !self.is_due() {
                    return Ok(());
                }
                self.batch.flush(&self.target).await?;
                let stay = operation.o.get_bool("stayTemp").unwrap_or(false);
                let options = (drop.is_some(), stay);
                self.target.rename(&from, &to, options, self.repeated).await?;
                self.noted().await
            }
            Change::Taken => {
                self.leave_out(uuid, to.to_owned(), effective)?;
                self.drop_known(uuid).await
            }
            _ => Ok(()),
        }
    }

    async fn modify(
        &mut self,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        let at = self.here.at;
        let Some((uuid, namespace)) = self.known(operation.uuid, operation, effective)? else {
            return Ok(());
        };
        let (database, name) = split(namespace);
        let mut modify = rawdoc! { "collMod": name };
        let database = database.to_owned();
        if let Ok(change) = operation.o.get_document("index") {
            self.indexes.change(uuid, change).map_err(ReplayError::entry(at))?;
        }
        let rest = without(operation.o, |key| matches!(key, "collMod" | "index"));
        let rest: RawDocumentBuf = rest.map_err(ReplayError::entry(at))?;
        if rest.is_empty() || !self.is_due() {
            return Ok(());
        }
        for element in rest.iter() {
            let (key, value) = element.map_err(ReplayError::entry(at))?;
            modify.append(key, value);
        }
        self.alone(&database, &modify, "changing a collection").await
    }

    async fn empty(
        &mut self,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        let known = self.known(operation.uuid, operation, effective)?;
        let Some((_, namespace)) = known.filter(|_| self.is_due()) else { return Ok(()) };
        let (database, name) = split(namespace);
        let (database, empty) = (database.to_owned(), rawdoc! { "emptycapped": name });
        self.alone(&database, &empty, "emptying a collection").await
    }

    /// A command that is applied by itself, behind everything before it.
    async fn alone(
        &mut self,
        database: &str,
        command: &RawDocument,
        what: &str,
    ) -> Result<(), ReplayError> {
        self.batch.flush(&self.target).await?;
        self.target.apply_one(&command_in(database, command), what).await?;
        self.noted().await
    }

    fn add_indexes(
        &mut self,
        operation: &Operation<'_>,
        command: &str,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        let at = self.here.at;
        let Some((uuid, _)) = self.known(operation.uuid, operation, effective)? else {
            return Ok(());
        };
        let Ok(several) = operation.o.get_array("indexes") else {
            let added = self.indexes.add(uuid, operation.o, Some(command));
            return added.map_err(ReplayError::entry(at));
        };
        for spec in several {
            let spec = spec.map_err(ReplayError::entry(at))?;
            let Some(spec) = spec.as_document() else { continue };
            self.indexes.add(uuid, spec, None).map_err(ReplayError::entry(at))?;
        }
        Ok(())
    }

    fn drop_index(
        &mut self,
        operation: &Operation<'_>,
        effective: OplogTs,
    ) -> Result<(), ReplayError> {
        let known = self.known(operation.uuid, operation, effective)?;
        if let (Some((uuid, _)), Ok(name)) = (known, operation.o.get_str("index")) {
            self.indexes.remove(uuid, name);
        }
        Ok(())
    }

    /// Keeps that the change of the catalog is done.
    async fn noted(&mut self) -> Result<(), ReplayError> {
        self.repeated = false;
        self.target.set_reached(self.here, Confirm::Applied).await
    }
}

/// The command that creates a collection as `listCollections` and a base describe it.
pub(super) fn create_command(
    name: &str,
    options: &RawDocument,
    id_index: Option<&RawDocument>,
) -> Result<RawDocumentBuf, bson::error::Error> {
    let mut create = rawdoc! { "create": name };
    for element in options.iter() {
        let (key, value) = element?;
        create.append(CString::try_from(key.as_str())?, value);
    }
    if let Some(id_index) = id_index {
        create.append(cstr!("idIndex"), id_index);
    }
    Ok(create)
}
