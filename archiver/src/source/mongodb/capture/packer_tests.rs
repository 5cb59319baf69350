//! Entries in, items out: nothing lost, nothing cut in two, segments where they belong.

use bson::{DateTime, Document, RawDocumentBuf, Timestamp, doc};
use proptest::prelude::*;
use proto::mongodb::{Documents, Entry, OplogTs};
use proto::position::Offset;

use super::packer::{Last, OpenSegment, PackError, Packer, SEGMENT_BYTES};
use crate::ring::Item;

const HOUR: u32 = 3600;

fn entry(at: (u32, u32), op: &str, o: Document) -> RawDocumentBuf {
    let wall = DateTime::from_millis(i64::from(at.0) * 1000);
    let ts = Timestamp { time: at.0, increment: at.1 };
    let entry = doc! { "op": op, "ns": "", "o": o, "ts": ts, "t": 1_i64, "wall": wall };
    RawDocumentBuf::try_from(&entry).expect("a document of our own")
}

fn insert(at: (u32, u32), text: usize) -> RawDocumentBuf {
    entry(at, "i", doc! { "_id": at.1, "text": "x".repeat(text) })
}

fn idle(at: (u32, u32)) -> RawDocumentBuf {
    entry(at, "n", doc! { "msg": "periodic noop" })
}

fn begun(items: &[Item]) -> Vec<OplogTs> {
    let number = |item: &Item| match item {
        Item::Begin { number } => Some(OplogTs(*number)),
        _ => None,
    };
    items.iter().filter_map(number).collect()
}

fn bytes(items: &[Item]) -> Vec<u8> {
    let data = items.iter().filter_map(|item| match item {
        Item::Data { bytes, .. } => Some(bytes.as_ref()),
        _ => None,
    });
    data.flatten().copied().collect()
}

fn all(packer: &mut Packer) -> Vec<Item> {
    packer.items().collect()
}

#[test]
fn idle_noops_wait_for_the_next_entry_or_the_minute() -> Result<(), PackError> {
    let mut packer = Packer::new(Offset(0), None, None);
    let entries = [insert((1, 1), 5), idle((11, 1)), idle((21, 1)), insert((22, 1), 5)];
    for entry in &entries[..3] {
        packer.take(entry)?;
        packer.settle();
    }
    let first = entries[0].as_bytes().len() as u64;
    let items = all(&mut packer);
    assert_eq!(bytes(&items), entries[0].as_bytes());
    let reached = packer.reached().expect("three entries");
    assert_eq!((reached.at.ts, reached.end), (OplogTs::new(21, 1), Offset(first)));
    packer.take(&entries[3])?;
    packer.settle();
    let items = all(&mut packer);
    let together: Vec<u8> = entries[1..].iter().flat_map(|e| e.as_bytes().to_vec()).collect();
    assert_eq!(bytes(&items), together);
    assert!(matches!(items[0], Item::Data { start, .. } if start.0 == first));
    packer.take(&idle((31, 1)))?;
    packer.settle();
    assert!(all(&mut packer).is_empty());
    packer.release();
    assert_eq!(bytes(&all(&mut packer)), idle((31, 1)).as_bytes());
    // A note that somebody wrote is no idle noop.
    let note = entry((32, 1), "n", doc! { "msg": "before the deploy" });
    packer.take(&note)?;
    packer.settle();
    assert_eq!(bytes(&all(&mut packer)), note.as_bytes());
    Ok(())
}

#[test]
fn a_segment_ends_at_its_size_and_at_the_hour() -> Result<(), PackError> {
    let mut packer = Packer::new(Offset(0), None, None);
    let large = 6 << 20;
    for at in [(HOUR - 2, 1), (HOUR - 2, 2), (HOUR - 2, 3), (HOUR - 2, 4), (HOUR - 1, 1), (HOUR, 1)]
    {
        packer.take(&insert(at, large))?;
    }
    packer.settle();
    let items = all(&mut packer);
    let expected = [(HOUR - 2, 1), (HOUR - 2, 4), (HOUR, 1)];
    assert_eq!(begun(&items), expected.map(|(t, i)| OplogTs::new(t, i)));
    let mut held = 0;
    for item in &items[1..] {
        match item {
            Item::Begin { .. } => held = 0,
            Item::Data { bytes, .. } => {
                assert!(held < SEGMENT_BYTES, "no entry goes behind the one that filled it");
                held += bytes.len() as u64;
            }
            _ => panic!("nothing else: {item:?}"),
        }
    }
    Ok(())
}

