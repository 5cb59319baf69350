//! Events of a change stream, replayed as the operations that an oplog would have.
//!
//! Enters: events in the order of the log. Leaves: the same changes in the target, strictly: an event
//! that does not fit what is there, or that cannot be read in one way alone, ends the replay and is
//! named. What a change stream does not carry is left out and listed. Progress goes by the time of
//! the events and a count within it, as that of transactions does: all events of one time are in, or
//! none is.

use bson::raw::cstr;
use bson::{RawDocument, RawDocumentBuf, rawdoc};

use proto::mongodb::base::Uuid;
use proto::mongodb::event::Event;
use proto::mongodb::{OplogTs, Record, SourceMode};
use proto::segment::Hash;

use super::error::ReplayError;
use super::indexes::without;
use super::moments::Verdict;
use super::operation::{Operation, operation};
use super::paths::{self, PathError};
use super::replay::Replay;
use super::strict::Demand;
use super::target::{Confirm, Reached, keep};
use super::writes::Due;

/// What of the progress tells of paths that were read as such.
const OPEN: &str = "open:";
const VIEWS: &str = "system.views";
const OF_TIME_SERIES: &str = "system.buckets.";

impl Replay {
    /// Whether the last moment that is needed has been passed.
    pub(super) async fn event(&mut self, event: &Event<'_>) -> Result<bool, ReplayError> {
        let at = event.at;
        if at > self.until {
            return Ok(true);
        }
        if !self.order.advance(&Record::Event(*event)) {
            return Err(ReplayError::Order { found: at, after: self.here.at });
        }
        if at != self.here.at {
            self.here = Reached { at, operations: 0 };
        }
        match event.fragment {
            Some((number, of)) => {
                let joined = self.joined(event.raw, (number, of))?;
                if let Some(raw) = joined {
                    let whole = Event::read(&raw).map_err(ReplayError::entry(at))?;
                    self.whole_event(&whole).await?;
                }
            }
            None => self.whole_event(event).await?,
        }
        Ok(false)
    }

    /// The event, when its last fragment has come. Each has some of its fields.
    fn joined(
        &mut self,
        raw: &RawDocument,
        (number, of): (i64, i64),
    ) -> Result<Option<RawDocumentBuf>, ReplayError> {
        let at = self.here.at;
        let first = number == 1;
        if first {
            self.fragments = RawDocumentBuf::new();
        }
        for element in raw.iter() {
            let (key, value) = element.map_err(ReplayError::entry(at))?;
            if key.as_str() != "splitEvent" && (first || key.as_str() != "_id") {
                self.fragments.append(key, value);
            }
        }
        Ok((number == of).then(|| std::mem::take(&mut self.fragments)))
    }

    async fn whole_event(&mut self, event: &Event<'_>) -> Result<(), ReplayError> {
        let collection = event.collection.unwrap_or_default();
        if event.is_note() || !SourceMode::ChangeStream.carries(event.database, collection) {
            return Ok(());
        }
        let named = |command: &str| {
            let mut o = RawDocumentBuf::new();
            o.append(bson::raw::CString::try_from(command).expect("our own"), collection);
            o
        };
        match event.kind {
            "insert" | "replace" | "update" | "delete" => self.document(event).await,
            "create" | "modify" | "drop" if event.uuid.is_none() => self.view(event).await,
            "create" => self.as_command(event, &self.described(event, named("create"))?).await,
            "modify" => self.as_command(event, &self.described(event, named("collMod"))?).await,
            "createIndexes" => {
                let o = self.described(event, named("createIndexes"))?;
                self.as_command(event, &o).await
            }
            "dropIndexes" => self.drop_indexes(event, &named("dropIndexes")).await,
            "rename" => self.renamed(event).await,
            "drop" => {
                self.left_out.remove(&event.namespace());
                self.as_command(event, &named("drop")).await
            }
            // Each collection is dropped by an event of its own before.
            "dropDatabase" => Ok(()),
            other => Err(ReplayError::Unknown {
                at: event.at,
                what: format!("change event {other:?}"),
                namespace: event.namespace(),
            }),
        }
    }

