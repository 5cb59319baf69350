use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use proto::archive::layout::SegmentName;
use proto::clock::SystemClock;
use proto::postgres::lsn::{SegmentId, SegmentSize};
use proto::segment::{Hash, decompress};
use proto::store::folder::FolderStore;
use proto::store::{Access, Body, Key, Object, Page, Put, Range, StoreError, list_all};

use super::*;
use crate::base::durable::{ArchivedLog, PipelineLog};
use crate::base::source::Backup;
use crate::base::{Class, LogError, SourceError};

const LINEAGE: Lineage = Lineage(1);
const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// Events as a server would send them: what the writer makes of them is tried here, and what a
/// server sends in tests/base.
struct Script(VecDeque<Event>);

#[async_trait]
impl Source for Script {
    async fn facts(&mut self) -> Result<Facts, SourceError> {
        Ok(Facts {
            version_num: 150_018,
            system_identifier: "7".to_owned(),
            segment_size: SIZE,
            checksums: true,
            settings: BTreeMap::new(),
            config_files: BTreeMap::new(),
        })
    }

    async fn clock(&mut self) -> Result<Timestamp, SourceError> {
        Ok(Timestamp::from_postgres(0))
    }

    async fn begin(&mut self, _: &Request) -> Result<Box<dyn Backup>, SourceError> {
        Ok(Box::new(Self(std::mem::take(&mut self.0))))
    }
}

#[async_trait]
impl Backup for Script {
    async fn next(&mut self) -> Result<Option<Event>, SourceError> {
        Ok(self.0.pop_front())
    }
}

/// Fails every third request once, after having done what was asked.
#[derive(Debug)]
struct Forgetful {
    inner: FolderStore,
    count: Mutex<u64>,
}

impl Forgetful {
    fn answer<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        let mut count = self.count.lock().expect("no panics");
        *count += 1;
        if !count.is_multiple_of(3) {
            return done;
        }
        let (address, key) = (self.inner.address(), String::new());
        let (action, detail) = ("ask", "the answer is lost".to_owned());
        let class = proto::store::Class::Retry;
        Err(StoreError::Unreachable { address, action, key, detail, class })
    }
}

#[async_trait]
impl Store for Forgetful {
    async fn put(&self, key: &Key, body: &Body) -> Result<Put, StoreError> {
        let done = self.inner.put(key, body).await;
        if key.as_str().contains("/base/") { self.answer(done) } else { done }
    }
    async fn get(&self, key: &Key, range: Range) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.inner.head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        self.inner.list(prefix, after).await
    }
    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.inner.folders(folder).await
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
    fn address(&self) -> String {
        self.inner.address()
    }
}

fn tar_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, path, &content[..]).expect("into memory");
    }
    builder.into_inner().expect("into memory")
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut block = [0; 32];
    let mut out = Vec::with_capacity(len + 32);
    while out.len() < len {
        block = Hash::of(&block).0;
        out.extend(block);
    }
    out.truncate(len);
    out
}

const LABEL: &[u8] =
    b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTART TIMELINE: 1\n";
const START: Lsn = Lsn(0x200_0028);
const STOP: Lsn = Lsn(0x200_0138);

fn script(base: &[u8], tablespace: &[u8]) -> VecDeque<Event> {
    let start = Start {
        start: START,
        timeline: Timeline(1),
        tablespaces: Vec::new(),
        expected_bytes: Some(1000),
    };
    let mut events = VecDeque::from([Event::Start(start)]);
    for (oid, bytes) in [(Some(16_384), tablespace), (None, base)] {
        events.push_back(Event::Archive { tablespace: oid });
        events.extend(bytes.chunks(32_768).map(|data| Event::Data(Bytes::copy_from_slice(data))));
    }
    events.push_back(Event::Manifest(Bytes::from_static(b"{\"mani")));
    events.push_back(Event::Manifest(Bytes::from_static(b"fest\": 1}")));
    events.push_back(Event::End { stop: STOP, timeline: Timeline(1) });
    events
}

