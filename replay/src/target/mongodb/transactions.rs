//! Transactions whose end has not been seen yet.
//!
//! Enters: the `applyOps` entries of transactions, in the order of the log. Leaves: all operations of
//! one, when it is known that it took effect. What transactions that are open at one time have
//! written waits in memory, and in a file where it is much (`spill`).
//!
//! A transaction of up to 16 MB is one entry. A larger one is a chain: entries with `partialTxn`,
//! then one with `count`, with which it takes effect. A prepared one ends with `prepare` and takes
//! effect by a later `commitTransaction`, as of the `commitTimestamp` that stands there, or never.
//! (src/mongo/db/repl/README.md, "Transactions")

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bson::RawDocumentBuf;

use proto::mongodb::{ApplyOps, Entry, OplogTs};

use super::spill::{Spill, Waiting};

/// A session and a number in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    session: Vec<u8>,
    number: i64,
}

#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: BTreeMap<Key, Held>,
    spill: Spill,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    /// The entries, as they stand in the log.
    entries: VecDeque<Waiting>,
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
    /// # Errors
    /// When what waits cannot be written to its file.
    pub(super) fn step(
        &mut self,
        key: Key,
        entry: &Entry<'_>,
        ops: &ApplyOps<'_>,
    ) -> io::Result<Step> {
        let first = entry.previous.is_none_or(|previous| previous.ts == OplogTs::default());
        if first {
            self.forget_older(&key)?;
        }
        let waiting = self.spill.keep(entry.raw)?;
        let held = self.open.entry(key.clone()).or_default();
        if !first && held.entries.is_empty() {
            held.headless = true;
        }
        held.entries.push_back(waiting);
        if ops.prepare {
            held.prepared = Some(entry.at.ts);
            return Ok(Step::Open);
        }
        if ops.partial {
            return Ok(Step::Open);
        }
        match self.end(&key)? {
            Some(held) => Ok(Step::Commit(held)),
            None => Ok(Step::CommitHeadless),
        }
    }

    /// The transaction that an entry ends; `None` when it began before the log that is read.
    ///
    /// # Errors
    /// When the file of what waits fails.
    pub(super) fn end(&mut self, key: &Key) -> io::Result<Option<Held>> {
        let Some(held) = self.open.remove(key) else { return Ok(None) };
        if !held.headless {
            return Ok(Some(held));
        }
        self.forget(&held)?;
        Ok(None)
    }

    /// The next entry of one that took effect, in the order of the log.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub(super) fn next(&mut self, held: &mut Held) -> io::Result<Option<RawDocumentBuf>> {
        let next = held.entries.pop_front();
        let next = next.map(|waiting| self.spill.take(waiting)).transpose()?;
        if next.is_none() {
            self.tidy()?;
        }
        Ok(next)
    }

    /// One that came to nothing.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub(super) fn forget(&mut self, held: &Held) -> io::Result<()> {
        held.entries.iter().for_each(|waiting| self.spill.drop(waiting));
        self.tidy()
    }

    fn tidy(&mut self) -> io::Result<()> {
        if self.open.is_empty() { self.spill.clear() } else { Ok(()) }
    }

    /// When the oldest was prepared that has not ended.
    pub(super) fn prepared(&self) -> Option<OplogTs> {
        self.open.values().filter_map(|held| held.prepared).min()
    }

    /// A session has one transaction at a time: an older chain that never ended never will. (One of
    /// the same number is the same one, tried again.)
    fn forget_older(&mut self, key: &Key) -> io::Result<()> {
        let older = |known: &Key, held: &Held| {
            known.session == key.session && (held.prepared.is_none() || known.number == key.number)
        };
        let gone: Vec<Held> = self
            .open
            .extract_if(.., |known, held| older(known, held))
            .map(|(_, held)| held)
            .collect();
        gone.iter().try_for_each(|held| self.forget(held))
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
        let key = Key::of(&entry).expect("a transaction");
        transactions.step(key, &entry, &ops).expect("a file")
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
        let held = open.end(&key).expect("no file");
        assert_eq!(held.map(|held| held.entries.len()), Some(1));
        assert_eq!(open.prepared(), None);
    }

    #[test]
    fn the_next_transaction_of_a_session_ends_one_that_never_committed() {
        let mut open = Transactions::default();
        step(&mut open, &entry(1, 1, 0, rawdoc! { "partialTxn": true }));
        assert_eq!(committed(step(&mut open, &entry(2, 2, 0, rawdoc! {}))), 1);
        assert!(open.open.is_empty());
    }
    #[test]
    fn what_is_more_than_the_memory_for_it_waits_in_a_file_and_comes_back_in_order() {
        let partial = || rawdoc! { "partialTxn": true, "text": "x".repeat(1000) };
        let size = entry(1, 1, 0, partial()).as_bytes().len();
        let limit = 2 * size + size / 2;
        let mut open = Transactions { spill: Spill::new(limit), ..Default::default() };
        let chain: Vec<_> = (1..=5).map(|at| entry(at, 1, at - 1, partial())).collect();
        for raw in &chain {
            assert!(matches!(step(&mut open, raw), Step::Open));
            assert!(open.spill.sizes().0 <= limit);
        }
        assert_eq!(open.spill.sizes().1, 3 * size as u64);
        let last = entry(6, 1, 5, rawdoc! { "count": 6_i64 });
        let Step::Commit(mut held) = step(&mut open, &last) else { panic!("no commit") };
        let mut found = Vec::new();
        while let Some(raw) = open.next(&mut held).expect("a file") {
            found.push(raw);
        }
        assert_eq!(found, [&chain[..], &[last]].concat());
        assert_eq!(open.spill.sizes(), (0, 0));
        for raw in &chain {
            step(&mut open, raw);
        }
        // Its session goes on with another one: this one never ended.
        assert_eq!(committed(step(&mut open, &entry(9, 2, 0, rawdoc! {}))), 1);
        assert_eq!(open.spill.sizes().1, 0);
    }
}