#[test]
fn a_new_cursor_begins_with_the_entry_that_is_held_and_begins_no_segment() -> Result<(), PackError>
{
    let last = Last { at: OplogTs::new(5, 3).at(1), begin: Offset(700) };
    let held = insert((5, 3), 9);
    let next = Offset(700 + held.as_bytes().len() as u64);
    let open = OpenSegment { first: OplogTs::new(2, 1), raw: 90 };
    let mut packer = Packer::new(next, Some(last), Some(open));
    packer.again(&held)?;
    packer.take(&insert((6, 1), 9))?;
    packer.settle();
    let items = all(&mut packer);
    assert_eq!(begun(&items), []);
    assert!(matches!(&items[0], Item::Data { start, .. } if *start == last.begin));
    assert!(matches!(&items[1], Item::Data { start, .. } if *start == next));
    let mut other = Packer::new(next, Some(last), Some(open));
    assert!(matches!(other.again(&insert((5, 4), 9)), Err(PackError::OutOfOrder { .. })));
    Ok(())
}

#[test]
fn an_entry_that_is_not_behind_the_last_is_refused() -> Result<(), PackError> {
    let mut packer = Packer::new(Offset(0), None, None);
    packer.take(&insert((5, 3), 1))?;
    for at in [(5, 3), (5, 2), (4, 9)] {
        assert!(matches!(packer.take(&insert(at, 1)), Err(PackError::OutOfOrder { .. })), "{at:?}");
    }
    packer.take(&insert((5, 9), 1))
}

#[test]
fn behind_a_gap_the_log_goes_on_elsewhere_in_a_segment_of_its_own() -> Result<(), PackError> {
    let mut packer = Packer::new(Offset(0), None, None);
    packer.take(&insert((5, 1), 1))?;
    let end = packer.next();
    let (from, to) = packer.skip();
    assert_eq!((from, to), (end, Offset(end.0 + 1)));
    assert_eq!(packer.last(), None);
    assert_eq!(all(&mut packer).len(), 2);
    packer.take(&insert((9, 1), 1))?;
    packer.settle();
    let items = all(&mut packer);
    assert_eq!(begun(&items), [OplogTs::new(9, 1)]);
    assert!(matches!(&items[1], Item::Data { start, .. } if *start == to));
    Ok(())
}

proptest! {
    /// Whatever the batches, what comes out is what went in, and every piece holds whole entries.
    #[test]
    fn what_comes_out_is_what_went_in(
        steps in prop::collection::vec((0_u32..2000, 0_usize..200_000, any::<bool>(), any::<bool>()), 1..40),
    ) {
        let mut packer = Packer::new(Offset(0), None, None);
        let (mut second, mut given, mut items) = (100, Vec::new(), Vec::new());
        for (later, text, is_idle, settles) in steps {
            second += later + 1;
            let entry = if is_idle { idle((second, 1)) } else { insert((second, 1), text) };
            given.extend_from_slice(entry.as_bytes());
            packer.take(&entry).expect("in order");
            if settles {
                packer.settle();
            }
            items.extend(packer.items());
        }
        packer.release();
        items.extend(packer.items());
        prop_assert!(bytes(&items) == given);
        let (mut at, mut segment) = (Offset(0), None);
        for item in &items {
            match item {
                Item::Begin { number } => segment = Some(OplogTs(*number)),
                Item::Data { start, bytes, .. } => {
                    prop_assert_eq!(*start, at);
                    at = Offset(at.0 + bytes.len() as u64);
                    let mut walk = Documents::new(bytes);
                    for document in walk.by_ref() {
                        let (_, document) = document.expect("whole");
                        let (place, _) = Entry::place(document).expect("an entry");
                        let segment = segment.expect("begun");
                        prop_assert!(segment <= place.ts && segment.hour() == place.ts.hour());
                    }
                    prop_assert!(walk.rest().is_empty());
                }
                _ => prop_assert!(false, "nothing else"),
            }
        }
    }
}
