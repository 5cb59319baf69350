//! A document of a log, of whichever kind: an entry of an oplog, or an event of a change stream.
//!
//! Enters: a raw document. Leaves: what both kinds have in common.

use bson::RawDocument;

use super::{Entry, EntryError, Event, Note, OpTime, OplogTs};
use crate::timestamp::Timestamp;

/// A document of a log.
#[derive(Debug, Clone, Copy)]
pub enum Record<'a> {
    Entry(Entry<'a>),
    Event(Event<'a>),
}

impl<'a> Record<'a> {
    /// # Errors
    /// [`EntryError`] when it is neither.
    pub fn read(raw: &'a RawDocument) -> Result<Self, EntryError> {
        if Event::is_one(raw) {
            return Event::read(raw).map(Self::Event);
        }
        Entry::read(raw).map(Self::Entry)
    }

    /// Where it stands, and the primary's clock. An event does not tell the term: -1.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn place(raw: &RawDocument) -> Result<(OpTime, Option<Timestamp>), EntryError> {
        if Event::is_one(raw) {
            return Event::read(raw).map(|event| (event.at.at(-1), event.wall));
        }
        Entry::place(raw)
    }

    pub const fn at(&self) -> OplogTs {
        match self {
            Self::Entry(entry) => entry.at.ts,
            Self::Event(event) => event.at,
        }
    }

    pub const fn wall(&self) -> Option<Timestamp> {
        match self {
            Self::Entry(entry) => entry.wall,
            Self::Event(event) => event.wall,
        }
    }

    /// Whether something becomes visible with it.
    ///
    /// # Errors
    /// When it is a command that cannot be read.
    pub fn is_commit(&self) -> Result<bool, EntryError> {
        match self {
            Self::Entry(entry) => entry.is_commit(),
            Self::Event(event) => Ok(!event.is_note()),
        }
    }

    /// What it notes, if it is a noop of an oplog.
    pub fn note(&self) -> Option<Note<'a>> {
        match self {
            Self::Entry(entry) => entry.note(),
            Self::Event(_) => None,
        }
    }
}

/// The order of a log, and up to where it is known to be whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    at: OplogTs,
    token: String,
    whole: OplogTs,
}

impl Order {
    /// Whether this document may stand behind those before it: entries have times of their own,
    /// events tokens.
    pub fn advance(&mut self, record: &Record<'_>) -> bool {
        let at = record.at();
        let later = match record {
            Record::Entry(_) => at > self.at,
            Record::Event(event) => {
                at >= self.at
                    && (event.token > self.token.as_str()
                        || (event.is_note() && event.token == self.token))
            }
        };
        if later {
            self.whole = match record {
                Record::Event(event) if event.is_note() => at,
                // More events of this time may follow, and those before it are all there.
                Record::Event(_) => self.whole.max(OplogTs(at.0.saturating_sub(1))),
                Record::Entry(_) => at,
            };
            self.at = at;
            if let Record::Event(event) = record {
                self.token.clear();
                self.token.push_str(event.token);
            }
        }
        later
    }

    /// The time of the last document.
    pub const fn at(&self) -> OplogTs {
        self.at
    }

    /// Everything up to this time has been seen: the events of a transaction share one time, and
    /// are all there or do not count.
    pub const fn whole(&self) -> OplogTs {
        self.whole
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::super::event;
    use super::*;

    fn insert(at: OplogTs, behind: &str) -> RawDocumentBuf {
        let token = format!("82{:016X}{behind}", at.0);
        rawdoc! { "_id": { "_data": token }, "operationType": "insert" }
    }

    fn advance(order: &mut Order, raw: &RawDocument) -> bool {
        order.advance(&Record::read(raw).expect("a record"))
    }

    #[test]
    fn events_of_one_time_are_whole_when_something_stands_behind_them() {
        let (one, two) = (OplogTs::new(5, 1), OplogTs::new(5, 2));
        let mut order = Order::default();
        assert!(advance(&mut order, &event::begin(one)));
        assert_eq!(order.whole(), one);
        assert!(advance(&mut order, &insert(two, "2B01")));
        assert!(advance(&mut order, &insert(two, "2B02")));
        assert!(!advance(&mut order, &insert(two, "2B02")), "the same event again");
        assert_eq!((order.at(), order.whole()), (two, OplogTs(two.0 - 1)));
        let token = rawdoc! { "_data": format!("82{:016X}2B02", two.0) };
        assert!(advance(&mut order, &event::through(&token, two)));
        assert_eq!(order.whole(), two);
        assert!(!advance(&mut order, &insert(one, "2B03")), "an earlier time");
    }

    #[test]
    fn an_entry_of_an_oplog_has_a_time_of_its_own() {
        let entry = |increment| {
            let ts = bson::Timestamp { time: 5, increment };
            rawdoc! { "op": "n", "ns": "", "o": {}, "ts": ts }
        };
        let mut order = Order::default();
        assert!(advance(&mut order, &entry(1)));
        assert!(!advance(&mut order, &entry(1)));
        assert!(advance(&mut order, &entry(2)));
        assert_eq!(order.whole(), OplogTs::new(5, 2));
    }
}