    /// A command as the oplog has it: its name, and what the event says beside.
    fn described(
        &self,
        event: &Event<'_>,
        mut o: RawDocumentBuf,
    ) -> Result<RawDocumentBuf, ReplayError> {
        for element in event.description.into_iter().flat_map(RawDocument::iter) {
            let (key, value) = element.map_err(ReplayError::entry(event.at))?;
            o.append(key, value);
        }
        Ok(o)
    }

    async fn as_command(&mut self, event: &Event<'_>, o: &RawDocument) -> Result<(), ReplayError> {
        let namespace = format!("{}.$cmd", event.database);
        let uuid = event.uuid.map(Uuid);
        let operation = Operation { kind: "c", namespace: &namespace, uuid, o, o2: None };
        self.operation(&operation, event.at).await
    }

    async fn drop_indexes(
        &mut self,
        event: &Event<'_>,
        command: &RawDocument,
    ) -> Result<(), ReplayError> {
        let indexes = event.description.and_then(|told| told.get_array("indexes").ok());
        for index in indexes.into_iter().flatten() {
            let index = index.map_err(ReplayError::entry(event.at))?;
            let name = index.as_document().and_then(|index| index.get_str("name").ok());
            let mut o = command.to_owned();
            o.append(cstr!("index"), name.unwrap_or_default());
            self.as_command(event, &o).await?;
        }
        Ok(())
    }

    async fn renamed(&mut self, event: &Event<'_>) -> Result<(), ReplayError> {
        let told = event.description.unwrap_or(event.raw);
        let to = told.get_document("to").map_err(ReplayError::entry(event.at))?;
        let to = format!(
            "{}.{}",
            to.get_str("db").unwrap_or_default(),
            to.get_str("coll").unwrap_or_default()
        );
        let mut o = rawdoc! { "renameCollection": event.namespace(), "to": to.as_str() };
        let rest = without(told, |key| key == "to").map_err(ReplayError::entry(event.at))?;
        for element in rest.iter().filter(|_| event.description.is_some()) {
            let (key, value) = element.map_err(ReplayError::entry(event.at))?;
            o.append(key, value);
        }
        self.as_command(event, &o).await?;
        let Some(uuid) = event.uuid.map(Uuid) else { return Ok(()) };
        if event.converts().is_some() && self.moments.verdict(uuid, None, event.at) != Verdict::Held
        {
            self.lose(event, uuid, to).await?;
        }
        Ok(())
    }

    /// The documents that convertToCapped has copied are in no event.
    async fn lose(
        &mut self,
        event: &Event<'_>,
        uuid: Uuid,
        namespace: String,
    ) -> Result<(), ReplayError> {
        let (_, name) = proto::mongodb::scope::split(&namespace);
        self.as_command(event, &rawdoc! { "drop": name }).await?;
        self.names.set_gone(uuid);
        let why = format!("convertToCapped at {}, which does not show its documents", event.at);
        self.left_out.insert(namespace, why);
        Ok(())
    }

    /// A view is a document of `system.views`, in the source as in the target.
    async fn view(&mut self, event: &Event<'_>) -> Result<(), ReplayError> {
        let (view, database) = (event.namespace(), event.database);
        let view_on = event.description.and_then(|told| told.get_str("viewOn").ok());
        let series = view_on.is_some_and(|name| name.starts_with(OF_TIME_SERIES));
        match event.kind {
            _ if series => {
                self.left_out.insert(view, "a time series".to_owned());
                return Ok(());
            }
            "drop" if self.left_out.remove(&view).is_some() => return Ok(()),
            _ => {}
        }
        let namespace = format!("{database}.{VIEWS}");
        self.make_views(database, &namespace).await?;
        let id = rawdoc! { "_id": view.as_str() };
        let whole = self.described(event, id.clone())?;
        let (kind, o, o2) = match event.kind {
            "drop" => ("d", &id, None),
            "create" => ("i", &whole, None),
            _ => ("u", &whole, Some(&*id)),
        };
        let operation = Operation { kind, namespace: &namespace, uuid: None, o, o2 };
        self.operation(&operation, event.at).await
    }

    /// A database's first view makes the collection of views, which is no event.
    async fn make_views(&mut self, database: &str, namespace: &str) -> Result<(), ReplayError> {
        self.here.operations += 1;
        if self.names.at(namespace).is_some() {
            return Ok(());
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&Hash::of(namespace.as_bytes()).0[..16]);
        self.names.insert(Uuid(uuid), namespace.to_owned());
        if !self.is_due() {
            return Ok(());
        }
        self.batch.flush(&self.target).await?;
        self.target.create(database, &rawdoc! { "create": VIEWS }).await?;
        self.target.set_reached(self.here, Confirm::Applied).await
    }

