//! One oplog entry, read where it lies (src/mongo/db/repl/oplog_entry.idl).
//!
//! Enters: a raw document. Leaves: a view of it. Only the fields that decide something are read;
//! a field that no known version has is no error, for the bytes are kept as they are.

use bson::spec::ElementType;
use bson::{RawArray, RawDocument};

use super::elements::{Element, Elements};
use super::{OpTime, OplogTs};
use crate::timestamp::Timestamp;

/// What an entry's `op` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    Insert,
    Update,
    Delete,
    Command,
    Noop,
    /// Of a newer server.
    Other(&'a str),
}

/// A view of one entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub raw: &'a RawDocument,
    pub at: OpTime,
    pub op: Op<'a>,
    /// `database.collection`; `database.$cmd` of a command, empty of most noops.
    pub ns: &'a str,
    /// The primary's own clock when it wrote the entry.
    pub wall: Option<Timestamp>,
    /// The collection's UUID.
    pub ui: Option<[u8; 16]>,
    pub o: &'a RawDocument,
    pub o2: Option<&'a RawDocument>,
    /// The session, and the transaction or retryable write in it.
    pub lsid: Option<&'a RawDocument>,
    pub txn_number: Option<i64>,
    /// The entry of the same transaction before this one; zero for the first.
    pub previous: Option<OpTime>,
    /// 1: a command of several retryable inserts, which is no transaction (server 8.0).
    pub multi_op_type: Option<i32>,
}

/// As much of an entry as whoever passes it on needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance<'a> {
    pub at: OpTime,
    /// The primary's own clock when it wrote the entry.
    pub wall: Option<Timestamp>,
    pub op: Option<Op<'a>>,
    /// It has a namespace and a document, as every entry has.
    pub whole: bool,
}

