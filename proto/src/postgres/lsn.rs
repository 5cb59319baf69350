//! PostgreSQL's positions and file names (src/include/access/xlog_internal.h).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::position::{ByteCount, Epoch, Offset, Position};

/// A byte position in the write-ahead log, shown as `16/B374D848`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A timeline: PostgreSQL's epoch, begun by each promotion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

/// Bytes in a WAL segment: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u64);

/// One WAL segment: its timeline and number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    pub timeline: Timeline,
    pub number: u64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("{0:?} is not an LSN (expected hexadecimal, like 16/B374D848)")]
    Lsn(String),
    #[error("{0} bytes is not a WAL segment size (a power of two from 1 MiB to 1 GiB)")]
    SegmentSize(u64),
    #[error("{0:?} is not the name of a WAL segment (24 hexadecimal digits)")]
    Segment(String),
}

impl Lsn {
    pub const fn plus(self, bytes: ByteCount) -> Self {
        Self(self.0 + bytes.0)
    }

    /// Bytes from `earlier` to here; 0 when `earlier` lies ahead.
    pub const fn since(self, earlier: Self) -> ByteCount {
        ByteCount(self.0.saturating_sub(earlier.0))
    }

    pub const fn at(self, timeline: Timeline) -> Position {
        Position::new(Epoch(timeline.0), Offset(self.0))
    }
}

impl From<Offset> for Lsn {
    fn from(offset: Offset) -> Self {
        Self(offset.0)
    }
}

impl From<Lsn> for Offset {
    fn from(lsn: Lsn) -> Self {
        Self(lsn.0)
    }
}

impl From<Epoch> for Timeline {
    fn from(epoch: Epoch) -> Self {
        Self(epoch.0)
    }
}

impl From<Timeline> for Epoch {
    fn from(timeline: Timeline) -> Self {
        Self(timeline.0)
    }
}

impl SegmentSize {
    pub const DEFAULT: Self = Self(16 << 20);

    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// How many segments share the first 16 digits after the timeline.
    const fn per_log(self) -> u64 {
        (1 << 32) / self.0
    }

    /// The segment that holds the byte *at* `lsn`.
    pub const fn segment_of(self, lsn: Lsn) -> u64 {
        lsn.0 / self.0
    }

    pub const fn start_of(self, segment: u64) -> Lsn {
        Lsn(segment.saturating_mul(self.0))
    }

    /// `lsn` rounded down to the start of its segment.
    pub const fn floor(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - lsn.0 % self.0)
    }

    pub const fn offset_in(self, lsn: Lsn) -> u64 {
        lsn.0 % self.0
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = NameError;

    fn try_from(bytes: u64) -> Result<Self, NameError> {
        let valid = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        if valid { Ok(Self(bytes)) } else { Err(NameError::SegmentSize(bytes)) }
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}

impl SegmentId {
    pub const fn containing(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        Self { timeline, number: size.segment_of(lsn) }
    }

    pub const fn start(self, size: SegmentSize) -> Lsn {
        size.start_of(self.number)
    }

    /// The first byte behind it; of the very last one, which no server reaches, its last byte.
    pub const fn end(self, size: SegmentSize) -> Lsn {
        size.start_of(self.number.saturating_add(1))
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self { timeline: self.timeline, number: self.number + 1 }
    }

    /// The file name: `000000010000000A00000042`.
    pub fn name(self, size: SegmentSize) -> String {
        let per_log = size.per_log();
        format!("{:08X}{:08X}{:08X}", self.timeline.0, self.number / per_log, self.number % per_log)
    }

    /// The middle eight digits, which the archive groups segments by.
    pub fn group(self, size: SegmentSize) -> String {
        format!("{:08X}", self.number / size.per_log())
    }

    /// # Errors
    /// When `name` is not 24 hexadecimal digits or its last part is out of range for `size`.
    pub fn parse(name: &str, size: SegmentSize) -> Result<Self, NameError> {
        let bad = || NameError::Segment(name.to_owned());
        if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let part = |at: usize| u64::from_str_radix(&name[at..at + 8], 16).map_err(|_| bad());
        let (timeline, log, low) = (part(0)?, part(8)?, part(16)?);
        if low >= size.per_log() {
            return Err(bad());
        }
        let timeline = Timeline(u32::try_from(timeline).map_err(|_| bad())?);
        Ok(Self { timeline, number: log * size.per_log() + low })
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:08X}", self.0 >> 32, self.0 as u32)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::Lsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let part = |digits: &str| {
            let plain = (1..=8).contains(&digits.len()) && !digits.starts_with('+');
            if plain { u32::from_str_radix(digits, 16).map_err(|_| bad()) } else { Err(bad()) }
        };
        Ok(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timeline({})", self.0)
    }
}

impl fmt::Debug for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ByteCount(self.0), f)
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} of timeline {}", self.number, self.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_name_counts_by_its_segment_size() {
        for (megabytes, name) in [
            (1, "0000000A0000000100000002"),
            (16, "0000000A0000000000000FF0"),
            (64, "0000000A0000000000000000"),
        ] {
            let size = SegmentSize::try_from(megabytes << 20).expect("a size");
            let id = SegmentId { timeline: Timeline(10), number: 4098 };
            let shown = id.name(size);
            assert_eq!(SegmentId::parse(&shown, size).expect("our own name"), id, "{name}");
        }
        let one = SegmentSize::try_from(1 << 20).expect("a size");
        let id = SegmentId { timeline: Timeline(10), number: 4098 };
        assert_eq!(id.name(one), "0000000A0000000100000002");
    }

    #[test]
    fn the_last_segment_that_a_name_can_say_has_an_end() {
        let size = SegmentSize::DEFAULT;
        let last = SegmentId::parse("00000001FFFFFFFF000000FF", size).expect("a name");
        assert_eq!(
            (last.start(size), last.end(size)),
            (Lsn(0u64.wrapping_sub(16 << 20)), Lsn(u64::MAX))
        );
        assert_eq!(last.next().start(size), Lsn(u64::MAX));
    }

    #[test]
    fn names_that_postgres_never_wrote_are_refused() {
        let size = SegmentSize::DEFAULT;
        for name in ["", "00000001000000000000000", "000000010000000000000100", "00000001.history"]
        {
            assert!(SegmentId::parse(name, size).is_err(), "{name}");
        }
        for text in ["0", "0/", "/0", "1/+1", "123456789/0", "x/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
        assert!(SegmentSize::try_from(3 << 20).is_err());
    }
}
