//! What an event says of an update, and the document that it is of: the difference that is applied; and
//! the order of values, which decides where a document of a base is.
#![no_main]

use bson::{RawDocument, rawdoc};
use fuzz::seeds;
use proto::mongodb::Documents;
use replay::target::mongodb::{order, paths};

fn seeds() -> Vec<seeds::Seed> {
    let pair = |update: bson::RawDocumentBuf, before: bson::RawDocumentBuf| {
        [update.into_bytes(), before.into_bytes()].concat()
    };
    let before = || rawdoc! { "a": [1, { "x": 1 }], "o": { "0": 1, "q": 2 }, "s": 5, "k.l": 1, "l": [1, 2, 3] };
    let decimal: bson::Decimal128 = "-12.50E+3".parse().expect("a number");
    vec![
        seeds::seed(
            "plain",
            pair(
                rawdoc! { "updatedFields": { "z": 1, "a": [1] }, "removedFields": ["n"], "truncatedArrays": [{ "field": "l", "newSize": 2 }] },
                before(),
            ),
        ),
        seeds::seed(
            "dotted",
            pair(
                rawdoc! { "updatedFields": { "a.1.x": 7, "a.5": 1, "o.0": 2 }, "removedFields": ["o.q", "k.l"] },
                before(),
            ),
        ),
        seeds::seed(
            "told",
            pair(
                rawdoc! { "updatedFields": { "o.q": 1, "p.q": 2, "a.0": 3 }, "disambiguatedPaths": { "p.q": ["p.q"], "a.0": ["a", 0] } },
                before(),
            ),
        ),
        seeds::seed(
            "values",
            pair(
                rawdoc! { "d": decimal, "f": 1.5, "i": 7_i64, "n": null },
                rawdoc! { "d": 1e300, "f": -0.0, "i": 7_i32, "n": { "b": [true] } },
            ),
        ),
    ]
}

fn ordered(a: &RawDocument, b: &RawDocument) {
    let values = || a.iter().chain(b.iter()).flatten().map(|(_, value)| value).take(12);
    for x in values() {
        assert!(order::compare(x, x).is_eq(), "a value is equal to itself");
        for y in values() {
            assert_eq!(
                order::compare(x, y),
                order::compare(y, x).reverse(),
                "both ways tell the same"
            );
        }
    }
}

fn input(data: &[u8]) {
    let mut documents = Documents::new(data).map_while(Result::ok).map(|(_, document)| document);
    let (Some(update), Some(before)) = (documents.next(), documents.next()) else { return };
    ordered(update, before);
    let needed = paths::needs_document(update);
    let alone = paths::difference(update, None);
    if let (Ok(false), Ok(alone)) = (&needed, &alone) {
        let both = paths::difference(update, Some(before)).expect("it can be read without");
        assert_eq!(&both, alone, "what needs no document does not look at it");
    }
    if let Ok(found) = paths::difference(update, Some(before)) {
        let diff = found.o.get_document("diff").expect("every difference has one");
        assert!(diff.iter().all(|element| element.is_ok()), "a difference can be read");
    }
}

fuzz::target!("updates", most: 16 << 20, seeds: seeds, input: input);
