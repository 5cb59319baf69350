//! The elements of one BSON document, each where it lies (bsonspec.org, version 1.1).
//!
//! Enters: a document. Leaves: its elements in order, as a name, a type and the value's bytes; only who
//! asks for a value pays for decoding it. Every entry of a log is walked twice, by whoever passes it on
//! and by the index, so this is what catching up costs: the iterator of `bson` proves every name to be
//! text and took a quarter of all CPU here. Rubbish ends the walk with an error.

use bson::RawDocument;
use bson::spec::ElementType;

use super::{EntryError, OplogTs};
use crate::timestamp::Timestamp;

/// One element. Whoever asks for a value says what to call it where it is of another type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    /// Its name, without the zero at its end; text, if a driver wrote it.
    pub name: &'a [u8],
    pub kind: ElementType,
    value: &'a [u8],
}

/// The elements of a document, up to the first that cannot be one.
#[derive(Debug, Clone)]
pub(super) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub(super) fn of(document: &'a RawDocument) -> Self {
        let bytes = document.as_bytes();
        // Four bytes of length in front, a zero at the end: a raw document is proved to have them.
        let end = bytes.len().saturating_sub(1);
        Self { rest: bytes.get(4..end).unwrap_or_default() }
    }

    /// The first element with this name.
    pub(super) fn get(
        document: &'a RawDocument,
        name: &[u8],
    ) -> Result<Option<Element<'a>>, EntryError> {
        let named = |element: &Result<Element<'_>, _>| {
            element.as_ref().map_or(true, |element| element.name == name)
        };
        Self::of(document).find(named).transpose()
    }

    #[inline]
    fn read(&mut self) -> Option<Element<'a>> {
        let (&tag, named) = self.rest.split_first()?;
        let kind = ElementType::from(tag)?;
        let (name, behind) = cstring(named)?;
        let (value, rest) = behind.split_at_checked(size(kind, behind)?)?;
        self.rest = rest;
        Some(Element { name, kind, value })
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, EntryError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let left = self.rest.len();
        let read = self.read().ok_or(EntryError::Torn { left });
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}

/// What stands before the first zero, and behind it. Names are short.
#[inline]
fn cstring(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let (text, rest) = bytes.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}

/// How many bytes the value has that begins here.
#[inline]
fn size(kind: ElementType, bytes: &[u8]) -> Option<usize> {
    let counted = |more: usize| {
        let length = usize::try_from(i32::from_le_bytes(*bytes.first_chunk::<4>()?)).ok()?;
        length.checked_add(more)
    };
    match kind {
        ElementType::Null | ElementType::Undefined | ElementType::MinKey | ElementType::MaxKey => {
            Some(0)
        }
        ElementType::Boolean => Some(1),
        ElementType::Int32 => Some(4),
        ElementType::Double
        | ElementType::DateTime
        | ElementType::Timestamp
        | ElementType::Int64 => Some(8),
        ElementType::ObjectId => Some(12),
        ElementType::Decimal128 => Some(16),
        // The length counts itself.
        ElementType::EmbeddedDocument
        | ElementType::Array
        | ElementType::JavaScriptCodeWithScope => counted(0),
        ElementType::String | ElementType::JavaScriptCode | ElementType::Symbol => counted(4),
        ElementType::Binary => counted(5),
        ElementType::DbPointer => counted(16),
        ElementType::RegularExpression => {
            let (pattern, behind) = cstring(bytes)?;
            let (options, _) = cstring(behind)?;
            Some(pattern.len() + options.len() + 2)
        }
    }
}

