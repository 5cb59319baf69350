//! From what an update event says to a difference that the target applies (`$v: 2`).
//!
//! Enters: an `updateDescription`, and the document as it was before where a path of it may be read
//! in several ways. Leaves: the difference, and the path that could not be told from a name. Pure.
//!
//! An event names what changed by dotted paths. Before MongoDB 6.1 (`disambiguatedPaths`) `a.b` is
//! the field `b` within `a`, or a field whose name is `a.b`; `a.0` an element, or a field `0`. What
//! the document has settles most of it: there is nothing within a field that is no document. Only
//! where both are possible it stays open.

use bson::raw::{CString, cstr};
use bson::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use proto::mongodb::EntryError;

use super::operation::DEPTH_MAX;

/// Readings of one path that are looked for: two are too many already.
const READINGS_MAX: usize = 4;

/// The change of one document.
#[derive(Debug, PartialEq)]
pub struct Difference {
    /// The `o` of an update.
    pub o: RawDocumentBuf,
    /// A path that can be read as one and as a name; it was read as a path.
    pub open: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PathError {
    #[error("there is nothing at {path:?}")]
    Nothing { path: String },
    #[error(transparent)]
    Malformed(#[from] EntryError),
}

impl From<bson::error::Error> for PathError {
    fn from(error: bson::error::Error) -> Self {
        Self::Malformed(error.into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Element(usize),
}

/// What happens at the end of a path.
#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Set(RawBsonRef<'a>),
    Remove,
    Truncate(i32),
}

/// Something that has parts.
#[derive(Debug, Clone, Copy)]
enum Whole<'a> {
    Document(&'a RawDocument),
    Array(&'a RawArray),
}

/// Changes by where they are.
#[derive(Debug, Default)]
struct Node<'a> {
    is_array: bool,
    removed: Vec<String>,
    set: Vec<(String, RawBsonRef<'a>)>,
    length: Option<i32>,
    within: Vec<(String, Node<'a>)>,
}

/// Whether the document of before is needed to read its paths.
pub fn needs_document(update: &RawDocument) -> Result<bool, PathError> {
    if update.get("disambiguatedPaths")?.is_some() {
        return Ok(false);
    }
    Ok(changes(update)?.iter().any(|(path, _)| path.contains('.')))
}

/// The difference that an event tells of.
///
/// # Errors
/// When the document has no place for it: it is not what the source had.
pub fn difference(
    update: &RawDocument,
    before: Option<&RawDocument>,
) -> Result<Difference, PathError> {
    let told = match update.get("disambiguatedPaths")? {
        Some(RawBsonRef::Document(told)) => Some(told),
        _ => None,
    };
    let (mut root, mut open) = (Node::default(), None);
    for (path, change) in changes(update)? {
        let steps = match (told, before) {
            _ if !path.contains('.') => vec![Step::Field(path.to_owned())],
            (Some(told), _) => as_told(told, path)?,
            (None, Some(before)) => {
                let mut readings = Vec::new();
                read(Whole::Document(before), path, change, &mut Vec::new(), &mut readings);
                if readings.len() > 1 {
                    open = open.or_else(|| Some(path.to_owned()));
                }
                let longest = readings.into_iter().max_by_key(Vec::len);
                longest.ok_or_else(|| PathError::Nothing { path: path.to_owned() })?
            }
            (None, None) => return Err(PathError::Nothing { path: path.to_owned() }),
        };
        // Nothing is that deep in a document.
        if steps.len() > DEPTH_MAX {
            return Err(PathError::Nothing { path: path.to_owned() });
        }
        root.put(&steps, change);
    }
    let mut o = rawdoc! { "$v": 2 };
    o.append(cstr!("diff"), root.write()?);
    Ok(Difference { o, open })
}

/// Every path of an update and what happens there, in the event's order.
fn changes(update: &RawDocument) -> Result<Vec<(&str, Change<'_>)>, PathError> {
    let mut found = Vec::new();
    if let Some(RawBsonRef::Document(fields)) = update.get("updatedFields")? {
        for field in fields.iter() {
            let (path, value) = field?;
            found.push((path.as_str(), Change::Set(value)));
        }
    }
    if let Some(RawBsonRef::Array(fields)) = update.get("removedFields")? {
        for field in fields {
            let missing = EntryError::Type { field: "removedFields" };
            found.push((field?.as_str().ok_or(missing)?, Change::Remove));
        }
    }
    if let Some(RawBsonRef::Array(arrays)) = update.get("truncatedArrays")? {
        for array in arrays {
            let wrong = || EntryError::Type { field: "truncatedArrays" };
            let array = array?.as_document().ok_or_else(wrong)?;
            let path = array.get_str("field").map_err(|_| wrong())?;
            let size = array.get_i32("newSize").map_err(|_| wrong())?;
            found.push((path, Change::Truncate(size)));
        }
    }
    Ok(found)
}

/// By `disambiguatedPaths`, which has the paths that are not what they look like: fields, parted by
/// dots.
fn as_told(told: &RawDocument, path: &str) -> Result<Vec<Step>, PathError> {
    let Some(RawBsonRef::Array(parts)) = told.get(path)? else {
        return Ok(path.split('.').map(|field| Step::Field(field.to_owned())).collect());
    };
    let mut steps = Vec::new();
    for part in parts {
        let wrong = EntryError::Type { field: "disambiguatedPaths" };
        let element = |at: i64| usize::try_from(at).ok().map(Step::Element);
        let step = match part? {
            RawBsonRef::String(field) => Some(Step::Field(field.to_owned())),
            RawBsonRef::Int32(at) => element(at.into()),
            RawBsonRef::Int64(at) => element(at),
            _ => None,
        };
        steps.push(step.ok_or(wrong)?);
    }
    Ok(steps)
}

/// All ways in which a path can be read in a document.
fn read(
    whole: Whole<'_>,
    path: &str,
    change: Change<'_>,
    steps: &mut Vec<Step>,
    found: &mut Vec<Vec<Step>>,
) {
    if found.len() >= READINGS_MAX || steps.len() == DEPTH_MAX {
        return;
    }
    if let Some(step) = whole.step(path)
        && change.fits(whole, whole.part(&step))
    {
        found.push(steps.iter().cloned().chain([step]).collect());
    }
    for (dot, _) in path.match_indices('.') {
        let Some(step) = whole.step(&path[..dot]) else { continue };
        let Some(within) = whole.part(&step).and_then(Whole::of) else { continue };
        steps.push(step);
        read(within, &path[dot + 1..], change, steps, found);
        steps.pop();
    }
}

impl Change<'_> {
    fn fits(self, whole: Whole<'_>, there: Option<RawBsonRef<'_>>) -> bool {
        match (self, there) {
            (Self::Set(_), _) => true,
            (Self::Remove, there) => matches!(whole, Whole::Document(_)) && there.is_some(),
            (Self::Truncate(size), Some(RawBsonRef::Array(array))) => {
                usize::try_from(size).is_ok_and(|size| array.into_iter().count() > size)
            }
            (Self::Truncate(_), _) => false,
        }
    }
}

impl<'a> Whole<'a> {
    const fn of(value: RawBsonRef<'a>) -> Option<Self> {
        match value {
            RawBsonRef::Document(document) => Some(Self::Document(document)),
            RawBsonRef::Array(array) => Some(Self::Array(array)),
            _ => None,
        }
    }

    /// The part that a name stands for, whether it is there or not.
    fn step(self, name: &str) -> Option<Step> {
        match self {
            Self::Document(_) => Some(Step::Field(name.to_owned())),
            Self::Array(_) => {
                let at: usize = name.parse().ok()?;
                (at.to_string() == name).then_some(Step::Element(at))
            }
        }
    }

    fn part(self, step: &Step) -> Option<RawBsonRef<'a>> {
        match (self, step) {
            (Self::Document(document), Step::Field(name)) => document.get(name).ok().flatten(),
            (Self::Array(array), Step::Element(at)) => array.get(*at).ok().flatten(),
            _ => None,
        }
    }
}

impl Step {
    fn name(&self) -> String {
        match self {
            Self::Field(name) => name.clone(),
            Self::Element(at) => at.to_string(),
        }
    }
}

impl<'a> Node<'a> {
    fn put(&mut self, steps: &[Step], change: Change<'a>) {
        let Some((step, behind)) = steps.split_first() else {
            if let Change::Truncate(size) = change {
                (self.is_array, self.length) = (true, Some(size));
            }
            return;
        };
        self.is_array = matches!(step, Step::Element(_));
        let name = step.name();
        match (behind, change) {
            ([], Change::Set(value)) => self.set.push((name, value)),
            ([], Change::Remove) => self.removed.push(name),
            _ => {
                let known = self.within.iter().position(|(known, _)| *known == name);
                let at = known.unwrap_or_else(|| {
                    self.within.push((name, Node::default()));
                    self.within.len() - 1
                });
                self.within[at].1.put(behind, change);
            }
        }
    }

    /// In the order that the server wants: src/mongo/db/update/document_diff_serialization.h.
    fn write(self) -> Result<RawDocumentBuf, PathError> {
        let mut diff = RawDocumentBuf::new();
        if self.is_array {
            return self.write_array();
        }
        if !self.removed.is_empty() {
            let mut removed = RawDocumentBuf::new();
            for name in self.removed {
                removed.append(CString::try_from(name)?, false);
            }
            diff.append(cstr!("d"), removed);
        }
        if !self.set.is_empty() {
            // A field that is not there yet is put behind the others.
            let mut set = RawDocumentBuf::new();
            for (name, value) in self.set {
                set.append(CString::try_from(name)?, value);
            }
            diff.append(cstr!("u"), set);
        }
        for (name, node) in self.within {
            diff.append(CString::try_from(format!("s{name}"))?, node.write()?);
        }
        Ok(diff)
    }

    fn write_array(self) -> Result<RawDocumentBuf, PathError> {
        let mut diff = rawdoc! { "a": true };
        if let Some(length) = self.length {
            diff.append(cstr!("l"), length);
        }
        let place = |name: &str| name.parse::<usize>().unwrap_or(usize::MAX);
        let mut parts = Vec::new();
        for (name, value) in self.set {
            let mut part = RawDocumentBuf::new();
            part.append(CString::try_from(format!("u{name}"))?, value);
            parts.push((place(&name), part));
        }
        for (name, node) in self.within {
            let mut part = RawDocumentBuf::new();
            part.append(CString::try_from(format!("s{name}"))?, node.write()?);
            parts.push((place(&name), part));
        }
        parts.sort_by_key(|(place, _)| *place);
        for (_, part) in &parts {
            for element in part.iter() {
                let (key, value) = element?;
                diff.append(key, value);
            }
        }
        Ok(diff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(update: &RawDocument, before: &RawDocument) -> Difference {
        difference(update, Some(before)).expect("it fits")
    }

    #[test]
    fn a_path_without_dots_needs_no_document() {
        let update = rawdoc! {
            "updatedFields": { "z": 1, "a": [1] }, "removedFields": ["n"],
            "truncatedArrays": [{ "field": "l", "newSize": 2 }],
        };
        assert!(!needs_document(&update).expect("an update"));
        let found = difference(&update, None).expect("it fits");
        let o = rawdoc! { "$v": 2, "diff": {
            "d": { "n": false }, "u": { "z": 1, "a": [1] }, "sl": { "a": true, "l": 2 },
        } };
        assert_eq!(found, Difference { o, open: None });
    }

    #[test]
    fn what_the_document_has_settles_what_a_path_is() {
        // A number is an element of an array, and a field of a document.
        let before = rawdoc! { "a": [1, { "x": 1 }], "o": { "0": 1 }, "s": 5, "k.l": 1 };
        let update = rawdoc! { "updatedFields": { "a.1.x": 7, "a.5": 1, "o.0": 2 } };
        assert!(needs_document(&update).expect("an update"));
        let o = rawdoc! { "$v": 2, "diff": {
            "sa": { "a": true, "s1": { "u": { "x": 7 } }, "u5": 1 }, "so": { "u": { "0": 2 } },
        } };
        assert_eq!(of(&update, &before), Difference { o, open: Some("a.1.x".to_owned()) });
        // Nothing is within what is no document: these are names.
        let update = rawdoc! { "updatedFields": { "p.q": 7, "s.t": 1, "a.b": 2 } };
        let o = rawdoc! { "$v": 2, "diff": { "u": { "p.q": 7, "s.t": 1, "a.b": 2 } } };
        assert_eq!(of(&update, &before), Difference { o, open: None });
        // What is removed must be there.
        let update = rawdoc! { "removedFields": ["o.0", "k.l"] };
        let o =
            rawdoc! { "$v": 2, "diff": { "d": { "k.l": false }, "so": { "d": { "0": false } } } };
        assert_eq!(of(&update, &before), Difference { o, open: None });
        let gone = rawdoc! { "removedFields": ["o.7"] };
        assert!(matches!(difference(&gone, Some(&before)), Err(PathError::Nothing { .. })));
    }

    #[test]
    fn a_path_that_may_be_a_name_too_stays_open() {
        let before = rawdoc! { "o": { "q": 1 } };
        let update = rawdoc! { "updatedFields": { "o.q": 2 } };
        let found = of(&update, &before);
        assert_eq!(found.open.as_deref(), Some("o.q"));
        assert_eq!(found.o, rawdoc! { "$v": 2, "diff": { "so": { "u": { "q": 2 } } } });
    }

    #[test]
    fn a_server_that_tells_is_believed() {
        let update = rawdoc! {
            "updatedFields": { "o.q": 1, "p.q": 2, "a.0": 3 },
            "disambiguatedPaths": { "p.q": ["p.q"], "a.0": ["a", 0] },
        };
        assert!(!needs_document(&update).expect("an update"));
        let found = difference(&update, None).expect("it fits");
        let o = rawdoc! { "$v": 2, "diff": {
            "u": { "p.q": 2 }, "so": { "u": { "q": 1 } }, "sa": { "a": true, "u0": 3 },
        } };
        assert_eq!(found, Difference { o, open: None });
    }

    #[test]
    fn a_path_deeper_than_any_document_overflows_no_stack() {
        let mut fields = RawDocumentBuf::new();
        fields.append(CString::try_from("a.".repeat(1_000_000)).expect("text"), 1);
        let update = rawdoc! { "updatedFields": fields, "disambiguatedPaths": {} };
        assert!(matches!(difference(&update, None), Err(PathError::Nothing { .. })));
    }
}
