//! Runs of BSON documents: entries of an oplog and events of a change stream, and the index made of them.
#![no_main]

use bson::RawDocument;
use fuzz::{Input, input::pieces, seeds};
use proto::archive::index::{OplogIndexer, SegmentIndex};
use proto::mongodb::{Documents, Entry, Event, Order, Record, event, first_document};
use proto::position::Offset;

fn seeds() -> Vec<seeds::Seed> {
    let run = |documents: Vec<bson::RawDocumentBuf>| {
        documents.into_iter().flat_map(bson::RawDocumentBuf::into_bytes).collect::<Vec<_>>()
    };
    let with = |run: Vec<u8>| [&[3][..], &run].concat();
    let mut found = vec![
        seeds::seed("entries", with(run(fuzz::bson::entries()))),
        seeds::seed("events", with(run(fuzz::bson::events()))),
    ];
    let each = fuzz::bson::entries().into_iter().chain(fuzz::bson::events());
    found.extend(
        each.enumerate()
            .map(|(at, document)| seeds::seed(&at.to_string(), with(document.into_bytes()))),
    );
    found
}

/// What is read is what `bson` reads.
fn look(raw: &RawDocument) {
    let glance = Entry::glance(raw);
    if let Ok(entry) = Entry::read(raw) {
        let glance = glance.expect("what can be read can be looked at");
        assert_eq!((glance.at, glance.wall, glance.op), (entry.at, entry.wall, Some(entry.op)));
        assert_eq!(Entry::place(raw).ok(), Some((entry.at, entry.wall)));
        assert!(entry.ns.starts_with(entry.database()));
        let _ = (entry.kind(), entry.is_commit(), entry.note());
        if let Ok(ns) = raw.get_str("ns")
            && raw.iter().all(|element| element.is_ok())
            && once(raw, "ns")
        {
            assert_eq!(ns, entry.ns);
        }
        let within = entry.kind().ok().and_then(|kind| match kind {
            proto::mongodb::Kind::ApplyOps(ops) => Some(ops),
            _ => None,
        });
        for operation in within.into_iter().flat_map(|ops| ops.ops) {
            let _ = operation.is_ok();
        }
    }
    if let Ok(found) = Event::read(raw) {
        assert_eq!(event::time_of(found.token), Some(found.at));
        let written = event::begin(found.at);
        let again = Event::read(&written).expect("our own document");
        assert_eq!(again.at, found.at);
        assert!(
            again.token.len() <= found.token.len()
                && found.token.is_char_boundary(again.token.len())
        );
        assert!(
            found.token[..again.token.len()].eq_ignore_ascii_case(again.token),
            "a token begins with its time"
        );
        let _ = (
            found.inexact(),
            found.converts(),
            found.namespace(),
            found.is_note(),
            found.resume_token(),
        );
    }
}

/// Of a name that stands there twice the first counts in `bson`, and the last in a reader of all.
fn once(raw: &RawDocument, name: &str) -> bool {
    raw.iter().flatten().filter(|(key, _)| key.as_str() == name).count() == 1
}

fn input(data: &[u8]) {
    let mut input = Input(data);
    let step = input.byte();
    let bytes = input.0;
    let mut documents = Documents::new(bytes);
    let (mut order, mut end) = (Order::default(), 0);
    while let Some(Ok((at, raw))) = documents.next() {
        assert_eq!(at, end, "documents follow each other");
        assert_eq!(
            first_document(&bytes[at..]).ok().flatten().map(RawDocument::as_bytes),
            Some(raw.as_bytes())
        );
        end = documents.offset();
        look(raw);
        let Ok(record) = Record::read(raw) else { continue };
        assert_eq!(
            Record::place(raw).ok().map(|(at, wall)| (at.ts, wall)),
            Some((record.at(), record.wall()))
        );
        let _ = (record.is_commit(), record.note());
        let before = order.at();
        if order.advance(&record) {
            assert!(order.at() >= before && order.whole() <= order.at(), "a log goes forward");
            assert!(
                !order.advance(&record)
                    || matches!(record, Record::Event(event) if event.is_note())
            );
        }
    }
    assert_eq!(documents.rest(), &bytes[end..]);

    let number = 5;
    let lengths = || pieces(bytes, step).map(|piece| u32::try_from(piece.len()).expect("small"));
    let index = OplogIndexer::build(number, Offset(100), bytes, lengths());
    assert_eq!(SegmentIndex::decode(&index.encode()).as_ref(), Ok(&index), "an index reads back");
    let whole = OplogIndexer::build(number, Offset(100), bytes, []);
    let summary =
        |index: &SegmentIndex| (index.summary(), index.counts.clone(), index.unknown.clone());
    assert_eq!(summary(&index), summary(&whole), "the pieces make a difference");
}

fuzz::target!("documents", most: 16 << 20, seeds: seeds, input: input);
