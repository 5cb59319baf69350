//! A base's `complete.json`: written last, so that a base with one is whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mongodb::base::MongodbBase;
use crate::postgres::lsn::{Lsn, Timeline};
use crate::segment::{Engine, Hash};
use crate::timestamp::Timestamp;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Complete {
    pub format: u32,
    pub id: String,
    pub engine: Engine,
    pub label: String,
    /// `full`; incremental ones come later.
    pub kind: String,
    /// The database's clock when the copy began and when it ended.
    pub started: Timestamp,
    pub finished: Timestamp,
    /// `pitrd 0.1.0`.
    pub program: String,
    /// Raw bytes of everything that was copied, and bytes in the store.
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresBase>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mongodb: Option<MongodbBase>,
    /// PostgreSQL's, in the order in which the streams are unpacked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<TarStream>,
    /// The server's own manifest (`backup_manifest`), compressed.
    #[serde(default)]
    pub manifest: Option<ObjectRef>,
    /// What follows in it, where it is larger than one object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifest_more: Vec<ObjectRef>,
    /// Files that PostgreSQL keeps outside the data folder (Debian), by name: `pg_hba.conf` …
    #[serde(default)]
    pub config_files: BTreeMap<String, String>,
    /// Pages whose checksum was wrong on the source. Not empty: the base is damaged.
    #[serde(default)]
    pub damaged: Vec<DamagedPage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresBase {
    pub version_num: u32,
    pub system_identifier: String,
    pub timeline: Timeline,
    /// The redo point: recovery begins at it (its segment is needed).
    pub start: Lsn,
    /// Consistent from here on: no target before it can be reached.
    pub stop: Lsn,
    pub stop_timeline: Timeline,
    pub checksums: bool,
    /// Every setting that is not at its default, as `pg_settings` shows it.
    pub settings: BTreeMap<String, String>,
    pub tablespaces: Vec<Tablespace>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    pub location: String,
    pub bytes: Option<u64>,
}

/// One tar stream, cut into zstd objects: `cat` in order, `zstd -d`, `tar -x`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TarStream {
    /// `base`, or the oid of a tablespace.
    pub name: String,
    pub tablespace: Option<u32>,
    pub raw_bytes: u64,
    pub parts: Vec<TarPart>,
}

/// One object of a tar stream: frames that can be unpacked without the parts before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TarPart {
    /// Name below the base's folder: `base.tar.zst.000001`.
    pub object: String,
    pub bytes: u64,
    /// Where the part's raw bytes begin in the tar stream, and how many they are.
    pub raw_start: u64,
    pub raw_bytes: u64,
    /// BLAKE3 of the raw bytes.
    pub hash: Hash,
    /// The member whose content the part begins within, if it does not begin with a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<WithinMember>,
}

/// A part begins in the middle of this file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithinMember {
    pub path: String,
    /// The file's whole size, and how many of its bytes stand in earlier parts.
    pub size: u64,
    pub offset: u64,
    pub mode: u32,
    /// Modification time, seconds since the Unix epoch.
    pub mtime: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub object: String,
    pub bytes: u64,
    pub raw_bytes: u64,
    pub hash: Hash,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPage {
    pub file: String,
    pub block: Option<u64>,
    pub detail: String,
}

impl Complete {
    /// Whether it is a base of that engine's, with the part that only such a base has.
    pub const fn is_of(&self, engine: Engine) -> bool {
        match (engine, self.engine) {
            (Engine::Postgresql, Engine::Postgresql) => self.postgres.is_some(),
            (Engine::Mongodb, Engine::Mongodb) => self.mongodb.is_some(),
            _ => false,
        }
    }

    /// The PostgreSQL part.
    ///
    /// # Panics
    /// When the base is none of PostgreSQL's: whoever reads one asks [`Self::is_of`] first.
    pub const fn postgres(&self) -> &PostgresBase {
        self.postgres.as_ref().expect("a base of PostgreSQL's")
    }

    /// The MongoDB part.
    ///
    /// # Panics
    /// When the base is none of MongoDB's: whoever reads one asks [`Self::is_of`] first.
    pub const fn mongodb(&self) -> &MongodbBase {
        self.mongodb.as_ref().expect("a base of MongoDB's")
    }

    pub fn encode(&self) -> Vec<u8> {
        super::to_json(self)
    }
}
