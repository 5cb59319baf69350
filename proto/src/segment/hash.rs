//! A segment's identity: BLAKE3 of its raw bytes, as `b3sum` prints it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// BLAKE3 of raw bytes; all zeros stands for "none" (a lineage's first segment has no predecessor).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    pub const NONE: Self = Self([0; 32]);

    pub fn of(raw: &[u8]) -> Self {
        Self(*blake3::hash(raw).as_bytes())
    }

    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// The hash of a run of bytes that is still growing.
#[derive(Clone, Debug, Default)]
pub struct RunningHash {
    hasher: blake3::Hasher,
    bytes: u64,
}

impl RunningHash {
    pub fn update(&mut self, raw: &[u8]) {
        self.hasher.update(raw);
        self.bytes += raw.len() as u64;
    }

    /// The hash of everything so far; more may follow.
    pub fn now(&self) -> Hash {
        Hash(*self.hasher.finalize().as_bytes())
    }

    /// Bytes hashed so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a BLAKE3 hash of 64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
