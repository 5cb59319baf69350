//! Entries of the shapes that a server of version 6.0 writes, and rubbish.

use bson::{Binary, Bson, DateTime, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use proptest::prelude::*;

use super::*;
use crate::timestamp;

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("a document of our own")
}

fn entry(op: &str, ns: &str, o: Document, more: Document) -> RawDocumentBuf {
    let mut entry = doc! {
        "lsid": { "id": 1 },
        "txnNumber": 7_i64,
        "op": op,
        "ns": ns,
        "ui": Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] },
        "o": o,
        "ts": Timestamp { time: 1_795_150_757, increment: 2 },
        "t": 3_i64,
        "v": 2_i64,
        "wall": DateTime::from_millis(1_795_150_757_310),
    };
    entry.extend(more);
    raw(&entry)
}

#[test]
fn a_timestamp_is_read_in_both_notations_and_shown_in_ours() {
    let ts = OplogTs::new(1_795_150_757, 2);
    assert_eq!(ts.to_string(), "1795150757,2");
    for text in ["1795150757,2", "1795150757, 2", "Timestamp(1795150757, 2)"] {
        assert_eq!(text.parse(), Ok(ts), "{text}");
    }
    for text in ["", "1", "1,", ",2", "+1,2", "1,-2", "4294967296,1", "Timestamp(1,2", "1,2,3"] {
        assert!(text.parse::<OplogTs>().is_err(), "{text}");
    }
    assert!(OplogTs::new(1, u32::MAX) < OplogTs::new(2, 0));
    assert_eq!(OplogTs::from(Timestamp::from(ts)), ts);
    let json = serde_json::to_string(&ts.at(3)).expect("plain");
    assert_eq!(json, r#"{"ts":"1795150757,2","term":3}"#);
    assert_eq!(serde_json::from_str::<OpTime>(&json).expect("our own"), ts.at(3));
}

#[test]
fn an_entry_says_where_it_stands_and_what_it_does() -> Result<(), EntryError> {
    let bytes = entry("u", "shop.orders", doc! { "$v": 2 }, doc! { "o2": { "_id": 9 } });
    let read = Entry::read(&bytes)?;
    assert_eq!(read.at, OplogTs::new(1_795_150_757, 2).at(3));
    assert_eq!(read.op, Op::Update);
    assert_eq!((read.ns, read.database()), ("shop.orders", "shop"));
    assert_eq!(read.wall, Some(timestamp::Timestamp(1_795_150_757_310_000)));
    assert_eq!(read.ui, Some([7; 16]));
    assert_eq!(read.txn_number, Some(7));
    assert_eq!(read.o2.map(|o2| o2.get_i32("_id").ok()), Some(Some(9)));
    assert!(read.lsid.is_some() && read.previous.is_none() && read.multi_op_type.is_none());
    assert!(matches!(read.kind()?, Kind::Write) && read.is_commit()?);
    assert_eq!(Entry::place(&bytes)?, (read.at, read.wall));
    Ok(())
}

#[test]
fn a_transaction_counts_as_committed_with_the_entry_that_makes_it_visible() -> Result<(), EntryError>
{
    let command = |o: Document| entry("c", "admin.$cmd", o, doc! {});
    let ops = || vec![doc! { "op": "i", "ns": "a.b", "o": { "_id": 1 } }];
    let committed = [
        command(doc! { "applyOps": ops() }),
        command(doc! { "applyOps": ops(), "count": 6_i64 }),
        command(
            doc! { "commitTransaction": 1, "commitTimestamp": Timestamp { time: 5, increment: 1 } },
        ),
        command(doc! { "create": "c" }),
        command(doc! { "partialTxn": true }),
    ];
    let not_yet = [
        command(doc! { "applyOps": ops(), "partialTxn": true }),
        command(doc! { "applyOps": ops(), "prepare": true }),
        command(doc! { "abortTransaction": 1 }),
        entry("n", "", doc! { "msg": "periodic noop" }, doc! {}),
        entry("xx", "", doc! {}, doc! {}),
    ];
    for (documents, expected) in [(&committed, true), (&not_yet, false)] {
        for document in documents {
            assert_eq!(Entry::read(document)?.is_commit()?, expected, "{document:?}");
        }
    }
    let Kind::ApplyOps(last) = Entry::read(&committed[1])?.kind()? else { panic!("applyOps") };
    assert_eq!((last.count, last.ops.into_iter().count()), (Some(6), 1));
    let Kind::CommitTransaction { commit } = Entry::read(&committed[2])?.kind()? else {
        panic!("commitTransaction")
    };
    assert_eq!(commit, OplogTs::new(5, 1));
    let chained = doc! { "prevOpTime": { "ts": Timestamp { time: 4, increment: 9 }, "t": 2_i64 } };
    let chained = entry("c", "admin.$cmd", doc! { "applyOps": ops() }, chained);
    assert_eq!(Entry::read(&chained)?.previous, Some(OplogTs::new(4, 9).at(2)));
    Ok(())
}

#[test]
fn a_note_is_told_from_what_the_server_writes_by_itself() -> Result<(), EntryError> {
    let note = |ns: &str, o: Document| entry("n", ns, o, doc! {});
    for (ns, o, expected) in [
        ("", doc! { "msg": "before the deploy" }, Note::Named("before the deploy")),
        ("", Document::try_from(restore_point("p1"))?, Note::Named("p1")),
        ("", doc! { "msg": "periodic noop" }, Note::Periodic),
        ("", doc! { "msg": "new primary" }, Note::NewPrimary),
        ("", doc! { "msg": "initiating set" }, Note::Other),
        ("", doc! { "msg": 5 }, Note::Other),
        ("", doc! {}, Note::Other),
        ("a.b", doc! { "msg": "a chunk moves" }, Note::Other),
    ] {
        assert_eq!(Entry::read(&note(ns, o.clone()))?.note(), Some(expected), "{ns} {o}");
    }
    assert_eq!(Entry::read(&entry("i", "a.b", doc! { "msg": "x" }, doc! {}))?.note(), None);
    Ok(())
}

#[test]
fn a_run_ends_where_its_last_document_is_not_whole() {
    let documents: Vec<_> =
        (0..5).map(|n| raw(&doc! { "n": n, "pad": "x".repeat(n as usize) })).collect();
    let run: Vec<u8> = documents.iter().flat_map(|document| document.as_bytes().to_vec()).collect();
    for cut in 0..=run.len() {
        let mut walk = Documents::new(&run[..cut]);
        let found: Vec<_> = walk.by_ref().collect::<Result<_, _>>().expect("nothing is broken");
        assert!(found.iter().zip(&documents).all(|((_, found), own)| *found == own.as_ref()));
        let whole: usize = found.iter().map(|(_, document)| document.as_bytes().len()).sum();
        assert_eq!((walk.offset(), walk.rest()), (whole, &run[whole..cut]), "cut at {cut}");
        let next = documents.get(found.len()).map_or(usize::MAX, |next| next.as_bytes().len());
        assert!(cut - whole < next, "cut at {cut}");
    }
    assert_eq!(first_document(&run), Ok(Some(documents[0].as_ref())));
    assert_eq!(first_document(&run[..7]), Ok(None));
}

#[test]
fn a_length_that_no_document_has_ends_the_walk() {
    let largest = i32::try_from(DOCUMENT_MAX).expect("16 MiB and a little");
    for length in [i32::MIN, -1, 0, 4, largest + 1, i32::MAX] {
        let mut walk = Documents::new(&[]);
        let bytes = [&length.to_le_bytes()[..], &[0; 60]].concat();
        walk.clone_from(&Documents::new(&bytes));
        assert_eq!(walk.next(), Some(Err(WalkError::Length { offset: 0, length })));
        assert_eq!(walk.next(), None);
    }
    assert_eq!(first_document(&largest.to_le_bytes()), Ok(None));
    let unended = [5, 0, 0, 0, 1];
    assert_eq!(first_document(&unended), Err(WalkError::End { offset: 0, length: 5 }));
}

#[test]
fn an_entry_without_a_place_is_refused() {
    for gone in ["ts", "op", "ns", "o"] {
        let mut document =
            Document::try_from(entry("i", "a.b", doc! {}, doc! {})).expect("our own");
        document.remove(gone);
        let found = Entry::read(&raw(&document)).map(|entry| entry.at);
        assert!(matches!(found, Err(EntryError::Missing { field }) if field == gone), "{found:?}");
        document.insert(gone, Bson::Null);
        let found = Entry::read(&raw(&document)).map(|entry| entry.at);
        assert!(matches!(found, Err(EntryError::Type { field }) if field == gone), "{found:?}");
    }
}

proptest! {
    #[test]
    fn rubbish_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for document in Documents::new(&bytes) {
            let Ok((_, document)) = document else { break };
            look_at(document);
        }
    }

    /// An entry with some bytes changed: whatever it then says, reading it ends.
    #[test]
    fn a_damaged_entry_is_never_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let ops = doc! { "applyOps": [{ "op": "i", "o": { "_id": 1 } }], "count": 2, "prepare": true };
        let previous = doc! { "prevOpTime": { "ts": Timestamp { time: 4, increment: 9 }, "t": 2_i64 } };
        let mut bytes = entry("c", "admin.$cmd", ops, previous).into_bytes();
        for (at, byte) in changes {
            // Not the length: with it changed there is nothing to look at.
            let at = 4 + at.index(bytes.len() - 5);
            bytes[at] = byte;
        }
        look_at(RawDocument::from_bytes(&bytes).expect("its length and end are as they were"));
    }
}

fn look_at(document: &RawDocument) {
    let _ = Entry::place(document);
    if let Ok(entry) = Entry::read(document) {
        let _ = (entry.note(), entry.database(), entry.is_commit());
        if let Ok(Kind::ApplyOps(ops)) = entry.kind() {
            for op in ops.ops {
                let _ = op.map(|op| op.as_document().is_some());
            }
        }
    }
}
