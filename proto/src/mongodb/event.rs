//! One event of a change stream, read where it lies
//! (src/mongo/db/pipeline/document_source_change_stream.h).
//!
//! Enters: a raw document. Leaves: a view of it. Its place is its resume token: the cluster time in
//! front, then what tells apart the events of one time; tokens are in the order of the stream as
//! text is. Beside the events stand two kinds of documents that the archiver writes, for a stream
//! says nothing while nothing happens: where a stretch of log begins, and up to where it is known
//! to be whole.

use bson::raw::cstr;
use bson::spec::ElementType;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use super::elements::{Element, Elements};
use super::{EntryError, OplogTs};
use crate::timestamp::Timestamp;

/// Kind of the archiver's document with which a stretch of log begins.
pub const BEGIN: &str = "pitr:begin";
/// Kind of the archiver's document that says: every event up to its time stands before it.
pub const THROUGH: &str = "pitr:through";

/// A token begins with its time: a mark for the type (`ctype::kTimestamp`), then T and I.
const TIME_MARK: &str = "82";
const TIME_DIGITS: usize = TIME_MARK.len() + 16;

/// A view of one event.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub raw: &'a RawDocument,
    /// The whole of `_id`: where it has types of numbers beside the token (`_typeBits`), a stream does
    /// not go on without them.
    pub id: Option<&'a RawDocument>,
    pub token: &'a str,
    pub at: OplogTs,
    /// The primary's own clock.
    pub wall: Option<Timestamp>,
    /// `operationType`; empty of a later fragment of a large event.
    pub kind: &'a str,
    pub database: &'a str,
    /// `None` of what concerns a whole database.
    pub collection: Option<&'a str>,
    /// The collection's UUID; a view has none.
    pub uuid: Option<[u8; 16]>,
    /// The `_id` of the document, in a document.
    pub key: Option<&'a RawDocument>,
    /// What is inserted or put in the place of another; of an update its result, where the
    /// collection has images of it.
    pub full: Option<&'a RawDocument>,
    pub update: Option<&'a RawDocument>,
    /// What a command says beside its name.
    pub description: Option<&'a RawDocument>,
    pub txn_number: Option<i64>,
    /// Which fragment of how many (`$changeStreamSplitLargeEvent`).
    pub fragment: Option<(i64, i64)>,
}

impl<'a> Event<'a> {
    /// # Errors
    /// [`EntryError`] when it is no event.
    pub fn read(raw: &'a RawDocument) -> Result<Self, EntryError> {
        let mut found = Self {
            raw,
            id: None,
            token: "",
            at: OplogTs::default(),
            wall: None,
            kind: "",
            database: "",
            collection: None,
            uuid: None,
            key: None,
            full: None,
            update: None,
            description: None,
            txn_number: None,
            fragment: None,
        };
        for element in Elements::of(raw) {
            found.take(&element?)?;
        }
        found.at = time_of(found.token).ok_or(EntryError::Missing { field: "_id" })?;
        if found.kind.is_empty() && found.fragment.is_none() {
            return Err(EntryError::Missing { field: "operationType" });
        }
        Ok(found)
    }