async fn seal(store: &dyn Store, number: u64) {
    let id = SegmentId { timeline: Timeline(1), number };
    let key = LINEAGE.sealed(&SegmentName::postgres(id, SIZE));
    store.put(&key, &Body::from(b"x".to_vec())).await.expect("a folder");
}

async fn taken(
    store: &Arc<dyn Store>,
    events: VecDeque<Event>,
    patience: Duration,
) -> Result<Complete, BaseError> {
    let every = Duration::from_millis(10);
    let log = ArchivedLog { every, patience, ..ArchivedLog::new(&**store, LINEAGE, SIZE) };
    let options = BaseOptions::default();
    let clock = SystemClock::new();
    take(&mut Script(events), store.clone(), LINEAGE, &log, &options, &clock).await
}

async fn folder() -> (tempfile::TempDir, FolderStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FolderStore::open(folder.path(), Access::ReadWrite).await.expect("a store");
    (folder, store)
}

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(100);

#[tokio::test]
async fn what_is_stored_is_the_stream_whatever_answers_are_lost() {
    let (_folder, inner) = folder().await;
    let store: Arc<dyn Store> = Arc::new(Forgetful { inner, count: Mutex::new(0) });
    seal(&*store, 2).await;
    let files =
        [("backup_label", LABEL.to_vec()), ("base/1/1", noise(21 << 20)), ("z", vec![0; 9])];
    let streams = [tar_of(&[("PG_15/1/2", noise(3000))]), tar_of(&files)];
    let complete = taken(&store, script(&streams[1], &streams[0]), LONG).await.expect("a base");

    assert_eq!(complete.id, "20000101T000000Z_00000001_0000000002000028");
    // Noise grows a little: three pieces of a mebibyte fit into a part, a fourth does not.
    assert_eq!(complete.archives[1].parts.len(), 7);
    for (archive, stream) in complete.archives.iter().zip(&streams) {
        let mut whole = Vec::new();
        for part in &archive.parts {
            assert!(part.bytes <= crate::base::parts::PART_MAX as u64);
            assert_eq!(part.raw_start, whole.len() as u64);
            let key = LINEAGE.base_object(&complete.id, &part.object);
            let stored = store.get(&key, Range::All).await.expect("a part");
            assert_eq!(stored.len() as u64, part.bytes);
            let raw = zstd::decode_all(&stored[..]).expect("frames");
            assert_eq!((Hash::of(&raw), raw.len() as u64), (part.hash, part.raw_bytes));
            whole.extend(raw);
        }
        assert!(&whole == stream, "{} differs", archive.name);
        assert_eq!(archive.raw_bytes, stream.len() as u64);
    }
    let manifest = complete.manifest.as_ref().expect("a manifest");
    let key = LINEAGE.base_object(&complete.id, &manifest.object);
    let stored = store.get(&key, Range::All).await.expect("the manifest");
    assert_eq!(decompress(&stored).expect("a frame"), b"{\"manifest\": 1}");
    let written = store.get(&LINEAGE.base_complete(&complete.id), Range::All).await.expect("it");
    assert_eq!(&written[..], complete.encode());
    let history = proto::postgres::history::History::first(Timeline(1));
    let known = crate::base::known::bases(&*store, LINEAGE, &[], &history).await.expect("one");
    assert_eq!(known, [crate::base::schedule::Taken::from(&complete)]);
    let ledger = ledger::read(&*store, LINEAGE).await.expect("a ledger").entries;
    assert_eq!(ledger[0].event, LedgerEvent::Base { id: complete.id });
}

async fn base_objects(store: &dyn Store) -> Vec<Object> {
    list_all(store, &LINEAGE.bases()).await.expect("a folder")
}

