//! A capture that runs, and what a spool would have taken from it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use archiver::ring::{Item, RingReceiver, ring};
use archiver::ship::health::Health;
use archiver::source::mongodb::capture::{
    Capture, CaptureError, CaptureSetup, Continue, Gap, Last, Loss, OpenSegment, Reached,
};
use archiver::source::mongodb::{ConnectOptions, preflight, start};
use archiver::spool::SpoolLevel;
use archiver::watch::lag::{CommitTimes, LagProbe};
use archiver::watch::state::State;
use bson::RawDocumentBuf;
use proto::clock::{Clock, SystemClock};
use proto::mongodb::{Documents, Entry, OpTime, OplogTs};
use proto::position::{ByteCount, Offset};
use proto::segment::{Engine, Watermark};
use proto::timestamp::Timestamp;
use tests::mongod::Node;
use tests::wait::{self, Deadline};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct NoCommits;

impl CommitTimes for NoCommits {
    fn first(&self, _start: Offset, _raw: &[u8]) -> Option<Timestamp> {
        None
    }
}

/// What was taken, as a spool checks it: every byte follows the last, and what is sent again is
/// the same.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The offset of the first byte behind the last gap, and the bytes since.
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) begun: Vec<OplogTs>,
    pub(crate) marks: Vec<Watermark>,
    /// How many items of log there were.
    pub(crate) pieces: usize,
    /// How many bytes were sent again.
    pub(crate) again: usize,
    pub(crate) gaps: Vec<Gap>,
}

impl Taken {
    fn next(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Data { start, bytes, .. } => self.data(start.0, &bytes),
            Item::Mark(mark) => self.marks.push(mark),
            Item::Begin { number } => self.begun.push(OplogTs(number)),
            Item::Resume { from } => assert!(from.0 <= self.next(), "a hole before {from:?}"),
            Item::Skip { from, done } => {
                assert!(from.0 > self.next(), "a gap of nothing");
                (self.start, self.bytes) = (from.0, Vec::new());
                let _ = done.send(());
            }
            Item::Flush => {}
            other => panic!("no source of this kind hands on {other:?}"),
        }
    }

    fn data(&mut self, start: u64, bytes: &[u8]) {
        let next = self.next();
        if start < next {
            let from = (start - self.start) as usize;
            assert_eq!(&self.bytes[from..from + bytes.len()], bytes, "other bytes at {start}");
            self.again += bytes.len();
            return;
        }
        assert_eq!(start, next, "a hole");
        assert!(!self.begun.is_empty(), "log before its segment");
        self.bytes.extend_from_slice(bytes);
        self.pieces += 1;
    }

    pub(crate) fn entries(&self) -> Vec<RawDocumentBuf> {
        let mut walk = Documents::new(&self.bytes);
        let entries = walk.by_ref().map(|found| found.expect("whole entries").1.to_owned());
        let entries = entries.collect();
        assert!(walk.rest().is_empty(), "an entry was cut in two");
        entries
    }

    /// Where a new capture would go on.
    pub(crate) fn end(&self, first: OplogTs) -> Continue {
        let mut last = None;
        let mut open: Option<OpenSegment> = None;
        for found in Documents::new(&self.bytes) {
            let (offset, entry) = found.expect("whole entries");
            let (at, _) = Entry::place(entry).expect("an entry");
            last = Some(Last { at, begin: Offset(self.start + offset as u64) });
            if self.begun.contains(&at.ts) {
                open = Some(OpenSegment { first: at.ts, raw: 0 });
            }
            if let Some(open) = &mut open {
                open.raw += entry.as_bytes().len() as u64;
            }
        }
        Continue { next: Offset(self.next()), last, open, first }
    }
}

/// A capture at work.
pub(crate) struct Follower {
    pub(crate) taken: Arc<Mutex<Taken>>,
    pub(crate) first: OpTime,
    pub(crate) state: Arc<State>,
    reached: watch::Receiver<Option<Reached>>,
    stop: CancellationToken,
    capture: JoinHandle<Result<(), CaptureError>>,
    drain: JoinHandle<()>,
}

impl Follower {
    /// Follows the set of this address from its newest entry on.
    pub(crate) async fn start(url: &str) -> Result<Self> {
        let options = ConnectOptions::parse(url).await?;
        let found = preflight::connect(&options).await?;
        let first = start::first_entry(&found.member).await?;
        found.member.close().await;
        let nothing = Continue { next: Offset(0), last: None, open: None, first: first.ts };
        let taken = Arc::default();
        Ok(Self::go_on(options, found.facts.id, first, nothing, taken))
    }

