//! Writers that race for one chain, a thousand times over: the very code that `pitrd` writes with, on
//! a real S3 server and on a folder. Nothing is written over, no chain forks, and of each race exactly
//! one comes out that can write on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use archiver::ship::health::Health;
use archiver::ship::resume::{self, fence, take_writer};
use archiver::ship::tails::Grown;
use archiver::ship::{ShipError, ShipTools, TailChain};
use archiver::source::postgres::end::find_end;
use archiver::spool::{OpenFile, OpenState};
use async_trait::async_trait;
use bytes::Bytes;
use proto::archive::chain;
use proto::archive::identity::PostgresIdentity;
use proto::archive::layout::Lineage;
use proto::clock::SystemClock;
use proto::disk::SystemDisk;
use proto::postgres::lsn::{SegmentId, SegmentSize, Timeline};
use proto::segment::{Codec, Engine, Frame, Hash};
use proto::store::{Body, Key, Page, Put, Range, Store, StoreError, list_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::archive::Archive;
use tests::scope;
use tests::seaweed::Seaweed;

const SIZE: SegmentSize = SegmentSize::DEFAULT;
/// One that writes already, and two that want to take over.
const WRITERS: u64 = 3;
/// So many tails each tries to put.
const TAILS: usize = 4;

/// A store that remembers what was created under which key.
#[derive(Debug)]
struct Witness {
    inner: Arc<dyn Store>,
    created: Mutex<BTreeMap<String, Hash>>,
    again: Mutex<Vec<String>>,
    refused: Mutex<u64>,
}

#[async_trait]
impl Store for Witness {
    async fn put(&self, key: &Key, body: &Body) -> Result<Put, StoreError> {
        let put = self.inner.put(key, body).await?;
        let Body::Bytes(bytes) = body else { return Ok(put) };
        if put == Put::Exists {
            *self.refused.lock().expect("no panic") += 1;
        } else {
            let mut created = self.created.lock().expect("no panic");
            if created.insert(key.as_str().to_owned(), Hash::of(bytes)).is_some() {
                self.again.lock().expect("no panic").push(key.as_str().to_owned());
            }
        }
        Ok(put)
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

/// One race: a lineage of its own, and the log that every writer of it reads.
#[derive(Clone)]
struct Race {
    store: Arc<dyn Store>,
    lineage: Lineage,
    log: Arc<Vec<u8>>,
    folder: Arc<tempfile::TempDir>,
}

/// What became of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fenced,
    Writes,
}

fn identity() -> PostgresIdentity {
    let first = SegmentId { timeline: Timeline(1), number: 1 };
    PostgresIdentity {
        segment_bytes: SIZE,
        version_num: 180_000,
        first: first.start(SIZE),
        first_timeline: Timeline(1),
    }
}

/// A writer as `pitrd` is one: its epoch, its fence, and its spool's file.
struct Writer {
    race: Race,
    tools: ShipTools,
    chain: TailChain,
    open: OpenFile,
}

impl Race {
    fn new(store: Arc<dyn Store>, number: u32) -> Result<Self> {
        let mut random = StdRng::seed_from_u64(u64::from(number));
        let log = (0..64 << 10).map(|_| random.random()).collect();
        let folder = Arc::new(tempfile::tempdir()?);
        Ok(Self { store, lineage: Lineage(number), log: Arc::new(log), folder })
    }

    /// `None`: somebody newer was faster, before the first tail.
    async fn enter(self, name: u64) -> Result<Option<Writer>> {
        let clock = SystemClock::new();
        let store = &*self.store;
        let writer = take_writer(store, self.lineage, &clock, format!("host{name}")).await?;
        let tools = ShipTools {
            store: self.store.clone(),
            disk: Arc::new(SystemDisk),
            health: Arc::new(Health::new(Arc::new(SystemClock::new()))),
            lineage: self.lineage,
            writer,
            codec: Codec::Lz4,
        };
        let mut end = find_end(store, self.lineage, &identity()).await?;
        let chain = match fence(&tools, Engine::Postgresql, &mut end).await {
            Ok(chain) => chain.context("a chain")?,
            Err(ShipError::Fenced { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let open = self.spool(name, &chain, &end)?;
        Ok(Some(Writer { race: self, tools, chain, open }))
    }

    /// What recovery makes of an empty spool: a file of what the chain holds.
    fn spool(&self, name: u64, chain: &TailChain, end: &resume::End) -> Result<OpenFile> {
        let slot = end.store.slot.clone().context("the open segment")?;
        let folder = self.folder.path().join(format!("spool{name}"));
        std::fs::create_dir_all(&folder)?;
        let mut open = OpenFile::create(Arc::new(SystemDisk), &folder, slot, chain.head)?;
        ensure!(self.log.starts_with(&end.store.raw), "the chain holds what nobody wrote");
        append(&mut open, &end.store.raw)?;
        Ok(open)
    }

    /// Every tail that is there stands in the one chain, and the chain holds the log.
    async fn assert_one_history(&self) -> Result<usize> {
        let name = SegmentId { timeline: Timeline(1), number: 1 }.name(SIZE);
        let chain = chain::follow(&*self.store, self.lineage, &name).await?;
        let (raw, _) = chain::read_raw(&*self.store, &name, &chain).await?;
        ensure!(self.log.starts_with(&raw), "the chain holds what nobody wrote");
        let linked: BTreeSet<&str> = chain.links.iter().map(|link| link.key.as_str()).collect();
        let objects = list_all(&*self.store, &self.lineage.tails()).await?;
        let forked: Vec<&str> = objects.iter().map(|object| object.key.as_str()).collect();
        let forked: Vec<_> = forked.into_iter().filter(|key| !linked.contains(key)).collect();
        ensure!(forked.is_empty(), "beside the chain: {forked:?}");
        Ok(raw.len())
    }
}

fn append(open: &mut OpenFile, raw: &[u8]) -> Result<()> {
    if !raw.is_empty() {
        open.append(&Frame::of(Codec::Lz4, raw)?, raw)?;
        open.sync()?;
    }
    Ok(())
}

impl Writer {
    fn state(&mut self, more: usize) -> Result<OpenState> {
        let at = usize::try_from(self.open.segment.raw_len())?;
        let until = (at + more).min(self.race.log.len());
        let log = self.race.log.clone();
        append(&mut self.open, &log[at..until])?;
        Ok(self.open.state(None, false))
    }

    /// Puts the next bytes of the log, as the shipper does; an older one's tail is taken over.
    async fn put(&mut self, more: usize) -> Result<Fate> {
        let mut state = self.state(more)?;
        loop {
            match self.chain.put_data(&self.tools, &state, None).await {
                Ok(Grown::Whole) => return Ok(Fate::Writes),
                Ok(Grown::Ahead) => state = self.state(1000)?,
                Ok(Grown::Adopted) if self.chain.raw_len() >= state.raw_len => {
                    state = self.state(1000)?;
                }
                Ok(Grown::Adopted) => {}
                Err(ShipError::Fenced { .. }) => return Ok(Fate::Fenced),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Until it is fenced, or has put all of its tails.
async fn compete(race: Race, name: u64) -> Result<Option<Writer>> {
    let mut random = StdRng::seed_from_u64(u64::from(race.lineage.0) << 8 | name);
    let Some(mut writer) = race.enter(name).await? else { return Ok(None) };
    for _ in 0..TAILS {
        if writer.put(random.random_range(1..2000)).await? == Fate::Fenced {
            return Ok(None);
        }
        tokio::time::sleep(std::time::Duration::from_micros(random.random_range(0..2000))).await;
    }
    Ok(Some(writer))
}

/// All at once; then each that was not fenced puts once more, and only one can.
async fn race(race: Race) -> Result<usize> {
    let mut running = tokio::task::JoinSet::new();
    for name in 0..WRITERS {
        running.spawn(compete(race.clone(), name));
    }
    let mut left = Vec::new();
    while let Some(done) = running.join_next().await {
        left.extend(done??);
    }
    let mut writing = 0;
    for writer in &mut left {
        writing += usize::from(writer.put(100).await? == Fate::Writes);
    }
    ensure!(writing == 1, "{writing} of {} can write on", left.len());
    race.assert_one_history().await
}

fn rounds(archive: &Archive, count: u32) -> Result<String> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let witness = Arc::new(Witness {
            inner: archive.writable().await?,
            created: Mutex::default(),
            again: Mutex::default(),
            refused: Mutex::default(),
        });
        let mut bytes = 0;
        for number in 1..=count {
            let one = race(Race::new(witness.clone(), number)?).await;
            bytes += one.with_context(|| format!("round {number}"))?;
        }
        let created = witness.created.lock().expect("no panic").clone();
        let (mut written_over, refused) = (0, *witness.refused.lock().expect("no panic"));
        for (key, hash) in &created {
            let found = witness.get(&Key::parse(key).context("a key")?, Range::All).await?;
            written_over += usize::from(Hash::of(&found) != *hash);
        }
        let again = witness.again.lock().expect("no panic").len();
        ensure!((written_over, again) == (0, 0), "{written_over} written over, {again} made twice");
        // Without puts that found their key taken there was no race.
        ensure!(refused >= u64::from(count), "{refused} puts met another's object");
        let objects = created.len();
        Ok(format!(
            "{count} rounds of {WRITERS} writers: {objects} objects, {bytes} bytes of log, {refused} \
             puts met another's object, 0 written over, 0 chains forked"
        ))
    })
}

#[test]
fn of_writers_that_race_on_a_folder_one_writes_on_and_nothing_is_written_over() -> Result<()> {
    let folder = tests::scratch::Folder::new("races")?;
    let archive = Archive::at(&made(folder.path())?);
    println!("folder: {}", rounds(&archive, scope::scale(100, 1000))?);
    Ok(())
}

#[test]
fn of_writers_that_race_on_s3_one_writes_on_and_nothing_is_written_over() -> Result<()> {
    let archive = Archive::on_s3(Seaweed::shared()?, "races");
    println!("S3: {}", rounds(&archive, scope::scale(30, 1000))?);
    Ok(())
}

fn made(folder: &Path) -> Result<std::path::PathBuf> {
    let archive = folder.join("archive");
    std::fs::create_dir_all(&archive)?;
    Ok(archive)
}