impl<'a> Element<'a> {
    /// The value, if it is of this type.
    #[inline]
    fn of_type(&self, kind: ElementType, field: &'static str) -> Result<&'a [u8], EntryError> {
        if self.kind == kind { Ok(self.value) } else { Err(EntryError::Type { field }) }
    }

    #[inline]
    fn eight(&self, kind: ElementType, field: &'static str) -> Result<[u8; 8], EntryError> {
        let value = self.of_type(kind, field)?;
        value.try_into().map_err(|_| EntryError::Type { field })
    }

    #[inline]
    pub(super) fn timestamp(&self, field: &'static str) -> Result<OplogTs, EntryError> {
        self.eight(ElementType::Timestamp, field).map(|bytes| OplogTs(u64::from_le_bytes(bytes)))
    }

    /// A whole number of either width.
    #[inline]
    pub(super) fn integer(&self, field: &'static str) -> Result<i64, EntryError> {
        match (self.kind, self.value.first_chunk::<4>()) {
            (ElementType::Int32, Some(bytes)) => Ok(i32::from_le_bytes(*bytes).into()),
            _ => self.eight(ElementType::Int64, field).map(i64::from_le_bytes),
        }
    }

    pub(super) fn truth(&self, field: &'static str) -> Result<bool, EntryError> {
        match self.of_type(ElementType::Boolean, field)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(EntryError::Type { field }),
        }
    }