    /// Another capture takes up where the one before ended.
    pub(crate) async fn again(url: &str, before: &Self) -> Result<Self> {
        let options = ConnectOptions::parse(url).await?;
        let found = preflight::connect(&options).await?;
        found.member.close().await;
        let end = before.taken.lock().expect("nobody panics").end(before.first.ts);
        Ok(Self::go_on(options, found.facts.id, before.first, end, before.taken.clone()))
    }

    /// For a set that is known by another id than its own.
    pub(crate) fn go_on(
        options: ConnectOptions,
        set: String,
        first: OpTime,
        from: Continue,
        taken: Arc<Mutex<Taken>>,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let lag = Arc::new(LagProbe::new(clock.clone(), Arc::new(NoCommits)));
        let health = Arc::new(Health::new(clock.clone()));
        let level = Arc::new(SpoolLevel::new(ByteCount(1 << 30)));
        let state = Arc::new(State::new(Engine::Mongodb, lag, health, level));
        let gaps = taken.clone();
        let setup = CaptureSetup {
            right: None,
            options,
            set,
            clock,
            state: state.clone(),
            on_loss: Arc::new(move |loss| {
                if let Loss::Gap(gap) = loss {
                    gaps.lock().expect("nobody panics").gaps.push(gap);
                }
                Box::pin(std::future::ready(()))
            }),
        };
        let (sender, receiver) = ring();
        let stop = CancellationToken::new();
        let capture = Capture::new(setup, sender, stop.clone(), from);
        let reached = capture.reached();
        let drain = tokio::spawn(drain(receiver, taken.clone()));
        Self { taken, first, state, reached, stop, capture: tokio::spawn(capture.run()), drain }
    }

    /// Waits until everything up to this entry was handed on.
    pub(crate) async fn reach(&mut self, at: OpTime) -> Result<()> {
        let reached =
            self.reached.wait_for(|reached| reached.is_some_and(|reached| reached.at.ts >= at.ts));
        match tokio::time::timeout(Duration::from_secs(120), reached).await {
            Ok(reached) => reached.map(drop).context("the capture has ended"),
            Err(_) => anyhow::bail!("{at} was never reached"),
        }
    }

    /// Ends it, and waits until what it had is taken.
    pub(crate) async fn stop(self) -> Result<Self> {
        self.stop.cancel();
        let Self { taken, first, state, reached, stop, capture, drain } = self;
        capture.await??;
        drain.await?;
        let (capture, drain) = (tokio::spawn(async { Ok(()) }), tokio::spawn(async {}));
        Ok(Self { taken, first, state, reached, stop, capture, drain })
    }

    /// What it ended with, by itself.
    pub(crate) async fn ended(self) -> Result<(), CaptureError> {
        self.capture.await.expect("no panic")
    }

    /// Whether everything taken since the last gap is what this member has, byte for byte. Returns
    /// how many entries there were.
    pub(crate) fn assert_is_oplog_of(&self, node: &Node) -> Result<usize> {
        let taken = self.taken.lock().expect("nobody panics");
        let entries = taken.entries();
        let (first, last) = (entries.first(), entries.last());
        let (first, last) = (first.context("no entry")?, last.context("no entry")?);
        let mut own = node.oplog(first.get_timestamp("ts")?)?;
        let last = last.get_timestamp("ts")?;
        own.retain(|entry| entry.get_timestamp("ts").is_ok_and(|ts| ts <= last));
        let differs = entries.iter().zip(&own).position(|(taken, own)| taken != own);
        ensure!(differs.is_none(), "entry {differs:?} differs");
        ensure!(entries.len() == own.len(), "{} entries, and {}", entries.len(), own.len());
        Ok(entries.len())
    }
}

async fn drain(mut items: RingReceiver, taken: Arc<Mutex<Taken>>) {
    while let Some(item) = items.next().await {
        taken.lock().expect("nobody panics").take(item);
    }
}

/// The newest entry that the member knows a majority to have.
pub(crate) async fn newest(node: &Node) -> Result<OpTime> {
    let options = ConnectOptions::parse(&node.url()).await?;
    let found = preflight::connect(&options).await?;
    let newest = start::newest(&found.member).await?;
    found.member.close().await;
    Ok(newest)
}

/// Waits until as many operations more were done.
pub(crate) fn more(load: &tests::mongod::Load, operations: u64) -> Result<()> {
    let before = load.written().done;
    wait::until(&Deadline::seconds(180), "the load to go on", || {
        Ok((load.written().done >= before + operations).then_some(()))
    })
}
