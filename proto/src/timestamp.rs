//! A moment as databases count it: microseconds since the Unix epoch, UTC.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01 00:00:00 UTC. Shown and stored as RFC 3339 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Microseconds from the Unix epoch to 2000-01-01 UTC, PostgreSQL's own epoch
/// (src/include/datatype/timestamp.h, `POSTGRES_EPOCH_JDATE`).
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

impl Timestamp {
    /// From PostgreSQL's `TimestampTz`: microseconds since 2000-01-01 UTC.
    pub const fn from_postgres(micros: i64) -> Self {
        Self(micros.saturating_add(POSTGRES_EPOCH_MICROS))
    }

    /// To PostgreSQL's `TimestampTz`.
    pub const fn to_postgres(self) -> i64 {
        self.0.saturating_sub(POSTGRES_EPOCH_MICROS)
    }

    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Seconds from `earlier` to here, negative when `earlier` is later.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e6
    }

    /// Parses RFC 3339 with a zone (`Z` or an offset). Refuses a time without a zone.
    pub fn parse(text: &str) -> Result<Self, jiff::Error> {
        text.parse::<jiff::Timestamp>().map(|t| Self(t.as_microsecond()))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, always six decimals: `2026-11-20T14:19:47.310000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t:.6}"),
            Err(_) => write!(f, "{} us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn a_timestamp_reads_back_as_it_was_shown() {
        let t = Timestamp(1_795_150_757_310_001);
        assert_eq!(Timestamp::parse(&t.to_string()).expect("our own text"), t);
        assert!(t.to_string().ends_with(".310001Z"), "{t}");
    }

    #[test]
    fn a_time_without_a_zone_is_refused() {
        assert!(Timestamp::parse("2026-11-20T14:19:47").is_err());
    }

    #[test]
    fn postgres_counts_from_the_year_2000() {
        assert_eq!(Timestamp::from_postgres(0).to_string(), "2000-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_postgres(42).to_postgres(), 42);
    }
}