    /// Whether a document looks like one: an oplog entry has no `_id`. Both may begin with a session.
    pub fn is_one(raw: &RawDocument) -> bool {
        let telling = |element: &Element<'_>| {
            matches!(element.name, b"_id" | b"operationType" | b"op" | b"ts" | b"o")
        };
        let first = Elements::of(raw).map_while(Result::ok).find(telling);
        first
            .is_some_and(|first| first.name == b"_id" && first.document("_id").is_ok_and(has_token))
    }

    fn take(&mut self, element: &Element<'a>) -> Result<(), EntryError> {
        match element.name {
            b"_id" => {
                let id = element.document("_id")?;
                (self.id, self.token) = (Some(id), token_of(id).unwrap_or_default());
            }
            b"operationType" => self.kind = element.text("operationType")?,
            b"wallTime" => self.wall = Some(element.wall()?),
            b"ns" => {
                let ns = element.document("ns")?;
                self.database = ns.get_str("db").unwrap_or_default();
                self.collection = ns.get_str("coll").ok();
            }
            b"collectionUUID" => self.uuid = element.uuid()?,
            b"documentKey" => self.key = Some(element.document("documentKey")?),
            // Null where it was asked for and there is none.
            b"fullDocument" if element.kind == ElementType::EmbeddedDocument => {
                self.full = Some(element.document("fullDocument")?);
            }
            b"updateDescription" => self.update = Some(element.document("updateDescription")?),
            b"operationDescription" => {
                self.description = Some(element.document("operationDescription")?);
            }
            b"txnNumber" => self.txn_number = Some(element.integer("txnNumber")?),
            b"splitEvent" => {
                let split = element.document("splitEvent")?;
                let number = |field| match split.get(field) {
                    Ok(Some(RawBsonRef::Int32(number))) => Some(i64::from(number)),
                    Ok(Some(RawBsonRef::Int64(number))) => Some(number),
                    _ => None,
                };
                self.fragment = number("fragment").zip(number("of"));
            }
            // The same as in the token, or this is not what it looks like.
            b"clusterTime" => {
                let time = element.timestamp("clusterTime")?;
                if time_of(self.token).is_some_and(|at| at != time) {
                    return Err(EntryError::Type { field: "clusterTime" });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the archiver wrote it, and no server.
    pub fn is_note(&self) -> bool {
        matches!(self.kind, BEGIN | THROUGH)
    }

    /// Where a stream goes on behind it: its token, but for the first document of a stretch, which
    /// has none.
    pub fn resume_token(&self) -> Option<&'a RawDocument> {
        self.id.filter(|_| self.kind != BEGIN)
    }

    /// `database.collection`
    pub fn namespace(&self) -> String {
        match self.collection {
            Some(collection) => format!("{}.{collection}", self.database),
            None => self.database.to_owned(),
        }
    }

    /// What of it cannot be replayed exactly, as far as it shows.
    pub fn inexact(&self) -> Option<Inexact> {
        match (self.kind, self.description) {
            ("update", _) if self.full.is_none() => {
                let paths = self.update.is_some_and(has_dotted_paths);
                paths.then_some(Inexact::Path)
            }
            ("create", Some(description)) => {
                let view_on = description.get_str("viewOn").unwrap_or_default();
                view_on.starts_with("system.buckets.").then_some(Inexact::TimeSeries)
            }
            ("rename", _) => self.converts().map(|_| Inexact::ConvertToCapped),
            _ => None,
        }
    }

    /// The collection that `convertToCapped` puts in place with this event. Its documents were copied
    /// before, and no event shows them (they are marked `fromMigrate` in the oplog).
    pub fn converts(&self) -> Option<String> {
        let name = self.collection.filter(|_| self.kind == "rename").and_then(converted)?;
        Some(format!("{}.{name}", self.database))
    }
}

/// Why an event cannot be replayed exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inexact {
    /// A dotted path, which may also be a name with dots in it.
    Path,
    TimeSeries,
    /// The documents of the collection are not sent.
    ConvertToCapped,
}

/// The collection that a temporary one becomes: `tmp`, five random characters, `.convertToCapped.`, then
/// its name (src/mongo/db/catalog/capped_utils.cpp).
fn converted(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("tmp")?;
    rest.get(5..)?.strip_prefix(".convertToCapped.")
}

/// Since MongoDB 6.1 `disambiguatedPaths` tells.
fn has_dotted_paths(update: &RawDocument) -> bool {
    if matches!(update.get("disambiguatedPaths"), Ok(Some(_))) {
        return false;
    }
    let dotted = |name: &str| name.contains('.');
    let updated = update.get_document("updatedFields").is_ok_and(|fields| {
        fields.iter_elements().flatten().any(|element| dotted(element.key().as_str()))
    });
    let removed = update.get_array("removedFields").is_ok_and(|fields| {
        fields.into_iter().flatten().any(|field| field.as_str().is_some_and(dotted))
    });
    let truncated = update.get_array("truncatedArrays").is_ok_and(|arrays| {
        let field = |array: RawBsonRef<'_>| {
            array.as_document().is_some_and(|array| array.get_str("field").is_ok_and(dotted))
        };
        arrays.into_iter().flatten().any(field)
    });
    updated || removed || truncated
}

fn has_token(id: &RawDocument) -> bool {
    token_of(id).is_some()
}

/// What sorts as the stream does, of a resume token.
pub fn token_of(id: &RawDocument) -> Option<&str> {
    id.get_str("_data").ok()
}

/// The cluster time that a resume token begins with.
pub fn time_of(token: &str) -> Option<OplogTs> {
    let digits = token.get(..TIME_DIGITS)?.strip_prefix(TIME_MARK)?;
    // `from_str_radix` takes a sign as well.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().map(OplogTs)
}

/// The document with which a stretch of log begins: nothing from `at` on is missing behind it. The
/// same for the same time, so that one that was stored in part is written again.
pub fn begin(at: OplogTs) -> RawDocumentBuf {
    note(&rawdoc! { "_data": format!("{TIME_MARK}{:016X}", at.0) }, at, BEGIN)
}