/// What an entry does.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// An insert, an update or a delete of one document.
    Write,
    ApplyOps(ApplyOps<'a>),
    /// A prepared transaction takes effect, as of the timestamp given, which lies before.
    CommitTransaction {
        commit: OplogTs,
    },
    AbortTransaction,
    /// Any other command, by its name: `create`, `drop`, …
    Command(&'a str),
    Noop,
    /// An `op` that is not known here.
    Unknown,
}

/// Several operations in one entry: a transaction or a part of one.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOps<'a> {
    pub ops: &'a RawArray,
    /// More entries of this transaction follow.
    pub partial: bool,
    /// It takes effect by a later `commitTransaction`, or never.
    pub prepare: bool,
    /// In the last entry of a transaction of several: how many operations there are in all.
    pub count: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    #[error("an oplog entry has no {field}")]
    Missing { field: &'static str },
    #[error("an oplog entry's {field} is of another type")]
    Type { field: &'static str },
    #[error("the last {left} bytes of an oplog entry are no element")]
    Torn { left: usize },
    #[error("an oplog entry cannot be read")]
    Malformed(#[from] bson::error::Error),
}

impl<'a> Entry<'a> {
    /// # Errors
    /// [`EntryError`] when it is no oplog entry.
    pub fn read(raw: &'a RawDocument) -> Result<Self, EntryError> {
        let mut found = Fields::default();
        for element in Elements::of(raw) {
            found.take(&element?)?;
        }
        let missing = |field| EntryError::Missing { field };
        Ok(Self {
            raw,
            at: OpTime {
                ts: found.ts.ok_or_else(|| missing("ts"))?,
                // Absent on a set of protocol version 0, whose terms are -1.
                term: found.term.unwrap_or(-1),
            },
            op: found.op.ok_or_else(|| missing("op"))?,
            ns: found.ns.ok_or_else(|| missing("ns"))?,
            wall: found.wall,
            ui: found.ui,
            o: found.o.ok_or_else(|| missing("o"))?,
            o2: found.o2,
            lsid: found.lsid,
            txn_number: found.txn_number,
            previous: found.previous,
            multi_op_type: found.multi_op_type,
        })
    }

    /// The place alone: where it stands, and the primary's clock.
    ///
    /// # Errors
    /// As [`Self::glance`].
    pub fn place(raw: &'a RawDocument) -> Result<(OpTime, Option<Timestamp>), EntryError> {
        Self::glance(raw).map(|glance| (glance.at, glance.wall))
    }

    /// What decides how an entry is passed on, without looking at the rest.
    ///
    /// # Errors
    /// [`EntryError`] when it has no place.
    pub fn glance(raw: &'a RawDocument) -> Result<Glance<'a>, EntryError> {
        let (mut namespace, mut object) = (false, false);
        let mut found = Fields::default();
        for element in Elements::of(raw) {
            let element = element?;
            match element.name {
                b"op" | b"ts" | b"t" | b"wall" => found.take(&element)?,
                b"ns" => namespace = element.kind == ElementType::String,
                b"o" => object = element.kind == ElementType::EmbeddedDocument,
                _ => {}
            }
        }
        let ts = found.ts.ok_or(EntryError::Missing { field: "ts" })?;
        let at = ts.at(found.term.unwrap_or(-1));
        Ok(Glance { at, wall: found.wall, op: found.op, whole: namespace && object })
    }

    /// # Errors
    /// When it is a command that cannot be read.
    pub fn kind(&self) -> Result<Kind<'a>, EntryError> {
        match self.op {
            op if op.is_write() => Ok(Kind::Write),
            Op::Command => self.command(),
            Op::Noop => Ok(Kind::Noop),
            _ => Ok(Kind::Unknown),
        }
    }

    fn command(&self) -> Result<Kind<'a>, EntryError> {
        let first = Elements::of(self.o).next();
        let first = first.ok_or(EntryError::Missing { field: "command" })??;
        Ok(match first.name {
            b"applyOps" => Kind::ApplyOps(ApplyOps::read(self.o)?),
            b"commitTransaction" => {
                let commit = Elements::get(self.o, b"commitTimestamp")?;
                let commit = commit.ok_or(EntryError::Missing { field: "commitTimestamp" })?;
                Kind::CommitTransaction { commit: commit.timestamp("commitTimestamp")? }
            }
            b"abortTransaction" => Kind::AbortTransaction,
            name => {
                let wrong = |_| EntryError::Type { field: "command" };
                Kind::Command(std::str::from_utf8(name).map_err(wrong)?)
            }
        })
    }

    /// Whether something becomes visible with this entry: what a restored moment lies between.
    ///
    /// # Errors
    /// As [`Self::kind`].
    pub fn is_commit(&self) -> Result<bool, EntryError> {
        Ok(match self.kind()? {
            Kind::Write | Kind::CommitTransaction { .. } | Kind::Command(_) => true,
            Kind::ApplyOps(ops) => !ops.partial && !ops.prepare,
            Kind::AbortTransaction | Kind::Noop | Kind::Unknown => false,
        })
    }

    /// The database that it concerns: what stands before the first dot of `ns`.
    pub fn database(&self) -> &'a str {
        self.ns.split_once('.').map_or(self.ns, |(database, _)| database)
    }
}

impl<'a> ApplyOps<'a> {
    fn read(o: &'a RawDocument) -> Result<Self, EntryError> {
        let wrong = |_| EntryError::Type { field: "applyOps" };
        let ops = o.get_array("applyOps").map_err(wrong)?;
        let mut found = Self { ops, partial: false, prepare: false, count: None };
        for element in Elements::of(o) {
            let element = element?;
            match element.name {
                b"partialTxn" => found.partial = element.truth("partialTxn")?,
                b"prepare" => found.prepare = element.truth("prepare")?,
                b"count" => found.count = Some(element.integer("count")?),
                _ => {}
            }
        }
        Ok(found)
    }
}

#[derive(Default)]
struct Fields<'a> {
    ts: Option<OplogTs>,
    term: Option<i64>,
    op: Option<Op<'a>>,
    ns: Option<&'a str>,
    wall: Option<Timestamp>,
    ui: Option<[u8; 16]>,
    o: Option<&'a RawDocument>,
    o2: Option<&'a RawDocument>,
    lsid: Option<&'a RawDocument>,
    txn_number: Option<i64>,
    previous: Option<OpTime>,
    multi_op_type: Option<i32>,
}

impl<'a> Fields<'a> {
    fn take(&mut self, element: &Element<'a>) -> Result<(), EntryError> {
        match element.name {
            b"ts" => self.ts = Some(element.timestamp("ts")?),
            b"t" => self.term = Some(element.integer("t")?),
            b"op" => self.op = Some(Op::of(element.text("op")?)),
            b"ns" => self.ns = Some(element.text("ns")?),
            b"wall" => self.wall = Some(element.wall()?),
            b"ui" => self.ui = element.uuid()?,
            b"o" => self.o = Some(element.document("o")?),
            b"o2" => self.o2 = Some(element.document("o2")?),
            b"lsid" => self.lsid = Some(element.document("lsid")?),
            b"txnNumber" => self.txn_number = Some(element.integer("txnNumber")?),
            b"prevOpTime" => self.previous = Some(optime(element.document("prevOpTime")?)?),
            b"multiOpType" => {
                self.multi_op_type = i32::try_from(element.integer("multiOpType")?).ok();
            }
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Op<'a> {
    /// Whether it is an insert, an update or a delete of one document.
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Insert | Self::Update | Self::Delete)
    }

    fn of(word: &'a str) -> Self {
        match word {
            "i" => Self::Insert,
            "u" => Self::Update,
            "d" => Self::Delete,
            "c" => Self::Command,
            "n" => Self::Noop,
            other => Self::Other(other),
        }
    }
}

/// `{ts, t}`, as `prevOpTime` and a server's answers have it.
fn optime(document: &RawDocument) -> Result<OpTime, EntryError> {
    Entry::place(document).map(|(at, _)| at)
}
