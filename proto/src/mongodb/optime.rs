//! Where an entry stands in the oplog of its replica set.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::timestamp::Timestamp;

/// An entry's cluster time: seconds since the Unix epoch and a counter within the second, as
/// `T << 32 | I`. Shown as `T,I`. Counters have holes: that the next follows proves nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OplogTs(pub u64);

/// An entry's place: its cluster time, and the term of the primary that wrote it. Two entries with
/// the same place are the same entry, on all members.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpTime {
    pub ts: OplogTs,
    pub term: i64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an oplog timestamp (expected T,I, like 1795150757,2)")]
pub struct OpTimeError(String);

impl OplogTs {
    pub const fn new(seconds: u32, increment: u32) -> Self {
        Self((seconds as u64) << 32 | increment as u64)
    }

    /// Seconds since the Unix epoch, by the clock of whoever was the primary.
    pub const fn seconds(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub const fn increment(self) -> u32 {
        self.0 as u32
    }

    /// The same seconds as a moment.
    pub const fn time(self) -> Timestamp {
        Timestamp(self.seconds() as i64 * 1_000_000)
    }

    /// Whole hours since the Unix epoch: what a segment never crosses.
    pub const fn hour(self) -> u32 {
        self.seconds() / 3600
    }

    pub const fn at(self, term: i64) -> OpTime {
        OpTime { ts: self, term }
    }
}

impl From<bson::Timestamp> for OplogTs {
    fn from(ts: bson::Timestamp) -> Self {
        Self::new(ts.time, ts.increment)
    }
}

impl From<OplogTs> for bson::Timestamp {
    fn from(ts: OplogTs) -> Self {
        Self { time: ts.seconds(), increment: ts.increment() }
    }
}

impl fmt::Display for OplogTs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.seconds(), self.increment())
    }
}

impl fmt::Debug for OplogTs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for OpTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.term {
            // A change event does not tell.
            -1 => write!(f, "{}", self.ts),
            term => write!(f, "{} of term {term}", self.ts),
        }
    }
}

impl fmt::Debug for OpTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for OplogTs {
    type Err = OpTimeError;

    /// `T,I`, as pitr shows it, or `Timestamp(T, I)`, as mongosh does. Decimal digits alone.
    fn from_str(text: &str) -> Result<Self, OpTimeError> {
        let wrong = || OpTimeError(text.to_owned());
        let plain = text
            .trim()
            .strip_prefix("Timestamp(")
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap_or(text);
        let (seconds, increment) = plain.split_once(',').ok_or_else(wrong)?;
        let number = |part: &str| {
            let part = part.trim();
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if digits { part.parse().map_err(|_| wrong()) } else { Err(wrong()) }
        };
        Ok(Self::new(number(seconds)?, number(increment)?))
    }
}

impl Serialize for OplogTs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OplogTs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