#[tokio::test]
async fn without_its_log_a_base_does_not_exist() {
    let (_folder, store) = folder().await;
    let store: Arc<dyn Store> = Arc::new(store);
    let events = || script(&tar_of(&[("backup_label", LABEL.to_vec())]), &tar_of(&[]));
    let stalled = taken(&store, events(), SHORT).await.expect_err("no log");
    assert!(matches!(stalled, BaseError::Log(LogError::Stalled { .. })), "{stalled:?}");
    seal(&*store, 4).await;
    let missing = taken(&store, events(), SHORT).await.expect_err("a hole");
    assert_eq!(missing.class(), Class::LogMissing);
    let objects = base_objects(&*store).await;
    assert!(!objects.is_empty());
    assert!(objects.iter().all(|object| object.key.name() != "complete.json"));

    seal(&*store, 2).await;
    let (from, to) = (Lsn(0x200_0010).at(Timeline(1)), Lsn(0x300_0000).at(Timeline(1)));
    let gap = LedgerEvent::Gap { from, to, reason: "tried".to_owned(), oplog: None };
    ledger::append(&*store, LINEAGE, Timestamp(0), gap).await.expect("a folder");
    let gap = taken(&store, events(), LONG).await.expect_err("a gap");
    assert!(matches!(gap, BaseError::Log(LogError::Gap { .. })), "{gap:?}");
}

#[tokio::test]
async fn a_base_waits_for_the_pipeline() {
    let (_folder, store) = folder().await;
    let store: Arc<dyn Store> = Arc::new(store);
    let (durable, receiver) = watch::channel(None);
    let events = script(&tar_of(&[("backup_label", LABEL.to_vec())]), &tar_of(&[]));
    let (task_store, clock) = (store.clone(), SystemClock::new());
    let task = tokio::spawn(async move {
        let archive = ArchivedLog::new(&*task_store, LINEAGE, SIZE);
        let log = PipelineLog { durable: receiver, archive };
        let options = BaseOptions::default();
        take(&mut Script(events), task_store.clone(), LINEAGE, &log, &options, &clock).await
    });
    seal(&*store, 2).await;
    durable.send(Some(Lsn(STOP.0 - 1).at(Timeline(1)))).expect("it waits");
    durable.send(Some(STOP.at(Timeline(1)))).expect("it waits");
    task.await.expect("no panic").expect("a base");
}

#[tokio::test]
async fn a_damaged_base_is_marked_and_the_ledger_says_so() {
    let (_folder, store) = folder().await;
    let store: Arc<dyn Store> = Arc::new(store);
    seal(&*store, 2).await;
    let mut events = script(&tar_of(&[("backup_label", LABEL.to_vec())]), &tar_of(&[]));
    let page =
        DamagedPage { file: "base/1/2".to_owned(), block: Some(3), detail: "bad".to_owned() };
    events.push_back(Event::Damaged(vec![page.clone()]));
    let complete = taken(&store, events, LONG).await.expect("a base");
    assert_eq!(complete.damaged, [page]);
    let ledger = ledger::read(&*store, LINEAGE).await.expect("a ledger").entries;
    assert!(
        matches!(&ledger[0].event, LedgerEvent::DamagedPage { file, .. } if file == "base/1/2")
    );
}

#[tokio::test]
async fn a_stream_that_is_not_what_the_server_announced_is_refused() {
    let (_folder, store) = folder().await;
    let store: Arc<dyn Store> = Arc::new(store);
    seal(&*store, 2).await;
    let mut other = LABEL.to_vec();
    other[b"START WAL LOCATION: 0/".len()] = b'3';
    let events = script(&tar_of(&[("backup_label", other)]), &tar_of(&[]));
    let error = taken(&store, events, LONG).await.expect_err("another start");
    assert!(matches!(error, BaseError::Label { .. }), "{error:?}");
    let mut events = script(&tar_of(&[("backup_label", LABEL.to_vec())]), &tar_of(&[]));
    events.truncate(4);
    let error = taken(&store, events, LONG).await.expect_err("half");
    assert!(matches!(error, BaseError::Order { .. }), "{error:?}");
}
