//! One operation: an entry of its own, or an element of an `applyOps`.
//!
//! Enters: a raw document of which only known fields are looked at. Leaves: views, and the
//! document that the target's `applyOps` is given, built from the raw slices of `op`, `ns`, `o`
//! and `o2` and nothing else: an entry is never forwarded as it is, because fields such as
//! `needsRetryImage` without its session end mongod 6.0.5 (logical_session_id_gen.cpp:118).

use bson::raw::cstr;
use bson::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use proto::mongodb::base::Uuid;
use proto::mongodb::scope::split;
use proto::mongodb::{Entry, EntryError, Op};

/// What is applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) uuid: Option<Uuid>,
    pub(super) o: &'a RawDocument,
    pub(super) o2: Option<&'a RawDocument>,
}

impl<'a> Operation<'a> {
    pub(super) fn of(entry: &Entry<'a>) -> Self {
        let kind = match entry.op {
            Op::Insert => "i",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Command => "c",
            Op::Noop => "n",
            Op::Other(other) => other,
        };
        let uuid = entry.ui.map(Uuid);
        Self { kind, namespace: entry.ns, uuid, o: entry.o, o2: entry.o2 }
    }

    /// An element of an `applyOps`.
    pub(super) fn within(raw: &'a RawDocument) -> Result<Self, EntryError> {
        let missing = |field| move |_| EntryError::Missing { field };
        let uuid = match raw.get("ui")? {
            Some(RawBsonRef::Binary(binary)) => binary.bytes.try_into().ok().map(Uuid),
            _ => None,
        };
        Ok(Self {
            kind: raw.get_str("op").map_err(missing("op"))?,
            namespace: raw.get_str("ns").map_err(missing("ns"))?,
            uuid,
            o: raw.get_document("o").map_err(missing("o"))?,
            o2: raw.get_document("o2").ok(),
        })
    }

    pub(super) fn database(&self) -> &'a str {
        split(self.namespace).0
    }

    /// The `_id` of the document that is written.
    pub(super) fn id(&self) -> Result<Option<RawBsonRef<'a>>, EntryError> {
        let of = if self.kind == "u" { self.o2.unwrap_or(self.o) } else { self.o };
        Ok(of.get("_id")?)
    }

    /// A command's name, which is its first field.
    pub(super) fn command(&self) -> Result<&'a str, EntryError> {
        let first =
            self.o.iter_elements().next().ok_or(EntryError::Missing { field: "command" })?;
        Ok(first?.key().as_str())
    }

    /// As the target is to apply it, to the collection that bears the name there.
    pub(super) fn to_apply(self, namespace: &str) -> RawDocumentBuf {
        operation(self.kind, namespace, self.o, self.o2)
    }

    /// For people: short, with the facts.
    pub(super) fn show(raw: &RawDocument) -> String {
        // What turns it into text goes into it as deep as it is.
        if is_deeper(raw, DEPTH_MAX) {
            return format!("{} bytes, nested deeper than {DEPTH_MAX}", raw.as_bytes().len());
        }
        let document = bson::Document::try_from(raw.to_owned());
        let mut text = document.map_or_else(|error| error.to_string(), |shown| shown.to_string());
        if text.len() > SHOWN_MAX {
            let end = (0..=SHOWN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

const SHOWN_MAX: usize = 400;
/// No server takes a document that is nested deeper (src/mongo/bson/bson_depth.h).
pub(super) const DEPTH_MAX: usize = 250;

/// Whether a document is nested deeper than `levels`.
fn is_deeper(raw: &RawDocument, levels: usize) -> bool {
    let deeper = |value| match value {
        RawBsonRef::Document(within) => levels == 0 || is_deeper(within, levels - 1),
        RawBsonRef::Array(within) => levels == 0 || is_array_deeper(within, levels - 1),
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            levels == 0 || is_deeper(code.scope, levels - 1)
        }
        _ => false,
    };
    raw.iter().flatten().any(|(_, value)| deeper(value))
}

fn is_array_deeper(raw: &RawArray, levels: usize) -> bool {
    RawDocument::from_bytes(raw.as_bytes()).is_ok_and(|within| is_deeper(within, levels))
}

/// A command, as an operation of its database.
pub(super) fn command_in(database: &str, command: &RawDocument) -> RawDocumentBuf {
    operation("c", &format!("{database}.$cmd"), command, None)
}

/// What names a document.
pub(super) fn with_id(id: RawBsonRef<'_>) -> RawDocumentBuf {
    let mut which = rawdoc! {};
    which.append(cstr!("_id"), id);
    which
}

pub(super) fn operation(
    kind: &str,
    namespace: &str,
    o: &RawDocument,
    o2: Option<&RawDocument>,
) -> RawDocumentBuf {
    let mut apply = rawdoc! { "op": kind, "ns": namespace };
    apply.append(cstr!("o"), o);
    if let Some(o2) = o2 {
        apply.append(cstr!("o2"), o2);
    }
    apply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::mongodb::order;

    /// Documents in each other: `levels` of them.
    fn nested(levels: usize) -> RawDocumentBuf {
        let size = |inner: usize| i32::try_from(inner + 8).expect("below 2 GiB").to_le_bytes();
        let mut bytes: Vec<u8> = Vec::new();
        for level in (1..levels).rev() {
            // Length, type, an empty name; what is within ends as this does.
            bytes.extend(size(8 * level + 5 - 8));
            bytes.extend([3, b'a', 0]);
        }
        bytes.extend([5, 0, 0, 0, 0]);
        bytes.resize(bytes.len() + levels - 1, 0);
        RawDocumentBuf::from_bytes(bytes).expect("its length is right")
    }

    #[test]
    fn a_document_nested_deeper_than_any_server_allows_overflows_no_stack() {
        assert_eq!(Operation::show(&nested(2)), r#"{ "a": {} }"#);
        let deep = nested(1_000_000);
        assert_eq!(Operation::show(&deep), "7999997 bytes, nested deeper than 250");
        let value = || RawBsonRef::Document(&deep);
        assert!(order::compare(value(), value()).is_eq());
    }
}
