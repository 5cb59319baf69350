//! Bases in a folder archive, made from plain tar files, for tests.

use std::collections::BTreeMap;

use proto::archive::base::{Complete, PostgresBase, Tablespace, TarPart, TarStream, WithinMember};
use proto::postgres::lsn::{Lsn, Timeline};
use proto::segment::{Codec, Engine, Hash};
use proto::timestamp::Timestamp;

use crate::fetch::testing::{Archive, LINEAGE};

const BLOCK: u64 = 512;
pub(crate) const BASE: &str = "20261120T140000Z_1";

/// Where the content of each file of a tar stream stands.
struct Extent {
    start: u64,
    size: u64,
    path: String,
    mode: u32,
    mtime: u64,
}

fn extents(tar: &[u8]) -> Vec<Extent> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("a tar stream");
    let extents = entries.map(|entry| {
        let entry = entry.expect("a member");
        let header = entry.header();
        Extent {
            start: entry.raw_file_position(),
            size: entry.size(),
            path: entry.path().expect("a path").to_str().expect("UTF-8").to_owned(),
            mode: header.mode().expect("a mode"),
            mtime: header.mtime().expect("a time"),
        }
    });
    extents.filter(|extent| extent.size > 0).collect()
}

/// Cuts a tar stream into parts of about `part` raw bytes in frames of `frame`.
pub(crate) async fn put_stream(
    archive: &Archive,
    name: &str,
    tablespace: Option<u32>,
    tar: &[u8],
    part: u64,
    frame: usize,
) -> TarStream {
    let extents = extents(tar);
    let mut parts = Vec::new();
    let mut at = 0;
    while at < tar.len() as u64 {
        let end = (at + part).next_multiple_of(BLOCK).min(tar.len() as u64);
        let raw = &tar[at as usize..end as usize];
        let mut object = Vec::new();
        for (number, piece) in raw.chunks(frame).enumerate() {
            let codec = if number % 2 == 0 { Codec::default() } else { Codec::Lz4 };
            object.extend(codec.compress(piece).expect("compresses"));
        }
        let inside = extents.iter().find(|e| e.start <= at && at < e.start + e.size);
        let within = inside.map(|e| WithinMember {
            path: e.path.clone(),
            size: e.size,
            offset: at - e.start,
            mode: e.mode,
            mtime: e.mtime,
        });
        let object_name = format!("{name}.tar.zst.{:06}", parts.len() + 1);
        parts.push(TarPart {
            object: object_name.clone(),
            bytes: object.len() as u64,
            raw_start: at,
            raw_bytes: raw.len() as u64,
            hash: Hash::of(raw),
            within,
        });
        archive.put(LINEAGE.base_object(BASE, &object_name), object).await;
        at = end;
    }
    let raw_bytes = tar.len() as u64;
    TarStream { name: name.to_owned(), tablespace, raw_bytes, parts }
}

/// A `complete.json` around these streams.
pub(crate) fn complete(archives: Vec<TarStream>, tablespaces: Vec<Tablespace>) -> Complete {
    let raw_bytes = archives.iter().map(|stream| stream.raw_bytes).sum();
    let stored_bytes = archives.iter().flat_map(|s| &s.parts).map(|part| part.bytes).sum();
    Complete {
        format: 1,
        id: BASE.to_owned(),
        engine: Engine::Postgresql,
        label: "test".to_owned(),
        kind: "full".to_owned(),
        started: Timestamp(0),
        finished: Timestamp(0),
        program: "test".to_owned(),
        raw_bytes,
        stored_bytes,
        postgres: Some(PostgresBase {
            version_num: 150_000,
            system_identifier: "7000000000000000001".to_owned(),
            timeline: Timeline(1),
            start: Lsn(0),
            stop: Lsn(0),
            stop_timeline: Timeline(1),
            checksums: true,
            settings: BTreeMap::new(),
            tablespaces,
        }),
        mongodb: None,
        archives,
        manifest: None,
        manifest_more: Vec::new(),
        config_files: BTreeMap::new(),
        damaged: Vec::new(),
    }
}