    async fn document(&mut self, event: &Event<'_>) -> Result<(), ReplayError> {
        let namespace = event.namespace();
        let missing = |field| ReplayError::Entry {
            at: event.at,
            source: proto::mongodb::EntryError::Missing { field },
        };
        let key = event.key.ok_or_else(|| missing("documentKey"));
        let (kind, o, o2) = match (event.kind, event.full) {
            ("delete", _) => ("d", key?, None),
            ("insert", Some(full)) => ("i", full, None),
            ("update", None) => return self.update(event, &namespace, key?).await,
            (_, Some(full)) => ("u", full, Some(key?)),
            (_, None) => return Err(missing("fullDocument")),
        };
        let uuid = event.uuid.map(Uuid);
        let operation = Operation { kind, namespace: &namespace, uuid, o, o2 };
        self.operation(&operation, event.at).await
    }

    /// An update that is told by what it changed.
    async fn update(
        &mut self,
        event: &Event<'_>,
        namespace: &str,
        key: &RawDocument,
    ) -> Result<(), ReplayError> {
        self.here.operations += 1;
        let at = event.at;
        let missing = proto::mongodb::EntryError::Missing { field: "updateDescription" };
        let update = event.update.ok_or(ReplayError::Entry { at, source: missing })?;
        let uuid = event.uuid.map(Uuid);
        let told = Operation { kind: "u", namespace, uuid, o: update, o2: Some(key) };
        let Some(Due { name, verdict, .. }) = self.due(&told, at)? else { return Ok(()) };
        let unreadable = |source: PathError| match source {
            PathError::Malformed(source) => ReplayError::Entry { at, source },
            PathError::Nothing { path } => {
                ReplayError::NoPlace { at, namespace: name.clone(), path }
            }
        };
        let mut before = None;
        if paths::needs_document(update).map_err(&unreadable)? {
            self.batch.flush(&self.target).await?;
            before = self.target.document(&name, key).await?;
            if before.is_none() {
                return match verdict {
                    Verdict::Maybe => self.target.set_reached(self.here, Confirm::Applied).await,
                    _ => Err(ReplayError::Miss {
                        at,
                        namespace: name,
                        operation: Operation::show(update),
                    }),
                };
            }
        }
        let difference = paths::difference(update, before.as_deref()).map_err(&unreadable)?;
        if let Some(path) = difference.open {
            self.take_as_path(at, &name, path).await?;
        }
        let apply = operation("u", &name, &difference.o, Some(key));
        self.apply(apply, ("u", Demand::Nothing), verdict).await
    }

    /// A path that may be a name as well: the end of the replay, unless somebody has decided that.
    async fn take_as_path(
        &mut self,
        at: OplogTs,
        namespace: &str,
        path: String,
    ) -> Result<(), ReplayError> {
        if !self.accepts_open_paths {
            return Err(ReplayError::OpenPath { at, namespace: namespace.to_owned(), path });
        }
        if self.open_paths.insert(namespace.to_owned()) {
            let id = format!("{OPEN}{namespace}");
            let at = bson::Timestamp::from(at);
            let note = keep(rawdoc! { "_id": id, "at": at, "path": path });
            self.batch.push_plain(&self.target, &note).await?;
        }
        Ok(())
    }

    /// What the target does not have as the source had it, or not for certain.
    ///
    /// # Errors
    /// When the target does not answer.
    pub async fn not_exact(&self) -> Result<Vec<String>, ReplayError> {
        let mut told: Vec<String> =
            self.left_out.iter().map(|(name, why)| format!("{name} is left out: {why}")).collect();
        for kept in self.target.progress().await? {
            let name = kept.get_str("_id").ok().and_then(|id| id.strip_prefix(OPEN));
            let Some(name) = name else { continue };
            let at = kept.get_timestamp("at").map(OplogTs::from).unwrap_or_default();
            let path = kept.get_str("path").unwrap_or_default();
            told.push(format!("{name}: dotted paths were read as paths, one at {at}: {path:?}"));
        }
        Ok(told)
    }
}
