//! Transactions whose end has not been seen yet.
//!
//! Enters: the `applyOps` entries of transactions, in the order of the log. Leaves: all operations of
//! one, when it is known that it took effect. Pure, and held in memory: the log that is held is what
//! transactions that are open at one time have written.
//!
//! A transaction of up to 16 MB is one entry. A larger one is a chain: entries with `partialTxn`,
//! then one with `count`, with which it takes effect. A prepared one ends with `prepare` and takes
//! effect by a later `commitTransaction`, as of the `commitTimestamp` that stands there, or never.
//! (src/mongo/db/repl/README.md, "Transactions")

use std::collections::BTreeMap;

use bson::RawDocumentBuf;

use proto::mongodb::{ApplyOps, Entry, OplogTs};

/// A session and a number in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    session: Vec<u8>,
    number: i64,
}

#[derive(Debug, Default)]
pub(super) struct Transactions(BTreeMap<Key, Held>);

#[derive(Debug, Default)]
pub(super) struct Held {
    /// The entries, as they stand in the log.
    pub(super) entries: Vec<RawDocumentBuf>,
    pub(super) prepared: Option<OplogTs>,
    /// The chain's first entry was not seen.
    headless: bool,
}

/// What an entry does to its transaction.
#[derive(Debug)]
pub(super) enum Step {
    /// It goes on.
    Open,
    /// It takes effect with this entry.
    Commit(Held),
    /// It takes effect with this entry, and began before the log that is read.
    CommitHeadless,
}

impl Key {
    /// Of an entry that belongs to a transaction. Retryable writes have session and number too,
    /// and those of several documents (`multiOpType`, server 8.0) come as `applyOps`.
    pub(super) fn of(entry: &Entry<'_>) -> Option<Self> {
        let (session, number) = (entry.lsid?, entry.txn_number?);
        if entry.multi_op_type.is_some_and(|kind| kind != 0) {
            return None;
        }
        Some(Self { session: session.as_bytes().to_vec(), number })
    }
}

impl Transactions {
    pub(super) fn step(&mut self, key: Key, entry: &Entry<'_>, ops: &ApplyOps<'_>) -> Step {
        let first = entry.previous.is_none_or(|previous| previous.ts == OplogTs::default());
        if first {
            self.forget_older(&key);
        }
        let held = self.0.entry(key.clone()).or_default();
        if first {
            *held = Held::default();
        } else if held.entries.is_empty() {
            held.headless = true;
        }
        held.entries.push(entry.raw.to_owned());
        if ops.prepare {
            held.prepared = Some(entry.at.ts);
            return Step::Open;
        }
        if ops.partial {
            return Step::Open;
        }
        match self.0.remove(&key) {
            Some(held) if !held.headless => Step::Commit(held),
            _ => Step::CommitHeadless,
        }
    }

    /// The transaction that an entry ends; `None` when it began before the log that is read.
    pub(super) fn end(&mut self, key: &Key) -> Option<Held> {
        self.0.remove(key).filter(|held| !held.headless)
    }

    /// When the oldest was prepared that has not ended.
    pub(super) fn prepared(&self) -> Option<OplogTs> {
        self.0.values().filter_map(|held| held.prepared).min()
    }

    /// A session has one transaction at a time: an older chain that never ended never will.
    fn forget_older(&mut self, key: &Key) {
        self.0.retain(|known, held| known.session != key.session || held.prepared.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, rawdoc};
    use proto::mongodb::Kind;

    fn entry(at: u32, number: i64, previous: u32, more: RawDocumentBuf) -> RawDocumentBuf {
        let ts = |time| bson::Timestamp { time, increment: u32::from(time > 0) };
        let mut o = rawdoc! { "applyOps": [{ "op": "n", "ns": "", "o": { "at": at as i32 } }] };
        for element in more.iter() {
            let (key, value) = element.expect("our own");
            o.append(key, value);
        }
        rawdoc! {
            "op": "c", "ns": "admin.$cmd", "o": o, "ts": ts(at), "t": 1_i64, "v": 2_i64,
            "lsid": { "id": 1 }, "txnNumber": number,
            "prevOpTime": { "ts": ts(previous), "t": 1_i64 },
        }
    }

    fn step(transactions: &mut Transactions, raw: &RawDocumentBuf) -> Step {
        let entry = Entry::read(raw).expect("an entry");
        let Ok(Kind::ApplyOps(ops)) = entry.kind() else { panic!("no applyOps") };
        transactions.step(Key::of(&entry).expect("a transaction"), &entry, &ops)
    }

    fn committed(step: Step) -> usize {
        match step {
            Step::Commit(held) => held.entries.len(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_chain_is_whole_with_its_last_entry() {
        let mut open = Transactions::default();
        let partial = || rawdoc! { "partialTxn": true };
        assert!(matches!(step(&mut open, &entry(1, 1, 0, partial())), Step::Open));
        assert!(matches!(step(&mut open, &entry(2, 1, 1, partial())), Step::Open));
        assert_eq!(committed(step(&mut open, &entry(3, 1, 2, rawdoc! { "count": 3_i64 }))), 3);
        assert_eq!(committed(step(&mut open, &entry(4, 2, 0, rawdoc! {}))), 1);
    }

    #[test]
    fn a_chain_without_its_beginning_is_no_transaction() {
        let mut open = Transactions::default();
        let last = entry(3, 1, 2, rawdoc! { "count": 3_i64 });
        assert!(matches!(step(&mut open, &last), Step::CommitHeadless));
    }

    #[test]
    fn a_prepared_transaction_waits_for_its_end() {
        let mut open = Transactions::default();
        let raw = entry(3, 1, 0, rawdoc! { "prepare": true });
        assert!(matches!(step(&mut open, &raw), Step::Open));
        assert_eq!(open.prepared(), Some(OplogTs::new(3, 1)));
        let key = Key::of(&Entry::read(&raw).expect("an entry")).expect("a transaction");
        assert_eq!(open.end(&key).map(|held| held.entries.len()), Some(1));
        assert_eq!(open.prepared(), None);
    }

    #[test]
    fn the_next_transaction_of_a_session_ends_one_that_never_committed() {
        let mut open = Transactions::default();
        step(&mut open, &entry(1, 1, 0, rawdoc! { "partialTxn": true }));
        assert_eq!(committed(step(&mut open, &entry(2, 2, 0, rawdoc! {}))), 1);
        assert!(open.0.is_empty());
    }
}