/// Everything up to `at` stands before this; the stream goes on behind `token`.
pub fn through(token: &RawDocument, at: OplogTs) -> RawDocumentBuf {
    note(token, at, THROUGH)
}

fn note(id: &RawDocument, at: OplogTs, kind: &str) -> RawDocumentBuf {
    let mut note = RawDocumentBuf::new();
    note.append(cstr!("_id"), id);
    note.append(cstr!("operationType"), kind);
    note.append(cstr!("clusterTime"), bson::Timestamp::from(at));
    let wall = bson::DateTime::from_millis(i64::from(at.seconds()) * 1000);
    note.append(cstr!("wallTime"), wall);
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "826B004913000000062B022C0100296E04";

    #[test]
    fn an_event_stands_where_its_token_says() {
        let at = OplogTs::new(0x6B00_4913, 6);
        assert_eq!(time_of(TOKEN), Some(at));
        assert_eq!(time_of("82"), None);
        assert_eq!(time_of("836B004913000000062B"), None);
        assert_eq!(time_of("82+B004913000000062B"), None);
        let raw = rawdoc! {
            "_id": { "_data": TOKEN }, "operationType": "update", "fullDocument": null,
            "clusterTime": bson::Timestamp::from(at), "ns": { "db": "shop", "coll": "a.b" },
            "documentKey": { "_id": 1 }, "updateDescription": { "updatedFields": { "o.q": 1 } },
        };
        let event = Event::read(&raw).expect("an event");
        assert_eq!((event.at, event.namespace().as_str()), (at, "shop.a.b"));
        assert!(event.full.is_none() && !event.is_note());
        assert_eq!(event.inexact(), Some(Inexact::Path));
        assert!(Event::is_one(&raw));
        let within = rawdoc! { "txnNumber": 1_i64, "lsid": {}, "_id": { "_data": TOKEN } };
        assert!(Event::is_one(&within));
        let entry = rawdoc! { "lsid": {}, "op": "i", "_id": { "_data": TOKEN } };
        assert!(!Event::is_one(&entry));
        let other = rawdoc! { "_id": { "_data": TOKEN }, "clusterTime": bson::Timestamp { time: 1, increment: 1 } };
        assert!(Event::read(&other).is_err());
    }

    #[test]
    fn notes_are_events_in_the_order_of_the_stream() {
        let at = OplogTs::new(0x6B00_4913, 6);
        let first = begin(at);
        let first = Event::read(&first).expect("a note");
        assert_eq!((first.at, first.resume_token()), (at, None));
        assert!(first.is_note() && first.token < TOKEN);
        let token = rawdoc! { "_data": TOKEN, "_typeBits": 1 };
        let last = through(&token, at);
        let last = Event::read(&last).expect("a note");
        assert_eq!((last.at, last.token, last.resume_token()), (at, TOKEN, Some(&*token)));
    }

    #[test]
    fn what_cannot_be_replayed_exactly_is_seen() {
        let event = |update: RawDocumentBuf| {
            let raw = rawdoc! {
                "_id": { "_data": TOKEN }, "operationType": "update", "updateDescription": update,
            };
            Event::read(&raw).expect("an event").inexact()
        };
        assert_eq!(event(rawdoc! { "updatedFields": { "a": 1 }, "removedFields": ["b"] }), None);
        assert_eq!(event(rawdoc! { "removedFields": ["b.c"] }), Some(Inexact::Path));
        let told = rawdoc! { "updatedFields": { "a.b": 1 }, "disambiguatedPaths": {} };
        assert_eq!(event(told), None);
        let truncated = rawdoc! { "truncatedArrays": [{ "field": "a.b", "newSize": 1 }] };
        assert_eq!(event(truncated), Some(Inexact::Path));
        let event = |kind: &str, name: &str| {
            let raw = rawdoc! {
                "_id": { "_data": TOKEN }, "operationType": kind, "ns": { "db": "shop", "coll": name },
            };
            let event = Event::read(&raw).expect("an event");
            (event.converts(), event.inexact())
        };
        let made = (Some("shop.cc.d".to_owned()), Some(Inexact::ConvertToCapped));
        assert_eq!(event("rename", "tmpGYtV3.convertToCapped.cc.d"), made);
        assert_eq!(event("rename", "tmp.convertToCapped.cc"), (None, None));
        assert_eq!(event("create", "tmpGYtV3.convertToCapped.cc.d"), (None, None));
    }
}
