//! The sidecar's side of an oplog cursor: whole entries, from the newest one that is held, with cursors
//! that break anywhere. What packs them into pieces and segments is the capture's own.
//!
//! Enters: the entries that are written. Leaves: ring items.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::{DateTime, RawDocumentBuf, Timestamp, doc, spec::BinarySubtype};
use proto::archive::ArchiveError;
use proto::archive::layout::OPLOG_EPOCH;
use proto::mongodb::{OpTime, OplogTs, Record, first_document};
use proto::position::Offset;
use proto::segment::Watermark;
use proto::store::Store;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::database::Database;
use super::fate::Fate;
use super::streamed::{Ended, Plain, until_room};
use crate::pipeline::{Opened, PipelineError};
use crate::ring::Item;
use crate::seal::SegmentIndexer;
use crate::ship::chained;
use crate::ship::resume::End;
use crate::source::CaptureStart;
use crate::source::mongodb::capture::packer::Packer;
use crate::source::mongodb::go_on;
use crate::spool::{OplogSegments, Segmenter};
use crate::testing::Log;
use crate::watch::state::Phase;

/// Entries of an answer, at the most.
const BATCH_MAX: usize = 20;
const FIRST_SECOND: u32 = 1_795_000_000;
const TERM: i64 = 3;

/// The first entry of every oplog here.
pub(super) const FIRST: OpTime = OpTime { ts: OplogTs::new(FIRST_SECOND, 1), term: TERM };

/// An oplog of about so many bytes, and where each entry ends. Its clock jumps: hours end segments.
pub(super) fn oplog(seed: u64, len: u64) -> (Vec<u8>, Vec<u64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut bytes, mut ends): (Vec<u8>, Vec<u64>) = (Vec::new(), Vec::new());
    let (mut second, mut increment) = (FIRST_SECOND, 0);
    while (bytes.len() as u64) < len {
        let passes = [0, 0, 0, 1, 20, 20, 900][rng.random_range(0..7)];
        (second, increment) = (second + passes, if passes == 0 { increment + 1 } else { 1 });
        let most = [60, 600, 6000, 60_000][rng.random_range(0..4)];
        let mut content = vec![0; rng.random_range(1..most)];
        let half = content.len() / 2;
        rng.fill_bytes(&mut content[..half]);
        let content = bson::Binary { subtype: BinarySubtype::Generic, bytes: content };
        let entry = doc! {
            "op": "i", "ns": "a.b", "o": { "_id": ends.len() as i64, "content": content },
            "ts": Timestamp { time: second, increment }, "t": TERM,
            "wall": DateTime::from_millis(i64::from(second) * 1000),
        };
        let entry = RawDocumentBuf::try_from(&entry).expect("an entry");
        bytes.extend(entry.as_bytes());
        ends.push(bytes.len() as u64);
    }
    (bytes, ends)
}

/// One machine's cursors.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub(super) database: Arc<Database>,
    pub(super) fate: Arc<Fate>,
    /// How likely a cursor breaks at each answer.
    pub(super) breaks: f64,
}

impl Followed {
    async fn run(self, start: CaptureStart) -> Result<(), PipelineError> {
        let from = go_on(&start.opened, &start.held);
        let mut packer = Packer::new(from.next, from.last, from.open);
        loop {
            until_room(&start).await;
            self.fate.awake().await;
            let ended = self.cursor(&start, &mut packer).await;
            packer.release();
            hand_on(&start, &mut packer)?;
            start.ring.push(Item::Flush)?;
            match ended? {
                Ended::Stopped => return Ok(()),
                Ended::Full | Ended::Branched => {}
                Ended::Broken => {
                    let wait = self.database.random(|rng| rng.random_range(200..2000));
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
            }
        }
    }

    async fn cursor(
        &self,
        start: &CaptureStart,
        packer: &mut Packer,
    ) -> Result<Ended, PipelineError> {
        let database = &self.database;
        let last = packer.last();
        let mut at = last.map_or(packer.next(), |last| last.begin).0;
        database.cursor_opened();
        start.ring.push(Item::Resume { from: Offset(at) })?;
        start.state.enter(Phase::Streaming);
        let (line, mut proved) = (database.log.line(OPLOG_EPOCH).bytes, last.is_none());
        loop {
            self.fate.awake().await;
            if start.stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            if let Some(durable) = *start.durable.acknowledged.borrow() {
                database.acknowledge(durable.position(), u64::MAX);
            }
            if start.state.level.is_full() {
                return Ok(Ended::Full);
            }
            let end = database.written().offset.0;
            let many = database.random(|rng| rng.random_range(1..=BATCH_MAX));
            for _ in 0..many {
                if at == end {
                    break;
                }
                // An answer may break off behind any entry.
                if database.random(|rng| rng.random_bool(self.breaks / 10.0)) {
                    return Ok(Ended::Broken);
                }
                let rest = &line[usize::try_from(at).expect("small")..];
                let entry = first_document(rest).expect("an entry").expect("whole");
                let taken = if proved { packer.take(entry) } else { packer.again(entry) };
                taken.expect("what is held is what is sent");
                (at, proved) = (at + entry.as_bytes().len() as u64, true);
            }
            packer.settle();
            hand_on(start, packer)?;
            if at == end {
                self.idle(start, packer).await?;
            }
            let room = tokio::time::timeout(Duration::from_secs(3), start.ring.room());
            if room.await.is_err() {
                return Ok(Ended::Full);
            }
        }
    }

    /// Everything is handed on: that is proved, and something new waited for.
    async fn idle(&self, start: &CaptureStart, packer: &Packer) -> Result<(), PipelineError> {
        if let Some(reached) = packer.reached() {
            let clock = start.ground.clock.wall();
            let mark = Watermark { clock, offset: reached.end, margin_ms: 2000 };
            start.ring.push(Item::Mark(mark))?;
        }
        let wait = self.database.random(|rng| rng.random_range(5..300));
        tokio::time::sleep(Duration::from_millis(wait)).await;
        Ok(())
    }
}

fn hand_on(start: &CaptureStart, packer: &mut Packer) -> Result<(), PipelineError> {
    for item in packer.items() {
        start.ring.push(item)?;
    }
    Ok(())
}

/// The first entry of a segment's bytes.
pub(super) fn first_of(raw: &[u8]) -> OplogTs {
    let entry = first_document(raw).expect("an entry").expect("whole");
    Record::place(entry).expect("a place").0.ts
}

#[async_trait]
impl Log for Followed {
    fn opened(&self) -> Opened {
        self.database.opened()
    }

    fn segmenter(&self) -> Arc<dyn Segmenter> {
        Arc::new(OplogSegments)
    }

    fn indexer(&self) -> Box<dyn SegmentIndexer> {
        Box::new(Plain)
    }

    async fn find_end(&self, store: &dyn Store, opened: &Opened) -> Result<End, ArchiveError> {
        chained::find_end(store, opened.lineage, OPLOG_EPOCH, &OplogSegments).await
    }

    async fn send(self, start: CaptureStart) -> Result<(), PipelineError> {
        self.run(start).await
    }
}