    #[inline]
    pub(super) fn text(&self, field: &'static str) -> Result<&'a str, EntryError> {
        let wrong = || EntryError::Type { field };
        let bytes = self.of_type(ElementType::String, field)?.get(4..).ok_or_else(wrong)?;
        let (zero, text) = bytes.split_last().ok_or_else(wrong)?;
        if *zero != 0 {
            return Err(wrong());
        }
        std::str::from_utf8(text).map_err(|_| wrong())
    }

    #[inline]
    pub(super) fn document(&self, field: &'static str) -> Result<&'a RawDocument, EntryError> {
        let value = self.of_type(ElementType::EmbeddedDocument, field)?;
        Ok(RawDocument::from_bytes(value)?)
    }

    /// A server's clock.
    #[inline]
    pub(super) fn wall(&self) -> Result<Timestamp, EntryError> {
        let millis = i64::from_le_bytes(self.eight(ElementType::DateTime, "wall")?);
        Ok(Timestamp(millis.saturating_mul(1000)))
    }

    /// `None` for bytes of another length.
    #[inline]
    pub(super) fn uuid(&self) -> Result<Option<[u8; 16]>, EntryError> {
        let value = self.of_type(ElementType::Binary, "ui")?;
        Ok(value.get(5..).and_then(|bytes| bytes.try_into().ok()))
    }
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::raw::cstr;
    use bson::{
        Binary, DateTime, DbPointer, Decimal128, JavaScriptCodeWithScope, RawBson, RawDocumentBuf,
        Regex, Timestamp as Ts, doc, rawdoc,
    };

    use super::*;

    /// An element of every type there is.
    fn every_type() -> RawDocumentBuf {
        let id = ObjectId::from_bytes([7; 12]);
        let scope = JavaScriptCodeWithScope { code: "x".to_owned(), scope: doc! { "a": 1 } };
        let pattern = Regex {
            pattern: "a.*b".try_into().expect("text"),
            options: "ix".try_into().expect("text"),
        };
        let bytes = vec![1, 2, 3];
        let mut all = rawdoc! {
            "double": 1.5, "text": "täxt", "document": { "a": [1, "b"] }, "array": [1_i64, null],
            "bytes": Binary { subtype: bson::spec::BinarySubtype::Generic, bytes },
            "id": id, "yes": true, "no": false, "date": DateTime::from_millis(-1), "null": null,
            "pattern": pattern, "code": RawBson::JavaScriptCode("f()".to_owned()),
            "symbol": RawBson::Symbol("s".to_owned()), "small": -7_i32,
            "time": Ts { time: 5, increment: 6 }, "large": i64::MIN,
            "decimal": Decimal128::from_bytes([9; 16]), "": "an empty name",
        };
        let scope = RawBson::try_from(bson::Bson::JavaScriptCodeWithScope(scope)).expect("a value");
        all.append(cstr!("scope"), scope);
        all.append(cstr!("undefined"), RawBson::Undefined);
        all.append(cstr!("least"), RawBson::MinKey);
        all.append(cstr!("most"), RawBson::MaxKey);
        let pointer: DbPointer = bson::deserialize_from_bson(
            bson::bson!({ "$dbPointer": { "$ref": "a.b", "$id": id } }),
        )
        .expect("a pointer");
        let pointer = RawBson::try_from(bson::Bson::DbPointer(pointer)).expect("a value");
        all.append(cstr!("pointer"), pointer);
        all
    }

    /// Names, types and sizes, up to the first element that is none.
    fn ours(raw: &RawDocument) -> (Vec<(Vec<u8>, u8, usize)>, bool) {
        let mut found = Vec::new();
        for element in Elements::of(raw) {
            let Ok(element) = element else { return (found, false) };
            found.push((element.name.to_vec(), element.kind as u8, element.value.len()));
        }
        (found, true)
    }

    fn theirs(raw: &RawDocument) -> (Vec<(Vec<u8>, u8, usize)>, bool) {
        let mut found = Vec::new();
        for element in raw.iter_elements() {
            let Ok(element) = element else { return (found, false) };
            let name = element.key().as_str().as_bytes().to_vec();
            found.push((name, element.element_type() as u8, element.size()));
        }
        (found, true)
    }

    #[test]
    fn elements_of_every_type_are_what_bson_says_they_are() {
        let all = every_type();
        let (found, whole) = ours(&all);
        assert!(whole);
        assert_eq!((found.len(), (found, whole)), (23, theirs(&all)));
    }

    /// What `bson` refuses beside what has no end: names that are no text, values whose inside is wrong.
    #[test]
    fn what_bson_reads_of_a_damaged_document_is_read_alike_and_nothing_panics() {
        let all = every_type().into_bytes();
        let (mut alike, mut refused) = (0, 0);
        for at in 4..all.len() - 1 {
            for bit in 0..8 {
                let mut damaged = all.clone();
                damaged[at] ^= 1 << bit;
                let raw = RawDocument::from_bytes(&damaged).expect("the length is right");
                let ((ours, whole), (theirs, read)) = (ours(raw), theirs(raw));
                assert!(ours.starts_with(&theirs), "byte {at}, bit {bit}");
                assert!(!read || (whole && ours.len() == theirs.len()), "byte {at}, bit {bit}");
                alike += u32::from(read);
                refused += u32::from(!whole);
            }
        }
        assert!(alike > 100 && refused > 100, "{alike} read, {refused} refused");
    }

    #[test]
    fn a_value_of_another_type_is_named_and_not_made_up() {
        let all = every_type();
        for element in Elements::of(&all) {
            let element = element.expect("whole");
            let is = |kind| element.kind == kind;
            assert_eq!(element.timestamp("f").is_ok(), is(ElementType::Timestamp));
            assert_eq!(
                element.integer("f").is_ok(),
                is(ElementType::Int32) || is(ElementType::Int64)
            );
            assert_eq!(element.truth("f").is_ok(), is(ElementType::Boolean));
            assert_eq!(element.text("f").is_ok(), is(ElementType::String));
            assert_eq!(element.document("f").is_ok(), is(ElementType::EmbeddedDocument));
            assert_eq!(element.wall().is_ok(), is(ElementType::DateTime));
            assert_eq!(element.uuid().is_ok(), is(ElementType::Binary));
        }
        let small = Elements::get(&all, b"small").expect("read").expect("there");
        assert_eq!(small.integer("f").ok(), Some(-7));
        let large = Elements::get(&all, b"large").expect("read").expect("there");
        assert_eq!(large.integer("f").ok(), Some(i64::MIN));
        let time = Elements::get(&all, b"time").expect("read").expect("there");
        assert_eq!(time.timestamp("f").ok(), Some(OplogTs::new(5, 6)));
        let text = Elements::get(&all, b"text").expect("read").expect("there");
        assert_eq!(text.text("f").ok(), Some("täxt"));
        assert!(Elements::get(&all, b"none").expect("read").is_none());
    }
}
