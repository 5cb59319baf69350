//! What `complete.json` says of a MongoDB base.
//!
//! A base is a set of collections, each with its own exact moment (`at`): it holds what a snapshot
//! read at `at` sees. Whoever replays the oplog from `start` on leaves out the entries of a
//! collection up to its `at`, and reaches at `stop`, and at every moment behind it, exactly what the
//! source had.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson::{RawDocument, RawDocumentBuf};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{OpTime, OplogTs, SourceMode};
use crate::segment::Hash;

/// MongoDB's part of a base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MongodbBase {
    /// `6.0.5`
    pub version: String,
    /// The featureCompatibilityVersion: `6.0`.
    pub feature_version: String,
    pub set_name: String,
    /// Replay begins here: behind this entry stands everything that the base may lack.
    pub start: OpTime,
    /// The highest moment of a piece: the earliest one that can be restored.
    pub stop: OplogTs,
    /// What the documents are of the log that is replayed onto it.
    #[serde(default, skip_serializing_if = "SourceMode::is_oplog")]
    pub source_mode: SourceMode,
    /// Collections of the source that such a log cannot follow, and that are not in the base.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    pub collections: Vec<Collection>,
}

/// One collection. Views are documents of `system.views`, time series their `system.buckets.*`:
/// both are collections like others here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Collection {
    pub database: String,
    /// As it was called when the catalog was read, which is never before `start`.
    pub name: String,
    pub uuid: Uuid,
    /// As `listCollections` gives them.
    pub options: Bson,
    /// The index on `_id`; a clustered collection has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_index: Option<Bson>,
    /// The other indexes, as `listIndexes` gives them.
    #[serde(default)]
    pub indexes: Vec<Bson>,
    /// In ascending order of `_id` where there are several.
    pub pieces: Vec<Piece>,
}

/// A collection, or a range of its documents by `_id`, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// The snapshot's moment: entries up to it, this one included, are in the piece.
    pub at: OplogTs,
    /// Where the server gives no snapshot (a capped collection): entries behind `at` and up to
    /// this one may be in the piece or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<OplogTs>,
    /// `{_id: …}`: the first of the range. Without it: from the lowest on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Bson>,
    /// `{_id: …}`: the first behind the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Bson>,
    pub objects: Vec<PieceObject>,
}

/// One object: frames of whole BSON documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceObject {
    /// Name below the base's folder.
    pub object: String,
    pub bytes: u64,
    pub raw_bytes: u64,
    pub documents: u64,
    /// BLAKE3 of the raw bytes.
    pub hash: Hash,
}

impl MongodbBase {
    pub fn objects(&self) -> impl Iterator<Item = &PieceObject> {
        let pieces = self.collections.iter().flat_map(|collection| &collection.pieces);
        pieces.flat_map(|piece| &piece.objects)
    }

    pub fn raw_bytes(&self) -> u64 {
        self.objects().map(|object| object.raw_bytes).sum()
    }

    pub fn stored_bytes(&self) -> u64 {
        self.objects().map(|object| object.bytes).sum()
    }
}

impl Collection {
    pub fn namespace(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }
}

/// A collection's UUID, written as servers show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
        let wrong = || serde::de::Error::custom("a UUID has 32 hexadecimal digits");
        number.map(|number| Self(number.to_be_bytes())).ok_or_else(wrong)
    }
}

/// A raw BSON document in JSON: base64, because JSON has neither its types nor its order of fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Bson(pub RawDocumentBuf);

impl std::ops::Deref for Bson {
    type Target = RawDocument;

    fn deref(&self) -> &RawDocument {
        &self.0
    }
}

impl Serialize for Bson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for Bson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(deserializer)?);
        let bytes = bytes.map_err(serde::de::Error::custom)?;
        RawDocumentBuf::from_bytes(bytes).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn a_base_is_the_same_after_a_way_through_json() {
        let at = OplogTs::new(1_795_150_757, 2);
        let object = PieceObject {
            object: "00001-1.bson.zst.000001".to_owned(),
            bytes: 10,
            raw_bytes: 20,
            documents: 1,
            hash: Hash([7; 32]),
        };
        let id = |id: i32| Some(Bson(rawdoc! { "_id": id }));
        let base = MongodbBase {
            version: "6.0.5".to_owned(),
            feature_version: "6.0".to_owned(),
            set_name: "rs0".to_owned(),
            start: at.at(3),
            stop: at,
            source_mode: SourceMode::ChangeStream,
            left_out: vec!["shop.readings".to_owned()],
            collections: vec![Collection {
                database: "shop".to_owned(),
                name: "orders".to_owned(),
                uuid: Uuid([0xEC, 0x3E, 66, 42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
                options: Bson(rawdoc! { "validator": { "z": 1, "a": 2 } }),
                id_index: None,
                indexes: vec![Bson(rawdoc! { "v": 2, "key": { "b": 1, "a": 1 }, "name": "x" })],
                pieces: vec![Piece {
                    at,
                    until: None,
                    min: id(1),
                    max: id(9),
                    objects: vec![object],
                }],
            }],
        };
        let json = serde_json::to_string(&base).expect("it can be written");
        assert!(json.contains("ec3e422a-0102-0304-0506-0708090a0b0c"), "{json}");
        let again: MongodbBase = serde_json::from_str(&json).expect("it can be read");
        assert_eq!(again, base);
    }
}
